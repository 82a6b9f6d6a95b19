"""Noise that belongs to an image's number, and rows of images."""

from __future__ import annotations

import numpy as np
import torch

from modules.vit_vqgan.pixels import grid, uniforms


def test_noise_belongs_to_an_images_number() -> None:
    numbers = torch.tensor([5, 0, 17])
    assert torch.equal(uniforms(3, numbers, 4)[1], uniforms(3, torch.tensor([0]), 4)[0])
    assert torch.equal(uniforms(3, numbers, 4), uniforms(3, numbers, 6)[:, :4])
    assert not torch.equal(uniforms(3, numbers, 4), uniforms(4, numbers, 4))
    many = uniforms(0, torch.arange(500), 8)
    assert abs(float(many.mean()) - 0.5) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([many[:-1, 0], many[1:, 0]]))[0, 1])) < 0.15  # neighbours are unrelated


def test_a_grid_shows_every_image() -> None:
    figure = grid([torch.zeros(3, 1, 4, 4), torch.ones(2, 1, 4, 4)], ["a", "b"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (12, 18)
    assert (shown[:4] == 0).sum() == 3 * 16
