"""The three phases: values by hand, what receives a gradient and what does not, and two processes."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.contrastive import nt_xent
from modules.common.distributed import synced
from modules.simclr_v2.lars import LARS
from modules.simclr_v2.memory import Memory
from modules.simclr_v2.module import (
    Distillation,
    FineTuning,
    LinearEvaluation,
    Pretraining,
    contrast_accuracy,
    distillation_loss,
    labelled_loss,
)
from modules.simclr_v2.networks import ResNet

LN2 = math.log(2)
Labelled = namedtuple("Labelled", ("x", "y"))
Make = Callable[..., Any]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reached(module: nn.Module) -> bool:
    """Whether each parameter has a gradient other than 0."""
    return all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def untouched(module: nn.Module) -> bool:
    return all(p.grad is None or not p.grad.any() for p in module.parameters())


def awake(module: nn.Module) -> Any:
    """The module with every norm's scale at 1: blocks that are not only their shortcut."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    return module


# Phase 1


def test_the_loss_is_the_released_codes_sum_and_the_probe_is_cut_off(pretraining: Make, pairs: Any) -> None:
    """The probe's weights are not 0: at 0 a gradient through it would be 0 too."""
    module: Pretraining = awake(pretraining())
    nn.init.normal_(module.classifier.weight)
    loss = module.training_step(pairs, 0)
    x = torch.cat([pairs.x, pairs.x2])
    z, h = module.projector(x), module.network(x).detach()
    probe = float(F.cross_entropy(module.classifier(h), pairs.y.repeat(2)).detach())
    decay = 1e-4 / 2 * float(module.classifier.weight.detach().square().sum())
    contrast = 2 * float(nt_xent(*z.chunk(2), 0.1).detach())
    assert float(loss.detach()) == pytest.approx(contrast + probe + decay, rel=1e-5)

    alone = torch.autograd.grad(2 * nt_xent(*z.chunk(2), 0.1), list(module.network.parameters()))
    loss.backward()
    for parameter, expected in zip(module.network.parameters(), alone, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-5)
    assert reached(module.network)
    assert reached(module.head)
    assert reached(module.classifier)


def test_labels_do_not_reach_the_network(pretraining: Make, pairs: Any) -> None:
    gradients = []
    for labels in (pairs.y, pairs.y.flip(0)):
        module = awake(pretraining())
        torch.manual_seed(1)
        nn.init.normal_(module.classifier.weight)  # at 0 no gradient would pass it
        module.training_step(pairs._replace(y=labels), 0).backward()
        gradients.append([p.grad for p in [*module.network.parameters(), *module.head.parameters()]])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_weight_decay_of_the_probe_is_in_the_loss(pretraining: Make) -> None:
    module: Pretraining = pretraining()
    assert float(module.decay_of_classifier().detach()) == 0
    nn.init.constant_(module.classifier.weight, 2.0)
    assert float(module.decay_of_classifier().detach()) == pytest.approx(1e-4 / 2 * 4 * 32 * 10)


def phase(name: str, pretraining: Make, small: Make) -> Any:
    """A stage of each kind that trains with LARS and decay 1e-4."""
    lars = partial(LARS, lr=1.0, weight_decay=1e-4)
    if name == "pretraining":
        return pretraining()
    if name == "distillation":
        return Distillation(small(1), 10, FineTuning(10, network=small()), optimizer=lars)
    source = {"pretrained": pretraining(), "layer": 1} if name == "fine-tuning" else {"network": small()}
    return FineTuning(10, optimizer=lars, **source)


