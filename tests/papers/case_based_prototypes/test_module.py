"""The loss, what it trains, and what arms share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.running import training
from experiments.running.plan import Plan
from modules.case_based_prototypes.losses import LossWeights, code_error, prototype_error, reconstruction_error
from modules.case_based_prototypes.module import CaseBased
from modules.case_based_prototypes.networks import CaseBasedNetwork
from modules.common.classifier import Classifier
from tests.schedules import half


def reached(loss: Tensor, net: CaseBasedNetwork) -> set[str]:
    """Which parts of a network a loss has a gradient for that is not 0."""
    parts = {"encoder": net.encoder, "decoder": net.decoder, "prototypes": net.units, "W": net.weight}
    net.zero_grad()
    loss.backward()
    names = set()
    for name, part in parts.items():
        owned = [part] if isinstance(part, Tensor) else list(part.parameters()) if part is not None else []
        if any(p.grad is not None and bool(p.grad.any()) for p in owned):
            names.add(name)
    return names


def test_stages_start_alike_but_for_the_width_of_convolutions(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 10)
    monkeypatch.setattr(training, "load", lambda plan, name: judge)
    this = make_plan("paper=case_based_prototypes")
    nets: dict[str, Any] = {name: training.construct(this, this.stages[name]).network for name in ARMS}
    published = dict(nets["prototypes"].named_parameters())
    for name, shared, wider in (
        ("unregularised", ("encoder.", "decoder.", "units.", "weight"), 1.0),
        ("dense", ("encoder.", "decoder.", "weight"), 10.0),
        ("dense_no_decoder", ("encoder.", "weight"), 10.0),
    ):
        alike = {key: value for key, value in nets[name].named_parameters() if key.startswith(shared)}
        assert len(alike) == sum(key.startswith(shared) for key in published)
        for key, value in alike.items():
            assert torch.allclose(value, published[key] * (1.0 if key == "weight" else wider), rtol=1e-5), (name, key)
    other_seed = make_plan("paper=case_based_prototypes", seed=1)
    assert not torch.equal(
        training.construct(other_seed, other_seed.stages["dense"]).network.weight, nets["dense"].weight
    )


def test_loss_is_the_weighted_sum_of_four_terms(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, (x, y) = lively(), batch()
    module = CaseBased(net, 10, LossWeights(e=20, r=2, r1=3, r2=5))
    codes = net.encoder(x)
    assert net.prototypes is not None
    assert net.decoder is not None
    distances = torch.cdist(codes, net.prototypes).square()
    expected = (
        20 * F.cross_entropy(distances @ net.weight, y)
        + 2 * F.mse_loss(net.decoder(codes), x) * 784
        + 3 * distances.min(0).values.mean()
        + 5 * distances.min(1).values.mean()
    )
    assert float(module.training_step((x, y), 0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(CaseBased(net, 10, LossWeights(20, 0, 0, 0)).training_step((x, y), 0)) == pytest.approx(
        20 * float(F.cross_entropy(net(x), y)), rel=1e-6
    )


def test_which_parameters_each_term_reaches(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, (x, y) = lively(), batch(20)
    assert net.decoder is not None

    def outputs() -> Tensor:
        return net.classify(net.encoder(x))[0]

    assert reached(reconstruction_error(net.decoder(net.encoder(x)), x), net) == {"encoder", "decoder"}
    assert reached(prototype_error(outputs()), net) == {"encoder", "prototypes"}
    assert reached(code_error(outputs()), net) == {"encoder", "prototypes"}
    assert reached(F.cross_entropy(net(x), y), net) == {"encoder", "prototypes", "W"}
    module = CaseBased(net, 10, LossWeights(r1=0.0, r2=0.0))
    assert reached(module.training_step((x, y), 0), net) == {"encoder", "decoder", "prototypes", "W"}


def test_order_of_prototypes_does_not_matter(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, data = lively(), batch()
    loss, logits = CaseBased(net, 10, LossWeights()).training_step(data, 0), net(data[0])
    order = torch.randperm(15)
    assert net.prototypes is not None
    with torch.no_grad():
        net.prototypes.copy_(net.prototypes[order])
        net.weight.copy_(net.weight[order])
    assert torch.allclose(net(data[0]), logits, atol=1e-5)
    assert float(CaseBased(net, 10, LossWeights()).training_step(data, 0)) == pytest.approx(float(loss), rel=1e-5)


ARMS = ("prototypes", "unregularised", "dense", "dense_no_decoder")


def flat(network: dict[str, Any]) -> dict[str, Any]:
    """A network's settings with its convolutions' beside the others."""
    return {**network, **network["convolutions"], "convolutions": None}


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_arms_differ_in_what_they_are_about_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=case_based_prototypes", f"scale={scale}").stages
    kept = ("schedule", "classes")
    arms = [stages[name] for name in ARMS]
    optimizers = [arm.module["optimizer"] for arm in arms]
    assert [options["lr"] for options in optimizers[::2]] == [options["lr"] for options in optimizers[1::2]]
    for first, second in pairwise(arms):
        assert (first.data, first.trainer) == (second.data, second.trainer)
        assert {k: first.module.get(k) for k in kept} == {k: second.module.get(k) for k in kept}
        one, other = ({**arm.module["optimizer"], "lr": "tuned, of either kind of layer"} for arm in (first, second))
        assert one == other
        assert [first.module["weights"][name] for name in ("e", "r")] == [20, 1]
        assert [second.module["weights"][name] for name in ("e", "r")] == [20, 1]
    assert [(arm.module["weights"]["r1"], arm.module["weights"]["r2"]) for arm in arms[:2]] == [(1, 1), (0, 0)]
    assert arms[0].module["network"] == arms[1].module["network"]
    for number, changed in ((2, {"layer", "initial_std"}), (3, {"layer", "initial_std", "decode"})):
        own, published = (flat(arms[n].module["network"]) for n in (number, 0))
        assert {key for key in published if own[key] != published[key]} == changed


def test_a_step_tells_its_terms_and_its_accuracy(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, (x, _) = lively(), batch()
    y = net(x).argmax(-1)
    y[:2] = (y[:2] + 1) % 10
    module = CaseBased(net, 10, LossWeights(e=20, r=2, r1=3, r2=5))
    loss = module.training_step((x, y), 0)
    told = {name: float(value) / len(y) for name, value in module._sums.items()}
    assert told["top1"] == pytest.approx(100 * 4 / 6)
    assert told["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert 20 * told["e"] + 2 * told["r"] + 3 * told["r1"] + 5 * told["r2"] == pytest.approx(float(loss), rel=1e-5)


def test_a_model_trains_with_its_own_optimizer_and_schedule(network: Callable[..., CaseBasedNetwork]) -> None:
    module = CaseBased(network(), 10, LossWeights(), optimizer=torch.optim.Adam, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.Adam, half)


def test_each_colour_is_brought_back_by_its_own_mean_and_deviation(network: Callable[..., CaseBasedNetwork]) -> None:
    module = CaseBased(network(channels=3), 10, LossWeights())
    spec = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=spec))  # type: ignore[assignment]
    module.setup("fit")
    x = torch.rand(2, 3, 28, 28)
    normalised = (x - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)
    assert torch.allclose(module.network.pixels(normalised), x, atol=1e-6)
