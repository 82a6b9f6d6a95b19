"""Chains in a stage: their starts, classes, bounds and spaces, the choice among samplers, and what else chains do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from datamodules.common.torchvision_sets import FashionMNIST
from modules.ppgn.demonstrations import Captioned, ChangeClass, Facets, Inpaint, normal_to_uniform
from modules.ppgn.denoiser import Denoiser
from modules.ppgn.networks import DenseDenoiser, PixelDenoiser, SmallGenerator
from modules.ppgn.rivals import Constant, Untrained
from modules.ppgn.sampler import ChainNoise, Sampler
from modules.ppgn.sampling import Chains, Choice, Sampling
from modules.ppgn.spaces import CodeSpace, PixelSpace

STABLE = Sampler(rule="stable", e1=0.3, e3=0.0, lr=0.05, lr_end=0.05, steps=4)
BATCH = SimpleNamespace(x=torch.randn(12, 1, 28, 28), y=torch.arange(12) % 5)


class Data:
    """What a stage asks its datamodule."""

    spec = FashionMNIST.described

    @staticmethod
    def shown(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0, 1)


def begin(module: Any, monkeypatch: pytest.MonkeyPatch, rank: int = 0, world: int = 1) -> Any:
    trainer = SimpleNamespace(datamodule=Data(), global_rank=rank, world_size=world, optimizers=[])
    monkeypatch.setattr(module, "_trainer", trainer)
    return module


def world(stages: Any, **options: Any) -> dict[str, Any]:
    names = ("encoder", "condition", "judge", "codes", "generator")
    return {name: getattr(stages, name) for name in names} | options


def run_test(module: Any, logged: Any, monkeypatch: pytest.MonkeyPatch, *batches: Any) -> dict[str, float]:
    begin(module, monkeypatch)
    if hasattr(module, "on_test_epoch_start"):
        module.on_test_epoch_start()
    with torch.inference_mode():  # as in Lightning's test
        return logged(module, *(batches or (BATCH,)))


def test_a_stage_samples_one_chain_for_each_image(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Sampling(STABLE, **world(stages, chains=Chains(3, [5, 6, 7, 8, 9])))
    metrics = run_test(module, logged, monkeypatch)
    names = {"judge_top1", "condition_top1", "fid_judge", "density_judge", "coverage_judge", "diversity", "mixing", "n"}
    names |= {"unexplained"}
    assert {f"test/{name}" for name in names} <= set(metrics)
    assert metrics["test/n"] == 12
    assert (metrics["test/e1"], metrics["test/lr"]) == (0.3, 0.05)
    figure = module.pictures(Data())["samples"]
    assert isinstance(figure, Figure)
    assert sorted(module._shown) == [5, 6, 7, 8, 9]


def test_a_chain_is_the_same_in_any_batch_and_on_any_process(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = BATCH.y
    module = begin(Sampling(STABLE, **world(stages)), monkeypatch)
    module.on_test_epoch_start()
    whole = module.chains(STABLE, BATCH.x, target, module.numbers(12)).states
    second = begin(Sampling(STABLE, **world(stages)), monkeypatch, rank=1, world=2)
    second.on_test_epoch_start()
    numbers = [*second.numbers(4), *second.numbers(2)]
    assert numbers == [1, 3, 5, 7, 9, 11]
    part = second.chains(STABLE, BATCH.x[1::2], target[1::2], numbers).states
    torch.testing.assert_close(part, whole[1::2])


def test_images_are_those_that_the_released_loop_shows(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """n + 1 passes with rates lr + (lr_end - lr) i / n, of which each shows the image it begins with."""
    n, e1, lr, lr_end = 4, 0.2, 0.3, 0.1
    sampler = Sampler(rule="released", e1=e1, e3=0.0, lr=lr, lr_end=lr_end, steps=n)
    stages.codes.top.fill_(30.0)
    module = begin(Sampling(sampler, **world(stages, chains=Chains(3, gradient="released"))), monkeypatch)
    samples = module.chains(sampler, BATCH.x, BATCH.y, list(range(12)))

    encoder, generate = stages.encoder.network.eval(), stages.generator.eval().generate
    classifier = stages.condition.eval()
    h = ChainNoise(3, list(range(12))).draw(torch.empty(12, 128))
    shown = []
    for i in range(n + 1):
        h = h.detach().requires_grad_(True)
        x = generate(h)
        shown.append(module.picture(module.space((1, 28, 28)), h.detach()))

        logits = classifier(x)
        p = logits.softmax(1).gather(1, BATCH.y[:, None])[:, 0].detach()
        (g,) = torch.autograd.grad(((1 - p) * logits.gather(1, BATCH.y[:, None])[:, 0]).sum(), h)
        with torch.no_grad():
            d = e1 * (encoder.upper(encoder.pooled(x)) - h) + g
            h = (h + (lr + (lr_end - lr) * i / n) / d.abs().mean(1, keepdim=True) * d).clamp(0, 30)
    torch.testing.assert_close(samples.images, shown[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(samples.halfway, shown[n // 2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(shown[-1], shown[-2], atol=1e-4)


def test_arms_start_their_chains_alike(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    still = Sampler(rule="stable", e1=0.0, e2=0.0, e3=0.0, steps=1, low=-1e9)
    stages.codes.top.fill_(1e9)
    first, second = (
        begin(Sampling(still, **world(stages, chains=Chains(seed))), monkeypatch).chains(
            still, BATCH.x, BATCH.y, list(range(12))
        )
        for seed in (1, 2)
    )
    again = begin(Sampling(still, **world(stages, chains=Chains(1))), monkeypatch)
    torch.testing.assert_close(again.chains(still, BATCH.x, BATCH.y, list(range(12))).states, first.states)
    assert not torch.equal(first.states, second.states)
    assert float(first.states.std()) == pytest.approx(1, abs=0.1)


def test_codes_stay_within_the_top_of_real_codes(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.codes.top.copy_(torch.linspace(0, 0.3, 128))
    module = begin(Sampling(STABLE, **world(stages)), monkeypatch)
    states = module.chains(STABLE, BATCH.x, BATCH.y, list(range(12))).states
    assert bool(((states >= 0) & (states <= stages.codes.top)).all())


def test_the_spaces_of_the_variants(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = Denoiser(DenseDenoiser(128, (16,)), stages.codes, encoder=stages.encoder)
    pixels = Denoiser(PixelDenoiser(), stages.codes)
    joint, ppgn_h, ppgn_x = (
        begin(Sampling(STABLE, **world(stages, **options)), monkeypatch)
        for options in ({}, {"denoiser": codes}, {"denoiser": pixels, "generator": None})
    )
    h = torch.rand(3, 128)
    space = joint.space((1, 28, 28))
    assert isinstance(space, CodeSpace)
    x = space.decode(h)
    torch.testing.assert_close(space.reconstruct(h, x), stages.encoder.network.upper(stages.encoder.network.pooled(x)))
    torch.testing.assert_close(ppgn_h.space((1, 28, 28)).reconstruct(h, x), codes(h))
    assert isinstance(ppgn_x.space((1, 28, 28)), PixelSpace)

    samples = ppgn_x.chains(STABLE, BATCH.x, BATCH.y, list(range(12)))
    low, high = ppgn_x.pixel_range(BATCH.x)
    assert samples.states.shape == (12, 1, 28, 28)
    assert bool(((samples.states >= low - 1e-6) & (samples.states <= high + 1e-6)).all())


def test_rivals_of_the_prior_learn_nothing(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is E(G(h)) of weights that met no image, the other 0; the images of either are the trained generator's."""
    fresh = SmallGenerator()
    h = torch.rand(3, 128)
    untrained = Untrained(stages.encoder, fresh, 28)
    encoder = stages.encoder.network.eval()
    torch.testing.assert_close(untrained(h), encoder.upper(encoder.pooled(fresh(h))))
    assert not any(p.requires_grad for p in untrained.parameters())
    for prior, expected in ((untrained, untrained(h)), (Constant(stages.encoder), torch.zeros(3, 128))):
        space = begin(Sampling(STABLE, **world(stages, denoiser=prior)), monkeypatch).space((1, 28, 28))
        x = space.decode(h)
        torch.testing.assert_close(x, stages.generator.generate(h))
        torch.testing.assert_close(space.reconstruct(h, x), expected)


