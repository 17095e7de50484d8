"""The parts of ``tools/benchmarks/transport.py``: ``accuracy``, ``bias``, ``speed`` and the ``peers`` that it is compared with."""
