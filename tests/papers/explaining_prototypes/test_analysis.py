"""The stage that explains prototypes, on a small pushed network and generated species."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.common.species import Species
from datamodules.explaining_prototypes.modifications import Strengths
from datamodules.explaining_prototypes.modified import Modified
from datamodules.explaining_prototypes.parts import Parts
from modules.common.protopnet import Phase, ProtoPNet, Push
from modules.explaining_prototypes.analysis import Explain
from modules.explaining_prototypes.scores import local_scores, look_alikes, normalise, share_apart

STRENGTHS = Strengths(amplitude=1.5, frequency=0.4, texture="blur")


@pytest.fixture
def data() -> Modified:
    source = Parts(Species(20, 2, 1), 16, train_per_class=8, test_per_class=4, rows=True)
    made = Modified(source, 16, STRENGTHS)
    made.setup()
    return made


@pytest.fixture
def pushed(network: Callable[..., ProtoPNet], data: Modified) -> Push:
    """A network for the parts, pushed onto their training pictures."""
    net = network(classes=9, per_class=4)
    stage = Push(9, Phase(9, {}, net))
    for batch in data.source.train_dataloader():
        stage.training_step(batch, 0)
    stage.search.push(net.prototypes)
    return stage


def test_module(module: Explain, data: Modified) -> dict[str, float]:
    options: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, **options)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return metrics


test_module.__test__ = False  # type: ignore[attr-defined] # a helper


def test_metrics_of_a_run(pushed: Push, data: Modified) -> None:
    module = Explain(pushed)
    weights = {name: p.clone() for name, p in pushed.network.state_dict().items()}
    metrics = test_module(module, data)
    assert metrics["test/n"] == data.spec.sizes["test"] == 108
    assert {f"test/{name}" for name in data.names} < set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert {name for name in metrics if name.endswith("_first")} == {
        "test/planted_first",
        "test/hue_first",
        "test/texture_first",
        "test/shape_first",
    }
    planted, _ = module.patches(data)
    raw = torch.as_tensor(module.artifacts()["global"][1])
    shares = [100 * float((raw.argmax(0) == m).double().mean()) for m in planted.unique()]
    assert metrics["test/planted_first_raw_permuted"] == pytest.approx(sum(shares) / 3)
    three = [metrics[f"test/{name}_first"] for name in ("hue", "texture", "shape")]
    assert metrics["test/planted_first"] == pytest.approx(sum(three) / 3)
    assert metrics["test/relocated_gap"] >= 0
    assert all(torch.equal(value, weights[name]) for name, value in pushed.network.state_dict().items())
    assert not list(module.parameters())
    arrays = module.artifacts()
    assert arrays["global"].shape == (2, 5, 36)
    assert set(module.pictures(data)) == {"scores by what a prototype shows", "explained prototypes"}


def test_scores_do_not_depend_on_the_last_layer_or_the_batch(pushed: Push, data: Modified) -> None:
    x = next(iter(data.test_dataloader())).x[:6]
    module = Explain(pushed)
    with torch.no_grad():
        before = module.explain(x)
        pushed.network.last.weight.mul_(-3)
        after = module.explain(x)
        among_others = module.explain(torch.cat([x[:4].flip(0), x[4:]]))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(among_others[0][4:], before[0][4:])
    assert torch.equal(among_others[1][:, 4:], before[1][:, 4:])


def test_identical_versions_score_exactly_nothing(pushed: Push, data: Modified) -> None:
    x = next(iter(data.test_dataloader())).x[:4, :1].expand(-1, 6, -1, -1, -1)
    g, fixed, _ = Explain(pushed).explain(x)
    assert float(g.detach().min()) > 0
    assert not fixed.any()


def test_grey_images_have_no_hue_and_no_saturation(pushed: Push, data: Modified) -> None:
    images = data.source.splits["test"][0]
    grey = images.float().mean(1, keepdim=True).round().to(torch.uint8).expand_as(images).contiguous()
    data.source.splits["test"] = (grey, data.source.splits["test"][1])
    module = Explain(pushed)
    test_module(module, data)
    scores = module.result["global"][1]
    for name in ("hue", "saturation"):
        assert not scores[data.names.index(name)].any()
    for name in ("contrast", "shape", "texture"):
        assert scores[data.names.index(name)].any()


def test_the_place_is_that_of_the_original_image(pushed: Push, data: Modified) -> None:
    x = next(iter(data.test_dataloader())).x[:3]
    module = Explain(pushed)
    with torch.no_grad():
        maps = [module(version) for version in x.unbind(1)]
        g, fixed, _ = module.explain(x)
    for b in range(3):
        for j in (0, 7, 35):
            i, k = divmod(int(maps[0][b, j].argmax()), maps[0].shape[-1])
            expected = [float(maps[0][b, j, i, k] - maps[m][b, j, i, k]) for m in range(1, 6)]
            assert fixed[:, b, j].tolist() == pytest.approx(expected, abs=1e-6)
    assert local_scores(maps[0], torch.stack(maps[1:]))[0].equal(g)


def test_what_each_class_is_about(data: Modified) -> None:
    names = [data.names[m] for m in data.planted().tolist()]
    assert names == ["hue"] * 5 + ["texture"] * 2 + ["shape"] * 2
    assert list(data.spec.classes[4:7]) == ["hue violet", "texture upright", "texture level"]
    whole = Modified(Species(20, 1, 1), 16, STRENGTHS)
    assert set(whole.planted().tolist()) == {-1}


def test_pixels_of_patches(data: Modified) -> None:
    row, place = torch.tensor([3, 40]), torch.tensor([[4, 3], [0, 7]])
    pixels = data.patches(row, place, (8, 8))  # cells of 4 pixels, patches of 16
    images = data.source.splits["train"][0] / 255
    assert torch.equal(pixels[0], images[3, :, 10:26, 6:22])
    assert torch.equal(pixels[1][:, 6:, :10], images[40, :, 0:10, 22:32])
    assert torch.equal(pixels[1][:, 0], pixels[1][:, 6])  # beyond the border its edge goes on


def results(prototypes: int) -> dict[str, Tensor]:
    """Scores as a test would leave them, drawn at random."""
    names = ("global", "relocated", "unweighted")
    return {name: torch.randn(2, 5, prototypes) for name in names} | {"images": torch.tensor([72.0, 36.0])}


def test_two_planted_characteristics_can_be_told_apart(pushed: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five classes are hues and two textures; classes of the outline show nothing that is asked for."""
    source = Parts(Species(20, 2, 1), 16, ["hue", "texture"], train_per_class=8, test_per_class=4)
    data = Modified(source, 16, STRENGTHS)
    data.setup()
    layer = pushed.network.prototypes
    layer.owner.clamp_(max=6)
    layer.row.clamp_(max=55)  # 56 training pictures
    module, result = Explain(pushed), results(len(layer))
    monkeypatch.setattr(Explain, "trainer", SimpleNamespace(datamodule=data))
    values = module.evaluate(result)

    planted, pixels = module.patches(data)
    assert pixels is not None
    assert len(planted.unique()) == 2
    test = result["global"][1]
    assert values["apart"] == share_apart(normalise(test), look_alikes(pixels, planted)) > 0
    assert values["planted_first"] == (values["hue_first"] + values["texture_first"]) / 2


def test_where_nothing_is_planted_nothing_is_first(pushed: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole species: a class is about several things at once."""
    whole = Modified(Species(20, 2, 1), 16, STRENGTHS)
    whole.setup()
    monkeypatch.setattr(Explain, "trainer", SimpleNamespace(datamodule=whole))
    values = Explain(pushed).evaluate(results(len(pushed.network.prototypes)))
    judged = ("planted_first", "planted_first_raw", "planted_first_permuted", "apart", "planted_prototypes")
    assert [values[name] for name in judged] == [0] * 5


def test_the_first_training_image_has_patches_too(pushed: Push, data: Modified) -> None:
    pushed.network.prototypes.row[0] = 0
    planted, pixels = Explain(pushed).patches(data)
    assert pixels is not None
    assert int(planted.min()) >= 0


def test_prototypes_without_a_patch_are_not_judged(network: Callable[..., ProtoPNet], data: Modified) -> None:
    stage = Push(9, Phase(9, {}, network(classes=9)))  # not pushed
    metrics = test_module(Explain(stage), data)
    assert "test/planted_first" not in metrics
    assert "test/agreement" in metrics