@pytest.mark.parametrize("name", ["pretraining", "supervised", "fine-tuning", "distillation"])
def test_the_classifiers_decay_is_in_every_steps_loss(name: str, pretraining: Make, small: Make, pairs: Any) -> None:
    """A step's gradient of W with the decay, less that without: wd W, and nothing on its bias."""
    gradients = []
    for decay in (1e-4, 0.0):
        module = phase(name, pretraining, small)
        module.optimizer_factory.keywords["weight_decay"] = decay
        torch.manual_seed(1)
        nn.init.normal_(module.classifier.weight, std=10.0)
        module.training_step(pairs, 0).backward()
        gradients.append((module.classifier.weight.grad, module.classifier.bias.grad))
    (weight, bias), (free_weight, free_bias) = gradients
    assert torch.allclose(weight - free_weight, 1e-4 * module.classifier.weight.detach(), atol=1e-6)
    assert float(weight.sub(free_weight).abs().max()) > 1e-3
    assert torch.equal(bias, free_bias)


def test_lars_leaves_out_norms_biases_and_classifier(pretraining: Make) -> None:
    module: Pretraining = pretraining()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, LARS)
    weights, others = optimizer.param_groups
    assert (weights["adapt"], weights["weight_decay"]) == (True, 1e-4)
    assert (others["adapt"], others["weight_decay"]) == (False, 0.0)
    left_out = {id(p) for p in others["params"]}
    for name, parameter in module.named_parameters():
        expected = parameter.ndim == 1 or name.startswith("classifier")
        assert (id(parameter) in left_out) == expected, name
    assert len(left_out) + len(weights["params"]) == len(list(module.parameters()))


def test_rates_grow_with_the_root_of_the_batch(pretraining: Make) -> None:
    module: Pretraining = pretraining()
    module.lr_scale = 4.0
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, LARS)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0}
    evaluation = LinearEvaluation(module, 10, optimizer=partial(torch.optim.SGD, lr=0.1))
    evaluation.lr_scale = 4.0
    linear = evaluation.configure_optimizers()
    assert isinstance(linear, torch.optim.SGD)
    assert linear.param_groups[0]["lr"] == pytest.approx(0.4)


def test_contrast_accuracy_by_hand() -> None:
    first = torch.eye(4)
    assert float(contrast_accuracy(first, 5 * first)) == 100
    assert float(contrast_accuracy(first, first[[1, 0, 2, 3]])) == 50


# The memory


def test_the_queue_drops_what_is_oldest() -> None:
    identity = nn.Linear(1, 1, bias=False)
    nn.init.ones_(identity.weight)
    memory = Memory(identity, size=5, outputs=1, decay=0.9)
    assert memory.negatives() is None
    memory.remember(identity, torch.tensor([[1.0], [2], [3]]))
    assert memory.negatives().flatten().tolist() == [1, 2, 3]  # type: ignore[union-attr]
    memory.remember(identity, torch.tensor([[4.0], [5], [6], [7]]))
    assert sorted(memory.negatives().flatten().tolist()) == [3, 4, 5, 6, 7]  # type: ignore[union-attr]
    memory.remember(identity, torch.arange(10.0)[:, None])
    assert sorted(memory.negatives().flatten().tolist()) == [5, 6, 7, 8, 9]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="size=0"):
        Memory(identity, size=0, outputs=1)


def test_the_average_moves_by_one_minus_the_decay_and_makes_the_negatives() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    memory = Memory(network, size=4, outputs=1, decay=0.9)
    nn.init.constant_(network.weight, 3.0)
    memory.follow(network)
    memory.remember(network, torch.ones(1, 1))
    assert float(memory.negatives()) == pytest.approx(0.9 + 0.1 * 3)  # type: ignore[arg-type]


def test_past_outputs_are_negatives_without_a_gradient(pretraining: Make, pairs: Any) -> None:
    module: Pretraining = pretraining(memory={"size": 32, "decay": 0.5})
    first = module.training_step(pairs, 0).detach()  # the queue was empty
    second = module.training_step(pairs, 1)
    assert float(second.detach()) > float(first) + 0.1
    assert module.memory is not None
    negatives = module.memory.negatives()
    assert negatives is not None
    assert len(negatives) == 24
    second.backward()
    assert not any(buffer.requires_grad for buffer in module.memory.buffers())
    assert not list(module.memory.parameters())
    before = module.memory.average.values()["network.stem.0.weight"].clone()
    with torch.no_grad():
        module.network.stem[0].weight.add_(1.0)  # type: ignore[operator, union-attr]
    module.on_train_batch_end(None, pairs, 1)
    moved = module.memory.average.values()["network.stem.0.weight"] - before
    assert torch.allclose(moved, torch.full_like(moved, 0.5), atol=1e-6)


