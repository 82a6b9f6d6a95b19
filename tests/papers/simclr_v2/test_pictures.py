"""The pictures: who is nearest, and which neighbours are framed."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from modules.simclr_v2.pictures import draw_neighbours, draw_views, nearest


def test_nearest_leaves_out_the_image_itself() -> None:
    h = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-0.1, 1.0]]), dim=1)
    assert nearest(h, 1).flatten().tolist() == [1, 0, 3, 2]
    assert nearest(h, 3)[0].tolist() == [1, 2, 3]


def test_neighbours_of_another_class_are_framed() -> None:
    h = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    figure = draw_neighbours(torch.rand(3, 1, 4, 4), h, torch.tensor([0, 0, 1]), ("a", "b"), count=6)
    framed = [axes.spines["top"].get_visible() for axes in figure.axes]
    assert framed == [False, False, True, False, True, True]  # of class a: itself, 1, 2; of class b: itself, 1, 0


def test_views_stand_in_pairs() -> None:
    figure = draw_views(torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4), count=3)
    assert len(figure.axes) == 6
