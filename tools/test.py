"""Evaluate a checkpoint: MMPose's own ``tools/test.py``, with its flags (``--help``), for configs of this plug-in."""

from launcher import run

if __name__ == "__main__":
    run("test.py", ("test_dataloader",))
