"""LabelPooling against hand-computed values, the map itself, and torchvision's RoIAlign of the dense map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from modules.relabel.pooling import cell_weights, keep_best, pool_labels

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def halves(classes: int = 1000) -> Tensor:
    """A 15x15 map: class 0 has logit 10 in rows 0 to 7, class 1 in rows 8 to 14. (1, 2, 1, 15, 15)."""
    numbers = torch.zeros(15, 15)
    numbers[8:] = 1
    return torch.stack([torch.full((15, 15), 10.0), numbers])[None, :, None]


def dense(maps: Tensor, classes: int) -> Tensor:
    """(B, C, H, W) with 0 where a class was not kept."""
    scores, numbers = maps.unbind(1)
    return scores.new_zeros(len(maps), classes, *maps.shape[-2:]).scatter(1, numbers.long(), scores)


def test_boxes_are_x_before_y() -> None:
    """The box x in [0, 1], y in [0, 0.4] lies in class 0's rows; with coordinates swapped it spans both classes'."""
    box = torch.tensor([[0.0, 0.0, 1.0, 0.4]])
    right = pool_labels(halves(), box, 1000)
    swapped = pool_labels(halves(), box, 1000, "yxyx")
    assert right[0, :2].tolist() == pytest.approx([10, 0], abs=1e-4)
    assert swapped[0, :2].tolist() == pytest.approx([5.333, 4.667], abs=1e-3)
    assert right.softmax(1)[0, :2].tolist() == pytest.approx([0.9566, 4.3e-5], abs=1e-4)
    assert swapped.softmax(1)[0, :2].tolist() == pytest.approx([0.158, 0.081], abs=1e-3)
    assert float(right.softmax(1)[0, 1]) == pytest.approx(4.3e-5, rel=0.02)


def test_the_whole_image_is_the_mean_over_cells() -> None:
    label_map = torch.randn(3, 7, 15, 15)
    pooled = pool_labels(keep_best(label_map, 7), WHOLE.expand(3, 4), 7)
    assert torch.allclose(pooled, label_map.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("kept", [2, 6])
def test_weights_of_cells_are_roialign_of_the_dense_map(kept: int) -> None:
    maps = keep_best(torch.randn(5, 6, 4, 7), kept)
    corner = torch.rand(5, 2) * 0.6
    boxes = torch.cat([corner, corner + 0.05 + 0.35 * torch.rand(5, 2)], 1)
    scale = torch.tensor([7.0, 4.0, 7.0, 4.0])
    rois = torch.cat([torch.arange(5.0)[:, None], boxes * scale - 0.5], 1)
    expected = roi_align(dense(maps, 6), rois, output_size=1, aligned=False)[:, :, 0, 0]
    assert torch.allclose(pool_labels(maps, boxes, 6), expected, atol=1e-5)
    assert torch.allclose(cell_weights(boxes, 4, 7).sum((1, 2)), torch.ones(5), atol=1e-5)


def test_half_a_cell_by_hand_is_aligned_roialign_until_boxes_are_smaller_than_a_cell() -> None:
    label_map = torch.randn(1, 3, 15, 15)
    maps = keep_best(label_map, 3)
    for box, same in (([0.1, 0.2, 0.7, 0.9], True), ([0.41, 0.41, 0.44, 0.44], False)):
        boxes = torch.tensor([box])
        rois = torch.cat([torch.zeros(1, 1), boxes * 15], 1)
        aligned = roi_align(label_map, rois, output_size=1, aligned=True)[:, :, 0, 0]
        assert torch.allclose(pool_labels(maps, boxes, 3), aligned, atol=1e-5) is same


def test_a_constant_map_gives_every_crop_the_same_label() -> None:
    maps = keep_best(torch.randn(1, 8, 1, 1).expand(1, 8, 15, 15).contiguous(), 5)
    corner = torch.rand(20, 2) / 2
    boxes = torch.cat([corner, corner + 0.1 + 0.4 * torch.rand(20, 2)], 1)
    labels = pool_labels(maps.expand(20, -1, -1, -1, -1), boxes, 8).softmax(1)
    assert torch.allclose(labels, labels[:1].expand_as(labels), atol=1e-5)
    swapped = pool_labels(maps.expand(20, -1, -1, -1, -1), boxes, 8, "yxyx").softmax(1)
    assert torch.allclose(swapped, labels, atol=1e-5)


def test_classes_that_were_not_kept_have_logit_zero() -> None:
    """With one logit z among 1000 classes the label is e^z / (e^z + 999): before the softmax, and not -inf."""
    for z, expected in ((10.0, 0.957), (8.0, 0.749), (5.0, 0.129)):
        maps = torch.stack([torch.full((1, 1, 3, 3), z), torch.full((1, 1, 3, 3), 7.0)], 1)
        label = pool_labels(maps, WHOLE, 1000).softmax(1)
        assert float(label[0, 7]) == pytest.approx(expected, abs=1e-3)
        assert float(label.sum()) == pytest.approx(1, abs=1e-5)
    for scores, shares in (((10.0, 10.0), (0.4889, 0.4889)), ((10.0, 9.0), (0.7076, 0.2603))):
        maps = torch.stack([torch.tensor(scores), torch.tensor([3.0, 4.0])])[None, :, :, None, None]
        label = pool_labels(maps, WHOLE, 1000).softmax(1)
        assert label[0, 3:5].tolist() == pytest.approx(shares, abs=1e-4)


def test_stored_maps_have_falling_scores_and_whole_class_numbers() -> None:
    maps = keep_best(torch.randn(2, 1000, 15, 15), 5)
    scores, numbers = maps.unbind(1)
    assert maps.shape == (2, 2, 5, 15, 15)
    assert maps[0].numpy().nbytes == 9000
    assert torch.equal(numbers, numbers.round())
    assert 0 <= float(numbers.min()) <= float(numbers.max()) <= 999
    assert bool((scores.diff(dim=1) <= 0).all())


def test_logits_are_pooled_and_not_probabilities() -> None:
    """A sure cell and an unsure one: the mean of logits and the mean of probabilities differ."""
    label_map = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])[None]  # (1, 2, 1, 2)
    label = pool_labels(keep_best(label_map, 2), WHOLE, 2).softmax(1)
    assert torch.allclose(label, torch.tensor([[2.0, 0.5]]).softmax(1), atol=1e-6)
    assert not torch.allclose(label, label_map.softmax(1).mean((2, 3)), atol=0.02)
