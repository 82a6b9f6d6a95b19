"""AdvProp's two batch norms, its attack, and networks from files (the sheet's checks 1 and 9)."""

from __future__ import annotations

import copy
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.adversarial import AdversarialClassifier, Attack
from modules.robust_explainability.advprop import AdvProp, TwoNorms, WeakAttack, auxiliary, with_two_norms
from modules.robust_explainability.networks import imagenet_network, read_state, small_network

Batch = namedtuple("Batch", ("x", "y"))
PARAMETERS = {
    "alexnet": 61_100_840,
    "googlenet": 6_624_904,
    "resnet50": 25_557_032,
    "densenet161": 28_681_000,
    "mobilenet_v2": 3_504_872,
}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_outputs_are_torchvisions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    kept: list[Any] = []
    make = models.get_model

    def kept_model(*args: Any, **options: Any) -> Any:
        options |= {"init_weights": False} if name == "googlenet" else {}  # as it is filled takes seconds
        kept.append(make(*args, **options))
        return kept[-1]

    monkeypatch.setattr(models, "get_model", kept_model)
    network = imagenet_network(name).eval()
    assert count(network) == PARAMETERS[name]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(x), kept[0].eval()(x), atol=1e-5)
        assert (network.features(x) >= 0).all() or name == "mobilenet_v2"


def test_advprop_adds_one_affine_set_for_each_batch_norm() -> None:
    network = imagenet_network("resnet50", half_range=True)
    assert count(with_two_norms(network)) - PARAMETERS["resnet50"] == 53_120 == 2 * 26_560
    assert sum(isinstance(layer, TwoNorms) for layer in network.modules()) == 53


@pytest.fixture
def batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    pixels = (0.5 + 0.25 * torch.randn(8, 1, 16, 16, generator=source)).clamp(0, 1)  # some are black or white
    return Batch((pixels - 0.5) / 0.25, torch.randint(10, (8,), generator=source))


def module_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AdvProp:
    torch.manual_seed(0)
    module = AdvProp(small_network(10), 10, **options)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=SimpleNamespace(mean=(0.5,), std=(0.25,))))
    monkeypatch.setattr(type(module), "trainer", trainer, raising=False)
    return module.train()


def norms(network: nn.Module, which: str) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in network.state_dict().items() if f".{which}." in n}


def test_the_second_norms_change_no_starting_weight() -> None:
    torch.manual_seed(4)
    plain = small_network(10)
    torch.manual_seed(4)
    two = AdvProp(small_network(10), 10).network
    renamed = {name.replace(".main.", "."): value for name, value in two.state_dict().items() if ".aux." not in name}
    assert renamed.keys() == plain.state_dict().keys()
    assert all(torch.equal(renamed[name], value) for name, value in plain.state_dict().items())


def test_clean_images_touch_the_main_norms_and_attacked_ones_the_others(
    monkeypatch: pytest.MonkeyPatch, batch: Batch
) -> None:
    module = module_of(monkeypatch)
    before = {which: norms(module.network, which) for which in ("main", "aux")}
    module(batch.x)
    assert any(not torch.equal(v, before["main"][n]) for n, v in norms(module.network, "main").items())
    assert all(torch.equal(v, before["aux"][n]) for n, v in norms(module.network, "aux").items())

    before = {which: norms(module.network, which) for which in ("main", "aux")}
    module.attacked(batch.x, batch.y)  # in evaluation mode: changes nothing
    with auxiliary(module.network):
        module(batch.x)
    assert all(torch.equal(v, before["main"][n]) for n, v in norms(module.network, "main").items())
    assert any(not torch.equal(v, before["aux"][n]) for n, v in norms(module.network, "aux").items())
    assert module.network.training


