"""Add-ons and coalitions: what an add-on changes at its start, what is left without it, one noise for all."""

from __future__ import annotations

import copy
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.common.diffusion import RowNoise
from modules.copyscope.adapters import ControlBranch, LoRA, relief
from modules.copyscope.addons import ControlTraining, LoRATraining
from modules.copyscope.base import Base, leave_out
from modules.copyscope.workflow import CLASS_WORD, CONTROL, LORA, STYLE_WORD, Sampling, Workflow, coalition_name

Batch = namedtuple("Batch", "x y style")
T = torch.tensor([3, 50])
WORDS = (torch.tensor([1, 7]), torch.tensor([0, 2]))


def images() -> Tensor:
    return 2 * torch.rand(2, 3, 8, 8) - 1


def test_velocity_and_noise_are_the_same_prediction(base: Base) -> None:
    x, eps = images(), torch.randn(2, 3, 8, 8)
    noisy = base.noise.diffuse(x, T, eps)
    v = base.noise.at("signal", T) * eps - base.noise.at("noise", T) * x
    base.velocity = lambda *_, **__: v  # type: ignore[method-assign]
    assert torch.allclose(base.predict(noisy, T), eps, atol=1e-5)
    assert torch.allclose(base.noise.clean(noisy, T, base.predict(noisy, T)), x, atol=1e-4)


def test_words_are_left_out_at_random() -> None:
    words = torch.arange(1000) % 10
    dropped = leave_out(words, 10, 0.3)
    assert 0.25 < float((dropped == 10).float().mean()) < 0.35
    assert bool(((dropped == words) | (dropped == 10)).all())
    assert torch.equal(leave_out(words, 10, 0.0), words)


def test_a_new_lora_changes_nothing(base: Base) -> None:
    lora = LoRATraining(base, rank=2)
    x = images()
    expected = base.averaged()(x, T, *WORDS)
    assert torch.allclose(lora(x, T, *WORDS), expected, atol=1e-6)
    assert torch.equal(lora.velocity(x, T, y=WORDS[0], style=WORDS[1]), lora(x, T, *WORDS))


def test_lora_has_r_times_rows_and_columns_of_each_layer(base: Base) -> None:
    layers = [m for m in base.network.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d)]
    expected = sum(3 * (len(layer.weight) + layer.weight[0].numel()) for layer in layers)
    lora = LoRA(base.network, rank=3)
    assert sum(p.numel() for p in lora.parameters()) == expected
    weights = dict(base.network.named_parameters())
    for down in lora.down.values():
        torch.nn.init.ones_(down)
    for up in lora.up.values():
        torch.nn.init.ones_(up)
    changed = lora.changed(weights)
    name = next(iter(lora.names))
    assert torch.allclose(changed[name], weights[name] + 3)  # B A of ones is the rank
    assert changed["label_emb.weight"] is weights["label_emb.weight"]


@pytest.mark.parametrize("kind", ["lora", "control"])
def test_only_the_add_on_learns(kind: str, base: Base) -> None:
    addon: Any = LoRATraining(base, rank=2) if kind == "lora" else ControlTraining(base)
    addon.track = lambda *_, **__: None
    addon.training_step(Batch(images(), *WORDS), 0).backward()
    assert all(p.grad is None for p in addon.base.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in addon.network.parameters())
    assert {id(p) for p in addon.parameters()} == {id(p) for p in addon.network.parameters()}


def test_a_new_control_branch_changes_nothing(base: Base) -> None:
    branch = ControlBranch(base.averaged())
    x = images()
    added = branch(x, T, *WORDS, relief(x))
    assert set(added) == set(range(1, base.network.middle + 1))
    assert all(not bool(value.any()) for value in added.values())


