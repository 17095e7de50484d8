"""Train a model: MMPose's own ``tools/train.py``, with its flags (``--help``), for configs that use this plug-in."""

from launcher import run

if __name__ == "__main__":
    run("train.py", ("train_dataloader", "val_dataloader"))