def test_shrinking_is_geometric_without_a_class(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """h <- h - lr e1 h: after n steps (1 - lr e1)^n of the start is left."""
    alone = Sampler(rule="stable", e1=2.0, e2=0.0, e3=0.0, lr=0.1, lr_end=0.1, steps=5)
    module = begin(Sampling(alone, **world(stages, denoiser=Constant(stages.encoder))), monkeypatch)
    end = module.chains(alone, BATCH.x, BATCH.y, list(range(12))).states
    start = ChainNoise(0, list(range(12))).draw(torch.empty(12, 128)).clamp(min=0)
    torch.testing.assert_close(end, 0.8**5 * start)


def test_a_code_that_the_prior_keeps_is_explained(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = begin(Sampling(STABLE, **world(stages)), monkeypatch)
    h = torch.rand(3, 128)
    monkeypatch.setattr("modules.ppgn.sampling.encode", lambda encoder, x: (x, h * torch.tensor([[1.0], [0.5], [3.0]])))
    torch.testing.assert_close(module.unexplained(h), torch.tensor([0.0, 0.5, 2.0]))


def test_judge_and_condition_are_different_networks(stages: Any) -> None:
    with pytest.raises(ValueError, match="condition and judge are one network"):
        Sampling(STABLE, **world(stages, condition=stages.judge))
    with pytest.raises(ValueError, match="expected a generator, or a denoiser of pixels"):
        Sampling(STABLE, **world(stages, generator=None))


def test_networks_are_frozen_and_stay_out_of_the_module(stages: Any) -> None:
    module = Sampling(STABLE, **world(stages))
    assert not list(module.parameters())
    module.train()
    assert not any(part.training for network in module.frozen.networks for part in network.modules())


# The choice


def choose(stages: Any, monkeypatch: pytest.MonkeyPatch, candidates: list[dict[str, float]]) -> tuple[Choice, dict]:
    module = begin(Choice(STABLE, candidates, **world(stages)), monkeypatch)
    seen: dict[str, float] = {}
    monkeypatch.setattr(module, "log_dict", lambda values: seen.update({k: float(v) for k, v in values.items()}))
    monkeypatch.setattr(module, "log", lambda name, value: seen.update({name: float(value)}))
    module.on_validation_epoch_start()
    module.validation_step(BATCH, 0)
    module.on_validation_epoch_end()
    return module, seen


def test_the_lowest_fid_is_chosen_and_handed_on(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [{"e1": 0.1}, {"e1": 3.0, "lr": 0.5}, {"e1": 1.0}]
    module, seen = choose(stages, monkeypatch, candidates)
    fids = [seen[f"val/fid_judge_{number}"] for number in range(3)]
    assert len(set(fids)) == 3
    best = fids.index(min(fids))
    assert int(module.choice) == int(seen["val/chosen"]) == best
    assert seen["val/fid_judge"] == fids[best]
    assert module.chosen().e1 == candidates[best]["e1"]
    sampling = Sampling(STABLE, choice=module, **world(stages))
    assert sampling.sampler.e1 == candidates[best]["e1"]
    assert sampling.sampler.lr == candidates[best].get("lr", 0.05)


def test_the_choice_is_part_of_the_checkpoint(stages: Any) -> None:
    module = Choice(STABLE, [{"e1": 0.1}, {"e1": 1.0}], **world(stages))
    module.choice.fill_(1)
    fresh = Choice(STABLE, [{"e1": 0.1}, {"e1": 1.0}], **world(stages))
    fresh.load_state_dict(module.state_dict())
    assert fresh.chosen().e1 == 1.0
    with pytest.raises(ValueError, match="expected at least one"):
        Choice(STABLE, [], **world(stages))


# Demonstrations


def test_inpainting_keeps_the_known_pixels(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Inpaint(STABLE, hole=10, **world(stages))
    metrics = run_test(module, logged, monkeypatch)
    assert {"test/judge_top1", "test/empty_top1", "test/hole_mse", "test/empty_mse", "test/n"} == set(metrics)
    assert metrics["test/n"] == 12
    true, masked, filled = module._rows.values()
    same = filled == true
    assert (~same).flatten(1).sum(1).tolist() == [100] * 12
    assert torch.equal(masked[same], true[same])
    with pytest.raises(ValueError, match="hole=0: expected 1 or more"):
        Inpaint(STABLE, hole=0, **world(stages))


def test_holes_lie_anywhere() -> None:
    u = normal_to_uniform(torch.randn(4000))
    assert bool(((u >= 0) & (u < 1)).all())
    torch.testing.assert_close(u.sort().values, torch.linspace(0, 1, 4000), atol=0.04, rtol=0)


def test_a_class_changes_without_a_new_start(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = []
    run = Sampler.run

    def watched(self: Sampler, space: Any, condition: Any, start: Any, target: Any, *rest: Any, **options: Any) -> Any:
        end = run(self, space, condition, start, target, *rest, **options)
        targets.append((target.clone(), start.clone(), end[0].clone()))
        return end

    monkeypatch.setattr(Sampler, "run", watched)
    module = ChangeClass(STABLE, among=[5, 7, 9], changes=2, **world(stages, chains=Chains(classes=[5, 7, 9, 5, 7])))
    metrics = run_test(module, logged, monkeypatch)
    assert {"test/judge_top1", "test/left_top1", "test/moved", "test/n"} == set(metrics)
    assert [t[0][:3].tolist() for t in targets] == [[5, 7, 9], [7, 9, 5], [9, 5, 7]]
    assert torch.equal(targets[0][2], targets[1][1])
    assert torch.equal(targets[1][2], targets[2][1])
    assert list(module._rows) == ["class_0", "class_1", "class_2"]


class Dark:
    """A captioner whose word k is as probable as the images are dark: log p = -k times the mean pixel."""

    def word_log_probabilities(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return -words * x.flatten(1).mean(1, keepdim=True)


def test_chains_follow_captions(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.codes.top.fill_(30)
    module = Captioned(STABLE, [[3, 2], [1]], Dark(), **world(stages))
    metrics = run_test(module, logged, monkeypatch)
    assert metrics["test/log_p"] > metrics["test/log_p_start"]
    assert module.captions.tolist() == [[3, 2], [1, -1]]
    with pytest.raises(ValueError, match="captioner=None: expected a network with word_log_probabilities"):
        Captioned(STABLE, [[1]], **world(stages))
    with pytest.raises(ValueError, match="expected at least one, a list of word numbers"):
        Captioned(STABLE, [], Dark(), **world(stages))


def test_facets_pull_towards_their_units(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.codes.top.fill_(30)
    strong = Sampler(rule="stable", e3=0.0, lr=0.3, lr_end=0.3, steps=15)
    module = Facets(strong, units=[3, 8], place=[3, 3], rounds=2, e1=[0.0, 0.1], least=0.1, **world(stages))
    metrics = run_test(module, logged, monkeypatch)
    assert metrics["test/p"] > 1.2 * metrics["test/p_start"]
    assert 0 <= metrics["test/kept"] <= 100
    assert list(module._rows) == ["round_0", "round_1"]


def test_a_class_that_is_left_is_the_one_before(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge who sees class 9 in everything: 5 of 12 chains go from 7 to 9, and 2 from 9 to 5."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    run = Sampler.run

    def watched(self: Sampler, space: Any, condition: Any, start: Any, *rest: Any, **options: Any) -> Any:
        end = run(self, space, condition, start, *rest, **options)
        seen.append((start.clone(), end[0].clone()))
        return end

    monkeypatch.setattr(Sampler, "run", watched)
    module = ChangeClass(STABLE, among=[5, 7, 9], changes=1, **world(stages, chains=Chains(classes=[5, 7, 9, 5, 7])))
    network = module.network
    nines = torch.nn.functional.one_hot(torch.tensor([9]), 10).float()
    judge = lambda x: nines.expand(len(x), 10)  # noqa: E731
    monkeypatch.setattr(module, "network", lambda name: judge if name == "judge" else network(name))
    metrics = run_test(module, logged, monkeypatch)
    assert metrics["test/judge_top1"] == pytest.approx(100 * 5 / 12)
    assert metrics["test/left_top1"] == pytest.approx(100 * 2 / 12)
    before, after = seen[1]
    assert metrics["test/moved"] == pytest.approx(float(((after - before).norm(dim=1) / before.norm(dim=1)).mean()))


def test_chains_that_fill_holes_have_noise(stages: Any, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noises = []
    run = Sampler.run

    def watched(self: Sampler, space: Any, condition: Any, start: Any, target: Any, noise: Any, *rest: Any) -> Any:
        noises.append(noise)
        return run(self, space, condition, start, target, noise, *rest)

    monkeypatch.setattr(Sampler, "run", watched)
    run_test(Inpaint(STABLE, hole=10, **world(stages)), logged, monkeypatch)
    assert [type(noise) for noise in noises] == [ChainNoise]


def test_what_a_step_evaluates(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, images, logits; images and logits alone where chains move in pixels."""
    pixels = Denoiser(PixelDenoiser(), stages.codes)
    module = begin(Sampling(STABLE, **world(stages)), monkeypatch)
    plain = begin(Sampling(STABLE, **world(stages, denoiser=pixels, generator=None)), monkeypatch)
    h = torch.rand(3, 128)
    condition, generate = stages.condition.eval(), stages.generator.eval().generate
    torch.testing.assert_close(module(h), condition(generate(h)))
    torch.testing.assert_close(plain(BATCH.x), condition(BATCH.x))
    assert [tuple(part.shape) for part in module.example((1, 28, 28))] == [(1, 128)]
    assert [tuple(part.shape) for part in plain.example((1, 28, 28))] == [(1, 1, 28, 28)]
