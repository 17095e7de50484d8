"""A project on surgical tools: a hook of its own that looks into the head."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmpose.registry import HOOKS


@HOOKS.register_module()
class ToolHook(Hook):
    steps = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        type(self).steps += 1
        runner.message_hub.update_scalar('train/largest_weight', float(runner.model.head.final_layer.weight.abs().max()))