def test_a_relief_does_not_tell_the_palette() -> None:
    x = torch.full((1, 3, 8, 8), -0.5)
    x[..., 3:5, 3:5] = 0.5
    x[..., 5, 5] = 0.0
    raised = relief(x)
    assert raised[0, 0, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert float(raised[0, 0, 5, 5]) == 0.5
    assert torch.allclose(relief(-0.3 * x), raised)


def workflow(base: Base, control: ControlTraining, lora: LoRATraining | None, **options: Any) -> Workflow:
    sampling = Sampling(steps=3, guidance=options.pop("guidance", 1.0), seed=5)
    return Workflow(base, control, lora, sampling=sampling, **options).eval()


def make(flow: Workflow, coalition: int, x: Tensor, y: Tensor) -> Tensor:
    _, start = RowNoise(0)(x)
    return flow.sample(start, steps=3, coalition=coalition, y=y, hint=relief(x))


def test_the_empty_coalition_is_the_base_without_words(
    base: Base, control: ControlTraining, lora: LoRATraining
) -> None:
    x, y = images(), WORDS[0]
    _, start = RowNoise(0)(x)
    expected = base.eval().sample(start, steps=3, y=torch.full((2,), 10), style=torch.full((2,), 4))
    for given in (lora, None):
        assert torch.allclose(make(workflow(base, control, given), 0, x, y), expected, atol=1e-5)


def test_each_player_changes_the_images(base: Base, control: ControlTraining, lora: LoRATraining) -> None:
    x, y = images(), WORDS[0]
    flow = workflow(base, control, lora)
    alone = [make(flow, coalition, x, y) for coalition in (0, LORA, CONTROL, CLASS_WORD, STYLE_WORD)]
    for i, first in enumerate(alone):
        for second in alone[i + 1 :]:
            assert not torch.allclose(first, second, atol=1e-4)


def test_a_component_that_never_changes_the_images_gets_nothing(base: Base, control: ControlTraining) -> None:
    """Axiom check 5 on real images: a LoRA that was not trained is a dummy."""
    x, y = images(), WORDS[0]
    flow = workflow(base, control, LoRATraining(base, rank=2))
    for coalition in (0, CONTROL | STYLE_WORD):
        assert torch.allclose(make(flow, coalition, x, y), make(flow, coalition | LORA, x, y), atol=1e-4)


def run_epoch(
    flow: Workflow, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[tuple[int, Tensor]]]:
    """A test epoch in two batches: what later stages are fed with, and from which noise each coalition started."""
    starts: list[tuple[int, Tensor]] = []
    sample = flow.sample

    def follow(start: Tensor, **options: Any) -> Tensor:
        starts.append((options["coalition"], start.clone()))
        return sample(start, **options)

    monkeypatch.setattr(flow, "sample", follow)
    monkeypatch.setattr(flow, "log_dict", lambda values: None)
    flow._trainer = SimpleNamespace(datamodule=SimpleNamespace())  # type: ignore[assignment]
    with torch.no_grad():
        flow.on_test_epoch_start()
        for number, (images, labels) in enumerate(zip(x.split(2), y.split(2), strict=True)):
            flow.test_step(Batch(images, labels, None), number)
        flow.on_test_epoch_end()
    return flow.artifacts(), starts


def test_all_coalitions_of_a_test_start_from_the_same_noise(
    base: Base, control: ControlTraining, lora: LoRATraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages with and without a LoRA, too; each row has noise of its own."""
    x, y = 2 * torch.rand(4, 3, 8, 8) - 1, torch.tensor([1, 7, 8, 1])
    _, with_lora = run_epoch(workflow(base, control, lora), x, y, monkeypatch)
    _, without = run_epoch(workflow(base, control, None), x, y, monkeypatch)
    for batch in range(2):
        here = [*with_lora[8 * batch : 8 * batch + 8], *without[8 * batch : 8 * batch + 8]]
        assert {coalition for coalition, _ in here} == set(range(16))
        assert all(torch.equal(start, here[0][1]) for _, start in here)
    rows = torch.cat([with_lora[0][1], with_lora[8][1]])
    assert len({bytes(row.numpy()) for row in rows}) == 4


def test_a_component_that_is_off_leaves_the_images_bit_by_bit(
    base: Base, control: ControlTraining, lora: LoRATraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another LoRA, control branch, class or style word changes the coalitions it takes part in, and no other."""
    x, y = 2 * torch.rand(2, 3, 8, 8) - 1, torch.tensor([1, 7])
    every = list(range(16))
    images = run_epoch(workflow(base, control, lora, coalitions=every), x, y, monkeypatch)[0]["images"]
    without = run_epoch(workflow(base, control, None), x, y, monkeypatch)[0]
    assert np.array_equal(images[without["coalitions"]], without["images"])

    other_control, other_lora = copy.deepcopy(control), copy.deepcopy(lora)
    for parameter in [*other_control.network.exits.parameters(), *other_lora.network.up.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    changes: dict[int, tuple[Workflow, Tensor]] = {
        LORA: (workflow(base, control, other_lora, coalitions=every), y),
        CONTROL: (workflow(base, other_control, lora, coalitions=every), y),
        CLASS_WORD: (workflow(base, control, lora, coalitions=every), 9 - y),
        STYLE_WORD: (workflow(base, control, lora, coalitions=every, style=0), y),
    }
    for player, (flow, labels) in changes.items():
        changed = run_epoch(flow, x, labels, monkeypatch)[0]["images"]
        same = [coalition for coalition in every if np.array_equal(images[coalition], changed[coalition])]
        assert same == [coalition for coalition in every if not coalition & player], player


def test_guidance_goes_beyond_the_words(base: Base, control: ControlTraining) -> None:
    x, inputs = images(), {"coalition": CLASS_WORD, "y": WORDS[0], "hint": relief(images())}
    once, twice = (workflow(base, control, None, guidance=w).velocity(x, T, **inputs) for w in (1.0, 3.0))
    none = workflow(base, control, None).velocity(x, T, **{**inputs, "coalition": 0})
    assert torch.allclose(twice, none + 3 * (once - none), atol=1e-5)


def test_coalitions_of_a_stage(base: Base, control: ControlTraining, lora: LoRATraining) -> None:
    assert workflow(base, control, None).coalitions == list(range(0, 16, 2))
    assert workflow(base, control, lora).coalitions == list(range(1, 16, 2))
    with pytest.raises(ValueError, match="coalitions: 1: expected numbers below 16, odd ones only with a LoRA"):
        workflow(base, control, None, coalitions=[1])
    assert coalition_name(0) == "base"
    assert coalition_name(LORA | STYLE_WORD) == "lora+style_word"


def test_rows_have_the_same_noise_in_any_batch() -> None:
    whole = RowNoise(7)(torch.empty(4, 3, 8, 8))[1]
    noise = RowNoise(7)
    parts = [noise(torch.empty(2, 3, 8, 8))[1] for _ in range(2)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(("rank", "message"), [(0, "rank=0: expected 1 or more")])
def test_bad_rank(rank: int, message: str, base: Base) -> None:
    with pytest.raises(ValueError, match=message):
        LoRATraining(base, rank=rank)


def test_bad_share(base: Base) -> None:
    with pytest.raises(ValueError, match=r"left_out=2: expected a share from 0 to 1"):
        Base(base.network, left_out=2, noise=base.noise)


def test_words_of_the_base(base: Base) -> None:
    """One more than there are, for a word left out; the example is one image with two words."""
    assert base.network.style_emb.num_embeddings == 5
    example = base.example((3, 8, 8))
    assert [tuple(part.shape) for part in example] == [(1, 3, 8, 8), (1,), (1,), (1,)]
    assert base(*example).shape == (1, 3, 8, 8)


def test_the_base_forgets_words_in_training_alone(base: Base) -> None:
    y, style = torch.arange(1000) % 10, torch.arange(1000) % 4
    batch = Batch(None, y, style)
    kept = base.eval().inputs(batch)
    assert torch.equal(kept["y"], y)
    assert torch.equal(kept["style"], style)
    seen = base.train().inputs(batch)
    no_class, no_style = seen["y"] == 10, seen["style"] == 4
    assert bool(((seen["y"] == y) | no_class).all())
    assert bool(((seen["style"] == style) | no_style).all())
    assert float(no_class.float().mean()) == pytest.approx(0.3, abs=0.07)
    assert float(no_style.float().mean()) == pytest.approx(0.3, abs=0.07)
    assert float((no_class & no_style).float().mean()) == pytest.approx(0.09, abs=0.05)  # drawn apart


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (2.0, 2)])
def test_the_network_is_asked_once_without_guidance(
    guidance: float, passes: int, base: Base, control: ControlTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = workflow(base, control, None, guidance=guidance)
    asked = []
    once = flow.once
    monkeypatch.setattr(flow, "once", lambda *given: asked.append(1) or once(*given))
    flow.velocity(images(), T, coalition=CLASS_WORD, y=WORDS[0], hint=relief(images()))
    assert len(asked) == passes
