"""A real MMEngine training of a few iterations, as a script: ``toy_training.py WORK_DIR LAUNCHER [CHECKPOINT]``.

It has what MMPose's recipes put into a checkpoint: Adam, two schedulers, an averaged copy of the weights, logged
scalars, a best checkpoint and a data set whose meta information holds arrays. With the launcher ``none`` it then tries
the checkpoint without ``hdm_mmpose.compat``, and resumes with it. Given a checkpoint, it goes on from there for one epoch;
those in ``data/checkpoints`` are what it wrote under other stacks (``epoch_2.pth``).
"""

from __future__ import annotations

import pickle
import sys

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from hdm_mmpose import compat


class Points(Dataset):
    metainfo = {
        "sigmas": np.full(17, 0.05, dtype=np.float32),
        "keypoint_colors": np.zeros((17, 3), dtype=np.uint8),
        "flip_pairs": [(1, 2)],
    }

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.tensor([float(index)])}


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x: list[torch.Tensor], mode: str = "tensor"):
        points = torch.stack(x)
        error = (self.line(points) - 3 * points).square()
        return {"loss": error.mean()} if mode == "loss" else list(error.detach())


class Mean(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results += [sample.item() for sample in data_samples]

    def compute_metrics(self, results) -> dict:
        return {"error": np.mean(results)}


def build_runner(work_dir: str, launcher: str, epochs: int, checkpoint: str | None = None) -> Runner:
    loader = dict(batch_size=2, num_workers=0, dataset=Points(), sampler=dict(type="DefaultSampler", shuffle=True))
    return Runner(
        model=Line(),
        work_dir=work_dir,
        launcher=launcher,
        resume=epochs > 2,
        load_from=checkpoint,
        experiment_name=f"{epochs}_epochs",
        env_cfg=dict(dist_cfg=dict(backend="nccl")),  # as every MMPose recipe has it
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", by_epoch=False, begin=0, end=4, start_factor=0.1),
            dict(type="MultiStepLR", by_epoch=True, begin=0, end=9, milestones=[5, 7], gamma=0.1),
        ],
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=[Mean()],
        custom_hooks=[dict(type="EMAHook")],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=1, save_best="error", rule="less"),
        ),
        default_scope="mmengine",
    )


def train(work_dir: str, launcher: str, epochs: int, checkpoint: str | None = None) -> None:
    runner = build_runner(work_dir, launcher, epochs, checkpoint)
    runner.train()
    weights = torch.nn.utils.parameters_to_vector(runner.model.parameters())
    print(f"rank {runner.rank} of {runner.world_size}: epoch {runner.epoch}, weights {weights.tolist()}")


def main(work_dir: str, launcher: str, checkpoint: str | None = None) -> None:
    if checkpoint is not None:
        compat.apply()
        train(work_dir, launcher, 3, checkpoint)
        return
    if launcher != "none":
        compat.apply()
        train(work_dir, launcher, epochs=2)
        return
    train(work_dir, launcher, epochs=2)
    try:
        torch.load(f"{work_dir}/epoch_2.pth")
        print("loaded without help")
    except pickle.UnpicklingError:
        print("refused without help")
    compat.apply()
    train(work_dir, launcher, epochs=3)


if __name__ == "__main__":
    main(*sys.argv[1:])
