"""The RBF and PIP-Net heads as released: rates, layers, terms and the pull on the head, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.running import engine
from experiments.running.plan import Plan
from modules.common.classifier import Classifier
from modules.robust_pbn.backbones import Start, small
from modules.robust_pbn.deep import Parts, Weights
from modules.robust_pbn.heads import NormalisedRBF, PIPNet
from modules.robust_pbn.losses import CrossEntropy, alignment_loss, tanh_loss
from modules.robust_pbn.released import Released

RATE, HEAD_RATE = 5e-4, 0.05
BATCHES = 4


def released(head: Any = PIPNet, epochs: int = 12, **options: Any) -> Released:
    """With the trainer's position at hand, in epochs of four batches."""
    torch.manual_seed(3)
    parts = Parts(Classifier(Start(small(1, [4, 6, 8], [1, 2, 2], tuned=2), 3), 3))
    given: dict[str, Any] = {"head_lr": HEAD_RATE, "freeze_epochs": 6, **options}
    optimizer = partial(torch.optim.AdamW, lr=RATE, weight_decay=0.0)
    module = Released(
        parts, head, 3, CrossEntropy("pipnet"), Weights(2.0, 5.0, 2.0), optimizer=optimizer, **given
    ).train()
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        max_epochs=epochs, current_epoch=0, num_training_batches=BATCHES, optimizers=[]
    )
    module._trainer.optimizers = [module.configure_optimizers()]  # type: ignore[union-attr]
    return module


def views(count: int = 6) -> SimpleNamespace:
    torch.manual_seed(4)
    return SimpleNamespace(x=torch.randn(count, 1, 8, 8), y=torch.arange(count) % 3, x2=torch.randn(count, 1, 8, 8))


def step(module: Released, epoch: int, number: int, batch: Any) -> Tensor:
    """One batch as the trainer runs it."""
    module.trainer.current_epoch = epoch  # type: ignore[misc]
    optimizer = module.trainer.optimizers[0]
    module.on_train_batch_start(batch, number)
    loss: Tensor = module.training_step(batch, number)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    module.on_train_batch_end(None, batch, number)
    return loss.detach()


def rates(module: Released, epoch: int, number: int) -> tuple[float, float]:
    module.trainer.current_epoch = epoch  # type: ignore[misc]
    module.on_train_batch_start(None, number)
    network, head = module.trainer.optimizers[0].param_groups
    return network["lr"], head["lr"]


@pytest.mark.parametrize("epochs", [12, 40])
def test_rates_are_those_of_the_released_loop(epochs: int) -> None:
    """Its own calls of torch's schedulers: a cosine that stands still in epochs 1 to 3, restarts after each step."""
    module = released(epochs=epochs)
    network = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=RATE)
    head = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=HEAD_RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(network, T_max=BATCHES * epochs, eta_min=RATE / 100)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(head, T_0=5 if epochs <= 30 else 10, eta_min=0.001)
    for epoch in range(epochs):
        for number in range(BATCHES):
            expected = network.param_groups[0]["lr"], head.param_groups[0]["lr"]
            assert rates(module, epoch, number) == pytest.approx(expected, rel=1e-9), (epoch, number)
            head.step()
            restarts.step(epoch + number / BATCHES)
            if epoch >= 3:
                network.step()
                cosine.step()


def test_a_larger_batch_scales_all_rates() -> None:
    module = released()
    module.lr_scale = 2.0
    module.trainer.optimizers = [module.configure_optimizers()]  # type: ignore[misc]
    assert rates(module, 0, 0) == pytest.approx((2 * RATE, 2 * HEAD_RATE))


@pytest.mark.parametrize("head", [PIPNet, partial(NormalisedRBF, start="deep", shrink=0.001)])
def test_layers_train_when_their_turn_comes(head: Any) -> None:
    """Epochs from 1: head alone to the third, upper layers up to the sixth, all of them afterwards."""
    module, batch = released(head), views()
    for epoch, layers in ((0, set()), (2, set()), (3, {"1", "2"}), (5, {"1", "2"}), (6, {"0", "1", "2"})):
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        step(module, epoch, 1, batch)
        moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
        assert {name.split(".")[2] for name in moved if name.startswith("parts.")} == layers, epoch
        assert any(name.startswith("network.") for name in moved)


def test_terms_of_phase_1_come_back_after_the_head_alone() -> None:
    batch = views()
    for epoch in (2, 3):
        module = released()
        maps, d = module.look(torch.cat([batch.x, batch.x2]))
        classes = F.cross_entropy(torch.log1p(module.head(d) ** 2), batch.y.repeat(2))
        tanh = (tanh_loss(d[:6]) + tanh_loss(d[6:])) / 2
        rest = 5 * alignment_loss(maps[:6], maps[6:]) + 2 * tanh
        expected = 2 * classes + (rest if epoch >= 3 else 0)
        assert float(step(module, epoch, 1, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_the_head_is_pulled_to_zero_after_each_step() -> None:
    """By 0.001 and never below, whatever the optimiser did; once more as epoch 30, 60 or the last begins."""
    module = released(epochs=33, head_lr=0.0, head_epochs=0)
    weight = module.head.weight
    for epoch, number, pulls in ((0, 0, 1), (0, 1, 1), (29, 0, 2), (29, 1, 1), (30, 0, 1), (32, 0, 2)):
        module.trainer.current_epoch = epoch  # type: ignore[misc]
        with torch.no_grad():
            weight.fill_(0.5)
            weight[0, 0] = 0.0005
        module.on_train_batch_start(None, number)
        module.on_train_batch_end(None, None, number)
        assert float(weight[0, 0]) == 0
        assert float(weight[1, 1]) == pytest.approx(0.5 - 0.001 * pulls, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["deep_rbf_released", "deep_cbc"])
def test_deep_networks_on_two_processes_are_those_on_one(make_plan: Callable[..., Plan], stage: str) -> None:
    """Layers that wait their turn, batch statistics and the sum within a logarithm are those of the global batch."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sgd = [f"stages.{n}.module.optimizer={{_target_:torch.optim.SGD,_partial_:true,lr:0.01}}" for n in STAGES]
        sizes = [f"stages.{n}.data.{size}" for n in STAGES for size in ("train_size=64", "test_size=33")]
        plan = make_plan("paper=robust_pbn", f"trainer={trainer}", *sgd, *sizes)
        for name in STAGES:
            if name in (stage, *earlier(plan, stage)):
                metrics.append(engine.ensure(plan, plan.stages[name]).metrics)
        weights.append(torch.load(plan.stages[stage].directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[-1]["test/n"] == 33
    assert metrics[len(metrics) // 2 - 1] == pytest.approx(metrics[-1], rel=1e-4)
    for name, value in weights[0].items():
        assert torch.allclose(value.double(), weights[1][name].double(), atol=1e-5), name


STAGES = ("deep_start", "deep_parts", "deep_rbf_released_parts", "deep_rbf_released", "deep_cbc_head", "deep_cbc")


def earlier(plan: Plan, stage: str) -> list[str]:
    """All that a stage rests on."""
    direct = plan.stages[stage].predecessors
    return [*direct, *(name for d in direct for name in earlier(plan, d))]
