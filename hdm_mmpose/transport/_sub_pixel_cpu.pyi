INTERFACE: int

def read_heatmaps(maps: int, out: int, count: int, height: int, width: int, threads: int, rule: int, sharpness: float,
                  blur: float, flat: float, taper: float, reach: float, steps: int) -> None:
    """Read contiguous float32 maps (count, height, width) at the address ``maps``.

    Writes to ``out`` (count, 5) float32: dot's x and y in cells, share, peak, and 1 where the map was read.
    ``blur`` to ``steps`` are those of ``blurred_mode``; ``rule`` is a number of ``sub_pixel_cpu.RULES``.
    """
