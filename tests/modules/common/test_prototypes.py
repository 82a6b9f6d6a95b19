"""Prototypes against hand-computed values and a plain loop; the push, its place and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from modules.common.distances import squared_distances
from modules.common.prototypes import (
    NearestPatches,
    PrototypeLayer,
    activation_boxes,
    class_weights,
    cosine_map,
    distance_map,
    draw_prototypes,
    log_similarity,
    own_and_other,
    projection_map,
    strongest,
    wrong_class_l1,
)


def test_log_similarity_by_hand() -> None:
    d = torch.tensor([0.0, 0.5, 1.0, 10.0, 128.0])
    expected = [9.21034, 1.098412, 0.693047, 0.095300, 0.007781]
    assert log_similarity(d).tolist() == pytest.approx(expected, rel=1e-4)
    assert float(log_similarity(d)[0]) == pytest.approx(math.log(10_000), rel=1e-6)


@pytest.mark.parametrize("patch", [1, 2])
def test_maps_are_those_of_every_patch(patch: int) -> None:
    z = torch.rand(3, 5, 4, 6)
    p = torch.rand(7, 5, patch, patch) - 0.5
    windows = z.unfold(2, patch, 1).unfold(3, patch, 1)  # (B, D, H', W', h, w)
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (B H' W', D h w)
    shape = (3, 5 - patch, 7 - patch, 7)

    distances = squared_distances(rows, p.flatten(1)).view(shape).permute(0, 3, 1, 2)
    assert torch.allclose(distance_map(z, p), distances, atol=1e-5)
    dots = (rows @ p.flatten(1).T).view(shape).permute(0, 3, 1, 2)
    lengths = p.flatten(1).norm(dim=1).view(1, -1, 1, 1)
    assert torch.allclose(projection_map(z, p), dots / lengths, atol=1e-5)
    cosines = torch.cosine_similarity(rows[:, None], p.flatten(1)[None], dim=-1).view(shape).permute(0, 3, 1, 2)
    assert torch.allclose(cosine_map(z, p), cosines, atol=1e-5)


def test_what_scaling_changes() -> None:
    z = torch.rand(2, 5, 3, 3)
    p = torch.rand(4, 5, 1, 1)
    assert torch.allclose(cosine_map(3 * z, 0.2 * p), cosine_map(z, p), atol=1e-6)
    assert torch.allclose(projection_map(z, 0.2 * p), projection_map(z, p), atol=1e-6)
    assert torch.allclose(projection_map(3 * z, p), 3 * projection_map(z, p), atol=1e-5)


def test_distances_are_never_negative_and_have_a_gradient() -> None:
    z = torch.rand(2, 64, 3, 3)
    p = z[0, :, :1, :1][None].clone().requires_grad_()
    d = distance_map(z, p)
    assert float(d.detach().min()) >= 0
    assert float(d.detach()[0, 0, 0, 0]) < 1e-4
    log_similarity(d).sum().backward()
    assert p.grad is not None
    assert bool(p.grad.isfinite().all())


def test_strongest_and_its_place() -> None:
    maps = torch.zeros(1, 2, 3, 4)
    maps[0, 0, 2, 1] = 5.0
    maps[0, 1, 1, 3] = maps[0, 1, 2, 0] = 2.0  # the first of two
    values, places = strongest(maps)
    assert values.tolist() == [[5.0, 2.0]]
    assert places.tolist() == [[[2, 1], [1, 3]]]


def test_own_and_other_by_hand() -> None:
    d = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    own, other = own_and_other(-d, torch.tensor([0, 0, 1, 1]), torch.tensor([0]))
    assert (float(-own), float(-other)) == (1.0, 3.0)
    own, other = own_and_other(d, torch.tensor([0, 0, 1, 1]), torch.tensor([1]))
    assert (float(own), float(other)) == (4.0, 2.0)


def test_class_weights() -> None:
    layer = PrototypeLayer(200, 10, 4)
    assert layer.owner.tolist() == [j // 10 for j in range(2000)]
    weights = class_weights(layer.owner, 200)
    assert weights.shape == (200, 2000)
    assert float(weights.abs().sum()) == 201_000
    assert float(weights[weights < 0].abs().sum()) == 199_000


def test_a_layer_starts_as_released_and_says_what_it_is() -> None:
    layer = PrototypeLayer(40, 5, 16)
    assert layer.vectors.shape == (200, 16, 1, 1)
    assert 0 <= float(layer.vectors.min()) < 0.05 < 0.95 < float(layer.vectors.max()) < 1
    z = torch.rand(2, 16, 3, 3)
    assert torch.equal(layer(z), log_similarity(layer.distances(z)))
    for name, function in (("cosine", cosine_map), ("projection", projection_map)):
        other = PrototypeLayer(2, 3, 16, name)
        assert torch.equal(other(z), function(z, other.vectors))
        other.normalise()
        assert torch.allclose(other.vectors.flatten(1).norm(dim=1), torch.ones(6))
    with pytest.raises(ValueError, match="expected one of log, cosine, projection"):
        PrototypeLayer(2, 3, 16, "l2")


@pytest.mark.parametrize("similarity", ["log", "cosine", "projection"])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_push_takes_the_nearest_patch_of_the_class(similarity: str, patch: int) -> None:
    layer = PrototypeLayer(3, 2, 6, similarity, patch)
    z = torch.rand(12, 6, 4, 5)
    y = torch.arange(12) % 3
    before = layer(z)  # (12, 6, H', W')

    search = NearestPatches(layer)
    for rows in torch.arange(12).split(5):
        search.update(layer, z[rows], y[rows], rows)
    search.push(layer)

    after = layer(z)
    for j, owner in enumerate(layer.owner.tolist()):
        row, (i, k) = int(layer.row[j]), layer.place[j].tolist()
        assert int(y[row]) == owner
        assert float(before[row, j, i, k]) == float(before[y == owner][:, j].max())
        source = z[row, :, i : i + patch, k : k + patch]
        if similarity == "log":
            assert torch.equal(layer.vectors[j], source)
            assert float(layer.distances(z)[row, j, i, k]) < 1e-5
        else:
            assert torch.allclose(layer.vectors[j], source / source.norm(), atol=1e-6)
        if similarity != "projection":
            best = {"log": math.log(10_000), "cosine": 1.0}[similarity]
            assert float(after[row, j, i, k]) == pytest.approx(best, abs=0.1)

    if similarity != "projection":  # a longer patch may project further than the patch itself
        again = NearestPatches(layer)
        again.update(layer, z, y, torch.arange(12))
        vectors = layer.vectors.detach().clone()
        again.push(layer)
        assert torch.allclose(layer.vectors, vectors, atol=1e-6)


def test_classes_without_images_keep_their_prototypes() -> None:
    layer = PrototypeLayer(2, 1, 4)
    start = layer.vectors.detach().clone()
    search = NearestPatches(layer)
    search.update(layer, torch.rand(3, 4, 2, 2), torch.zeros(3, dtype=torch.long), torch.arange(3))
    search.push(layer)
    assert torch.equal(layer.vectors[1], start[1])
    assert not torch.equal(layer.vectors[0], start[0])
    assert int(layer.row[1]) == -1


def test_a_search_is_resumed_from_its_state() -> None:
    layer = PrototypeLayer(2, 2, 4)
    z = torch.rand(8, 4, 3, 3)
    y = torch.arange(8) % 2
    whole, half = NearestPatches(layer), NearestPatches(layer)
    whole.update(layer, z, y, torch.arange(8))
    half.update(layer, z[:4], y[:4], torch.arange(4))
    resumed = NearestPatches(layer)
    resumed.load_state_dict(half.state_dict())
    resumed.update(layer, z[4:], y[4:], torch.arange(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))


def test_boxes_of_high_activation() -> None:
    maps = torch.zeros(2, 8, 8)
    maps[0, 1, 6] = 1.0  # a peak in cell row 1, column 6: pixels 8 to 15 and 48 to 55
    maps[1] = 1.0  # flat: the whole image
    boxes = activation_boxes(maps, 64)
    x1, y1, x2, y2 = boxes[0].tolist()
    assert (x1 + x2) / 2 == pytest.approx(52, abs=1)
    assert (y1 + y2) / 2 == pytest.approx(12, abs=1)
    assert (x2 - x1) * (y2 - y1) >= 0.05 * 64 * 64
    assert boxes[1].tolist() == [0, 0, 64, 64]


def test_pictures_have_a_box_for_each_prototype() -> None:
    figure = draw_prototypes(torch.rand(3, 3, 16, 16), torch.tensor([[1, 2, 5, 9]] * 3), ["a", "b", "c"], columns=2)
    assert [len(axis.patches) for axis in figure.axes] == [1, 1, 1, 0]
    x, y = figure.axes[0].patches[0].get_xy()
    assert (x, y) == (0.5, 1.5)


def test_wrong_classes_are_all_but_the_prototypes_own() -> None:
    weight = torch.tensor([[1.0, -2.0, 4.0], [-8.0, 16.0, -32.0]])
    assert float(wrong_class_l1(weight, torch.tensor([0, 0, 1]))) == 4 + 8 + 16
    owner = torch.tensor([0, 0, 1], device="meta")
    assert wrong_class_l1(weight.to("meta"), owner).device.type == "meta"
    assert class_weights(owner, 2).shape == (2, 3)


def test_own_and_other_are_each_images() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0], [7.0, 2.0, 4.0]])
    own, other = own_and_other(scores, torch.tensor([0, 1, 0]), torch.tensor([0, 1]))
    assert (own.tolist(), other.tolist()) == ([3.0, 2.0], [5.0, 7.0])
