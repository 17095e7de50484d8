"""tools/analysis_tools/draw_how_it_works.py: what the README's picture shows is what the package computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.analysis_tools import draw_how_it_works as tool

HEIGHT, WIDTH = tool.SIZE


@pytest.fixture(scope='module')
def story() -> tool.Story:
    return tool.tell()


def distance() -> torch.Tensor:
    """(H, W) of each cell to the dot."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    return torch.hypot(columns - tool.DOT[0], rows - tool.DOT[1])


def test_plan_moves_the_map_to_the_dot(story: tool.Story) -> None:
    torch.testing.assert_close(story.plan.sum(0), story.suppliers)
    torch.testing.assert_close(story.plan.sum((1, 2)), story.mass)
    torch.testing.assert_close(story.mass @ story.position, torch.tensor(tool.DOT, dtype=torch.float64))
    moved = sum(float((plan * torch.cdist(cells(), place[None])[:, 0].view(HEIGHT, WIDTH)).sum())
                for plan, place in zip(story.plan, story.position))
    assert story.cost == pytest.approx(moved)


def cells() -> torch.Tensor:
    """(H W, 2) x, y."""
    rows, columns = torch.meshgrid(*(torch.arange(count, dtype=torch.float64) for count in tool.SIZE), indexing='ij')
    return torch.stack([columns, rows], -1).flatten(0, 1)


def test_titles_tell_the_truth(story: tool.Story) -> None:
    """EMD prefers whatever is clearly nearer; MSE has nothing to say halfway."""
    near = distance().round()
    means = torch.stack([story.emd_step[near == ring].mean() for ring in near.unique()])
    assert (means.diff() < 0).all()
    halfway = [round((dot + blob) / 2) for dot, blob in zip(tool.DOT, tool.BLOB)]
    between = float(story.mse_step[halfway[1], halfway[0]].abs() / story.mse_step.abs().max())
    assert between < 0.05
    assert story.mse_step[round(tool.BLOB[1]), round(tool.BLOB[0])] < 0 < story.mse_step[round(tool.DOT[1]), round(tool.DOT[0])]


def test_picture_is_written(story: tool.Story, tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason='drawing needs the bench extra')
    tool.draw_panels(story, tmp_path / 'picture.png')
    from matplotlib.image import imread

    picture = imread(tmp_path / 'picture.png')
    assert picture.shape[1] == tool.PIXELS and picture[..., :3].std() > 0.05