# Phase 2


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_fine_tuning_trains_what_it_keeps(layer: int, pretraining: Make) -> None:
    source: Pretraining = awake(pretraining())
    module = FineTuning(10, pretrained=source, layer=layer)
    batch = Labelled(noise(12, 1, 8, 8), torch.arange(12) % 10)
    loss = module.training_step(batch, 0)
    assert float(loss.detach()) == pytest.approx(math.log(10), abs=1e-6)
    nn.init.normal_(module.classifier.weight)  # at 0 it lets no gradient through
    module.training_step(batch, 0).backward()
    assert reached(source.network)
    for number, part in enumerate(source.head.layers, start=1):
        assert (reached if number <= layer else untouched)(part)
    assert sum(len(group["params"]) for group in module.trained()) == len(list(module.parameters()))


def test_the_middle_layer_is_the_heads(pretraining: Make) -> None:
    source: Pretraining = awake(pretraining()).eval()
    module = FineTuning(10, pretrained=source, layer=1).eval()
    nn.init.normal_(module.classifier.weight)
    x = noise(4, 1, 8, 8)
    assert torch.allclose(module(x), module.classifier(source.head(source.network(x))[1]))


def test_fine_tuning_starts_from_one_thing(pretraining: Make, small: Make) -> None:
    for options in ({}, {"pretrained": pretraining(), "network": small()}, {"network": small(), "layer": 1}):
        with pytest.raises(ValueError, match="expected either pretrained"):
            FineTuning(10, **options)
    with pytest.raises(ValueError, match="layer=3"):
        FineTuning(10, pretrained=pretraining(), layer=3)


def test_linear_evaluation_leaves_the_network_alone(pretraining: Make) -> None:
    source: Pretraining = awake(pretraining())
    before = {name: value.clone() for name, value in source.network.state_dict().items()}
    module = LinearEvaluation(source, 10, optimizer=partial(torch.optim.SGD, lr=0.1)).train()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    loss = module.training_step((noise(12, 1, 8, 8), torch.arange(12) % 10), 0)
    assert float(loss.detach()) == pytest.approx(math.log(10), abs=1e-6)
    loss.backward()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in source.network.state_dict().items())
    assert sorted(module.state_dict()) == ["network.bias", "network.weight"]


# Phase 3


@pytest.mark.parametrize(("temperature", "entropy"), [(1.0, 0.365334), (0.5, 0.090095)])
def test_distillation_loss_by_hand(temperature: float, entropy: float) -> None:
    z = torch.tensor([[2.0, 0.0]])
    assert float(distillation_loss(z, z, temperature)) == pytest.approx(entropy, abs=1e-6)
    assert float(distillation_loss(torch.zeros(1, 2), z, temperature)) == pytest.approx(LN2, abs=1e-6)


