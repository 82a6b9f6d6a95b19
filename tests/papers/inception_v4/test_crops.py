"""Many crops of an image: where they are cut, and that probabilities are averaged."""

from __future__ import annotations

import pytest
import torch

from modules.inception_v4.crops import MultiCrop, views
from modules.inception_v4.module import InceptionClassifier
from tests.papers.inception_v4.helpers import batch, small


@pytest.mark.parametrize(("shape", "turned"), [((60, 45), False), ((45, 60), True), ((45, 45), False)])
def test_number_of_views(shape: tuple[int, int], turned: bool) -> None:
    """Check 10: 144 and 12, all of the asked size."""
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    many = list(views(x, 28, [32, 36, 40, 44], 3))
    few = list(views(x, 28, [32], 1))
    assert (len(many), len(few)) == (144, 12)
    assert {tuple(view.shape) for view in many + few} == {(2, 3, 28, 28)}
    assert all(torch.equal(b, a.flip(-1)) for a, b in zip(many[::2], many[1::2], strict=True))


def test_views_are_cut_where_they_should() -> None:
    """Each pixel holds its row or its column; nothing is resized where the scale is the shorter side."""
    rows = torch.arange(40.0).view(40, 1).expand(40, 60)
    columns = torch.arange(60.0).expand(40, 60)
    crops = list(views(torch.stack([rows, columns])[None], 30, [40], 3))[::2]
    corners = [(int(v[0, 0, 0, 0]), int(v[0, 1, 0, 0])) for v in crops]
    for square, left in enumerate((0, 10, 20)):
        expected = [(0, left), (0, left + 10), (10, left), (10, left + 10), (5, left + 5)]
        assert corners[6 * square : 6 * square + 5] == expected
    whole = crops[5][0]  # the left square, resized from 40 to 30
    assert float(whole[0].mean()) == pytest.approx(19.5, abs=0.01)
    assert float(whole[1].mean()) == pytest.approx(19.5, abs=0.01)
    (one,) = views(torch.stack([rows, columns])[None], 30, [40], 0)
    assert torch.equal(one, crops[10])  # the centre of the middle square, unmirrored
    with pytest.raises(ValueError, match="scales from 30"):
        next(views(torch.zeros(1, 1, 40, 40), 30, [28], 3))
    with pytest.raises(ValueError, match="squares=2"):
        next(views(torch.zeros(1, 1, 40, 40), 30, [40], 2))


def test_identical_views_count_as_one_and_probabilities_are_averaged() -> None:
    """Check 10: a constant image has 144 equal views; the average is of probabilities, not of logits."""
    members = [InceptionClassifier(small(seed=s), 10).eval() for s in (0, 1)]
    for member in members:
        member.network.classifier.weight.data.mul_(20)
    flat = torch.full((3, 1, 16, 16), 0.7)
    one = MultiCrop(members[:1], ["only"], 10, 12, [12, 13, 14, 16], 3).eval()
    assert torch.allclose(one(flat).exp(), members[0](flat[..., :12, :12]).softmax(-1), atol=1e-5)
    x = torch.rand(4, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    both = MultiCrop(members, ["a", "b"], 10, 12, [14], 1).eval()
    logits = torch.stack([m(view) for view in views(x, 12, [14], 1) for m in members])  # (24, 4, 10)
    assert torch.allclose(both(x).exp(), logits.softmax(-1).mean(0), atol=1e-6)
    assert not torch.allclose(both(x).exp(), logits.mean(0).softmax(-1), atol=1e-3)
    assert torch.allclose(both.probabilities(x)[1], logits[1::2].softmax(-1).mean(0), atol=1e-6)
    second = MultiCrop(members, ["a", "b"], 10, 12, [14], 1, ensemble=["b"]).eval()
    assert torch.allclose(second(x).exp(), both.probabilities(x)[1], atol=1e-6)
    with pytest.raises(ValueError, match="2 members"):
        MultiCrop(members, ["a"], 10, 12, [14], 1)
    with pytest.raises(ValueError, match="expected some of a, b"):
        MultiCrop(members, ["a", "b"], 10, 12, [14], 1, ensemble=["c"])


def test_crops_log_each_network_and_all_together() -> None:
    members = [InceptionClassifier(small(seed=s), 10).eval() for s in (0, 1)]
    module = MultiCrop(members, ["a", "b"], 10, 12, [12], 1).eval()
    logged: dict[str, float] = {}
    module.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[assignment, misc]
    x, y = batch(40)
    module.test_step((x, y), 0)
    module.on_test_epoch_end()
    probabilities = module.probabilities(x)
    for name, one in zip(("a_", "b_", ""), (*probabilities, probabilities.mean(0)), strict=True):
        assert logged[f"test/{name}top1"] == pytest.approx(100 * float((one.argmax(-1) == y).float().mean()), abs=1e-4)
    assert logged["test/n"] == 40
    assert set(module.member_metrics.values()) <= set(module.modules())  # they move with the module
    assert module.by_count.shape == (12, 2)
    first = torch.stack([member(next(views(x, 12, [12], 1))) for member in members]).argmax(-1)
    assert module.by_count[0].tolist() == pytest.approx([100 * float((one == y).float().mean()) for one in first])
    assert module.by_count[-1].tolist() == pytest.approx([logged["test/a_top1"], logged["test/b_top1"]], abs=1e-4)