def test_without_weight_it_is_standard_training(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    module = module_of(monkeypatch, weight=0.0)
    plain = copy.deepcopy(module.network)
    loss = module.training_step(batch, 0)
    expected = F.cross_entropy(plain(batch.x), batch.y)
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    for (name, own), other in zip(module.network.named_parameters(), plain.parameters(), strict=True):
        if ".aux." in name:
            assert own.grad is None or not own.grad.any()
        else:
            assert torch.allclose(own.grad, other.grad, atol=1e-7)


def test_the_loss_is_the_mean_over_both_halves(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    module = module_of(monkeypatch, attack=WeakAttack(radius=0.0))
    plain = copy.deepcopy(module.network)
    main = F.cross_entropy(plain(batch.x), batch.y)
    with auxiliary(plain):
        aux = F.cross_entropy(plain(batch.x), batch.y)
    assert torch.allclose(module.training_step(batch, 0), (main + aux) / 2)


@pytest.mark.parametrize(("steps", "clean_start"), [(1, 0.2), (1, 1.0), (5, 0.0)])
def test_the_weak_attack_stays_in_its_cube_and_nears_its_target(
    steps: int, clean_start: float, monkeypatch: pytest.MonkeyPatch, batch: Batch
) -> None:
    attack = WeakAttack(radius=4 / 255, steps=steps, step=1 / 255, clean_start=clean_start)
    module = module_of(monkeypatch, attack=attack)
    moved = module.attacked(batch.x, batch.y)
    distance = (0.25 * (moved - batch.x)).abs()
    assert distance.max() <= 4 / 255 + 1e-6
    assert distance.max() > 0
    pixels = 0.25 * moved + 0.5
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6

    network, targets = module.network.eval(), torch.full((8,), 3)
    mean, std = (torch.tensor(value).view(1, 1, 1) for value in (0.5, 0.25))
    near = attack(network, batch.x, targets, torch.zeros_like(batch.x), mean, std)
    with torch.no_grad():
        assert F.cross_entropy(network(near), targets) < F.cross_entropy(network(batch.x), targets)


def test_a_step_of_training_attacks_through_the_auxiliary_norms(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    """The main norms see clean images, the auxiliary ones the images that their own gradient, in evaluation mode, has
    moved against: norms that say the opposite move pixels the other way."""
    attack = WeakAttack(radius=2 / 255, steps=1, clean_start=1.0)
    module = module_of(monkeypatch, attack=attack)
    layers = [layer for layer in module.network.modules() if isinstance(layer, TwoNorms)]
    with torch.no_grad():
        for layer in layers:
            layer.aux.weight.copy_(torch.randn(len(layer.aux.weight)))
            layer.aux.bias.copy_(torch.randn(len(layer.aux.bias)))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.full(size, 4))  # targets are labels + 4
    moved = {}
    for which in ("main", "aux"):
        network = copy.deepcopy(module.network).eval()
        x = batch.x.clone().requires_grad_()
        with auxiliary(network) if which == "aux" else nullcontext():
            F.cross_entropy(network(x), (batch.y + 4) % 10, reduction="sum").backward()
        assert x.grad is not None
        pixels = 0.25 * batch.x + 0.5
        moved[which] = ((pixels - 2 / 255 * x.grad.sign()).clamp(0, 1) - 0.5) / 0.25

    seen: list[tuple[bool, Tensor]] = []
    module.network.register_forward_pre_hook(
        lambda network, inputs: seen.append((layers[0].aux_in_use, inputs[0].detach())) if network.training else None
    )
    module.training_step(batch, 0)
    (clean_norms, clean), (attacked_norms, attacked) = seen
    assert (clean_norms, attacked_norms) == (False, True)
    assert torch.equal(clean, batch.x)
    assert torch.allclose(attacked, moved["aux"], atol=1e-5)
    assert not torch.allclose(moved["main"], moved["aux"], atol=1e-3)


def test_robust_training_with_a_radius_of_zero_is_vanilla_and_the_radius_is_in_pixels(batch: Batch) -> None:
    torch.manual_seed(0)
    network = small_network(10).eval()
    still = Attack(radius=0.0, steps=3)(network, batch.x, batch.y, (0.5,), (0.25,))
    inside = ((0.25 * batch.x + 0.5) >= 0) & ((0.25 * batch.x + 0.5) <= 1)
    assert torch.allclose(still[inside], batch.x[inside], atol=1e-6)

    pixels = torch.rand(8, 1, 16, 16)
    x = (pixels - 0.5) / 0.25
    moved = Attack(radius=3.0, steps=3, rate=2.0)(network, x, batch.y, (0.5,), (0.25,))
    length = (0.25 * (moved - x)).flatten(1).norm(dim=1)
    assert (length <= 3 + 1e-4).all()
    assert (length > 0.5).all()
    assert AdversarialClassifier(network, 10).attack is None


def test_the_steps_of_robust_training_are_two_thirds_of_the_radius() -> None:
    attack = Attack(radius=3.0, steps=3, rate=2.0)
    assert attack.rate * attack.radius / attack.steps == pytest.approx(2 * 3 / 3)


def save(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def test_weights_load_under_the_names_others_saved_them(tmp_path: Path) -> None:
    from torchvision import models

    network = models.mobilenet_v2(weights=None)
    state = network.state_dict()
    around = {f"module.model.{name}": value for name, value in state.items()}
    around |= {f"module.attacker.model.{name}": value for name, value in state.items()}
    around["module.normalizer.new_mean"] = torch.zeros(3, 1, 1)
    files = [state, {"state_dict": state}, {"model": around, "epoch": 3}]
    files += [{f"module.{name}": value for name, value in state.items()}]
    for number, content in enumerate(files):
        path = save(tmp_path / f"{number}.pt", content)
        loaded = imagenet_network("mobilenet_v2", path)
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.allclose(loaded.eval()(x), network.eval()(x), atol=1e-6)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = small_network(10).state_dict()
    with pytest.raises(ValueError, match="no such file"):
        imagenet_network("resnet50", str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match=r"lacks conv1\.weight: expected a state_dict of ResNet"):
        imagenet_network("resnet50", save(tmp_path / "other.pt", state))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        read_state(tmp_path / "broken.pt")
    with pytest.raises(ValueError, match="cannot be loaded"):  # holds code
        read_state(Path(save(tmp_path / "code.pt", {"model": small_network})))
    with pytest.raises(ValueError, match="holds no state_dict"):
        read_state(Path(save(tmp_path / "plain.pt", [1, 2])))
    with pytest.raises(ValueError, match="expected one of alexnet"):
        imagenet_network("vgg16")
