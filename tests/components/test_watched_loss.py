"""WatchedLoss: of several losses the one that is called."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hdm_mmpose.components import EMDHeatmapLoss, TransportMonitorHook
from hdm_mmpose.components.watched_loss import WatchedLoss


class Head(nn.Module):
    def __init__(self, losses: int = 1) -> None:
        super().__init__()
        self.loss_module = nn.ModuleList(EMDHeatmapLoss() for _ in range(losses))


class Estimator(nn.Module):
    def __init__(self, losses: int = 1) -> None:
        super().__init__()
        self.head = Head(losses)


class Distiller(nn.Module):
    """Student and teacher, the teacher after the student."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture, self.teacher = Estimator(), Estimator()


class Log(list):
    warning = list.append


def call(loss: EMDHeatmapLoss) -> EMDHeatmapLoss:
    loss(torch.randn(2, 3, 9, 7, requires_grad=True), torch.rand(2, 3, 2) * 6)
    return loss


def test_of_student_and_teacher_the_one_that_is_called() -> None:
    model, watched, log = Distiller(), WatchedLoss(), Log()
    watched.start(model)
    student = call(model.architecture.head.loss_module[0])
    assert watched.called(log) is student and not log
    watched.stop()
    assert student.last_step is None and not student.keep_last_step


def test_of_several_stages_the_last() -> None:
    model, watched = Estimator(3), WatchedLoss()
    watched.start(model)
    for loss in model.head.loss_module:
        call(loss)
    assert watched.called(Log()) is model.head.loss_module[2]


def test_an_argument_names_the_head() -> None:
    model, watched = Distiller(), WatchedLoss('architecture.head')
    watched.start(model)
    for head in (model.architecture.head, model.teacher.head):
        call(head.loss_module[0])
    assert watched.called(Log()) is model.architecture.head.loss_module[0]
    with pytest.raises(ValueError, match=r"head must be .* \['architecture.head', 'teacher.head'\], got 'student.head'"):
        WatchedLoss('student.head').start(model)
    with pytest.raises(ValueError, match='the model has none'):
        WatchedLoss().start(nn.Linear(1, 1))


def test_that_no_step_came_is_said_once() -> None:
    model, watched, log = Distiller(), WatchedLoss('teacher.head'), Log()
    watched.start(model)
    call(model.architecture.head.loss_module[0])
    assert watched.called(log) is None and watched.called(log) is None
    assert len(log) == 1 and 'head=' in log[0]


def test_the_hook_logs_the_student() -> None:
    model, hook, logged = Distiller(), TransportMonitorHook(interval=1), {}
    hub = SimpleNamespace(update_scalar=lambda name, value: logged.update({name: value}))
    runner = SimpleNamespace(model=model, hooks=[], message_hub=hub, logger=Log(), train_dataloader=range(9))
    hook.before_train(runner)
    call(model.architecture.head.loss_module[0])
    hook.after_train_iter(runner, 0, dict(inputs=torch.zeros(2, 3, 36, 28)))
    assert set(logged) == {'train/transport_px', 'train/dead_maps', 'train/marginal_error'} and not runner.logger