def test_distillation_is_torchs_kl_without_the_square_of_the_temperature() -> None:
    student, teacher = noise(6, 5).requires_grad_(), noise(6, 5, seed=1)
    (ours,) = torch.autograd.grad(distillation_loss(student, teacher, 0.3), student)
    kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(student / 0.3, -1), (teacher / 0.3).softmax(-1))
    (theirs,) = torch.autograd.grad(kl, student)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_labels_weigh_as_much_as_answers() -> None:
    logits = noise(4, 3)
    labels = torch.tensor([-1, 2, -1, 0])
    expected = F.cross_entropy(logits[[1, 3]], labels[[1, 3]], reduction="sum") / 4
    assert torch.allclose(labelled_loss(logits, labels), expected)
    nothing = labelled_loss(logits.requires_grad_(), torch.full((4,), -1))
    assert float(nothing.detach()) == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_the_mix_of_teacher_and_labels(alpha: float, small: Make, pretraining: Make) -> None:
    teacher = FineTuning(10, pretrained=awake(pretraining(1)), layer=1)
    nn.init.normal_(teacher.classifier.weight)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = Distillation(awake(small()), 10, teacher, temperature=0.5, alpha=alpha).train()
    nn.init.normal_(student.classifier.weight)
    batch = Labelled(noise(12, 1, 8, 8), torch.tensor([3, -1, -1, 7, *[-1] * 8]))
    loss = student.training_step(batch, 0)
    z_s, z_t = student(batch.x), teacher(batch.x)
    expected = alpha * distillation_loss(z_s, z_t, 0.5) + (1 - alpha) * labelled_loss(z_s, batch.y)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    loss.backward()
    assert reached(student.network)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any("teacher" in name for name in student.state_dict())


def test_with_alpha_1_labels_are_not_looked_at(small: Make, pretraining: Make) -> None:
    losses = []
    for labels in (torch.arange(12) % 10, torch.full((12,), -1)):
        student = Distillation(small(), 10, FineTuning(10, pretrained=pretraining(1)))
        losses.append(student.training_step(Labelled(noise(12, 1, 8, 8), labels), 0))
    assert torch.equal(*losses)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"temperature": 0.0}])
def test_distillation_names_what_is_out_of_range(options: dict[str, float], small: Make) -> None:
    with pytest.raises(ValueError, match="expected a number in"):
        Distillation(small(), 10, nn.Identity(), **options)  # type: ignore[arg-type]


# Two processes


SHARES = (slice(0, 7), slice(7, 12))  # of 12 images: uneven


def _pretraining() -> Pretraining:
    torch.manual_seed(0)
    network = ResNet([1, 1], 0.0625, in_channels=1, stem="small")
    return awake(Pretraining(network, 10, {"outputs": 16}, memory={"size": 20}))


def _rank(rank: int, folder: str) -> None:
    """One of two processes, two steps; gradients averaged as DistributedDataParallel does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    module, part = synced(_pretraining()), SHARES[rank]
    batch = _pairs()
    for _ in range(2):
        module.zero_grad()
        module.training_step(type(batch)(*(column[part] for column in batch)), 0).backward()  # type: ignore[operator]
    gradients = {}
    for name, parameter in module.named_parameters():
        if not name.startswith("classifier"):  # its loss is a mean over this process's share, as in any classifier
            torch.distributed.all_reduce(parameter.grad)
            assert parameter.grad is not None
            gradients[name] = parameter.grad / 2
    torch.save((gradients, dict(module.memory.named_buffers())), f"{folder}/{rank}.pt")  # type: ignore[union-attr, operator]
    torch.distributed.destroy_process_group()


def _pairs() -> Any:
    columns = (noise(12, 1, 8, 8), torch.arange(12) % 10, noise(12, 1, 8, 8, seed=1))
    return namedtuple("Pair", ("x", "y", "x2"))(*columns)


def test_pretraining_on_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Gradients of network and head and the content of the memory, with batch norm over both."""
    context = mp.get_context("fork")
    workers = [context.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    module = _pretraining()
    for _ in range(2):
        module.zero_grad()
        module.training_step(_pairs(), 0).backward()
    assert module.memory is not None
    buffers = dict(module.memory.named_buffers())
    for gradients, memory in parts:
        for name, parameter in module.named_parameters():
            if name in gradients:
                assert parameter.grad is not None
                assert torch.allclose(gradients[name], parameter.grad, rtol=1e-3, atol=1e-3), name
        assert all(torch.allclose(memory[name], value, atol=1e-4) for name, value in buffers.items())
