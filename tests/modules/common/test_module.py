"""What every stage's module keeps the books of: rates, epoch means, and what a checkpoint holds of them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.common.module import StageModule
from modules.common.schedules import Position

SGD = partial(torch.optim.SGD, lr=0.5)


class Stage(StageModule):
    """One weight."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.weight = nn.Parameter(torch.ones(1))


def trainer(module: Any, *optimizers: Any, **options: Any) -> Any:
    """What the module reads of a trainer of two processes that see the same."""
    made = SimpleNamespace(
        optimizers=list(optimizers),
        strategy=SimpleNamespace(reduce=lambda total, reduce_op: 2 * total if reduce_op == "sum" else total),
        **options,
    )
    module._trainer = made
    return made


def logged(module: Any) -> dict[str, float]:
    values: dict[str, float] = {}
    module.log = lambda name, value: values.update({name: value})
    module.log_dict = values.update
    return values


def test_rates_are_scaled_once_and_then_follow_the_schedule() -> None:
    seen: list[Position] = []

    def schedule(position: Position) -> float:
        seen.append(position)
        return 0.25

    module = Stage(SGD, schedule)
    assert module.lr_scale == 1.0
    module.lr_scale = 4.0
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["initial_lr"]) == (2.0, 2.0)

    trainer(module, optimizer, num_training_batches=8, max_epochs=6, current_epoch=3)
    for batch in (5, 6):
        module.on_train_batch_start(None, batch)
        assert group["lr"] == 0.5
    assert seen == [Position(3, 5, 8, 6), Position(3, 6, 8, 6)]

    module.max_steps = 20
    module.on_train_batch_start(None, 0)
    assert seen[-1] == Position(3, 0, 8, 2.5)


def test_each_optimisers_rate_has_its_own_factor() -> None:
    class Two(Stage):
        def factors(self, position: Position) -> list[float]:
            return [0.5, 2.0]

    module = Two(SGD, lambda position: 1.0)
    optimizers = [module.configure_optimizers(), module.configure_optimizers()]
    trainer(module, *optimizers, num_training_batches=1, max_epochs=1, current_epoch=0)
    module.on_train_batch_start(None, 0)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.25, 1.0]

    del module.trainer.optimizers[0]
    with pytest.raises(ValueError, match="zip"):
        module.on_train_batch_start(None, 0)


def test_without_a_schedule_the_rate_stays() -> None:
    module = Stage(SGD)
    optimizer = module.configure_optimizers()
    trainer(module, optimizer)
    module.on_train_batch_start(None, 0)
    assert optimizer.param_groups[0]["lr"] == 0.5  # type: ignore[union-attr]


def test_a_stage_without_an_optimiser_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="Stage is to be fitted but has no optimizer"):
        Stage().configure_optimizers()


def test_means_of_an_epoch_count_every_image_of_every_process_once() -> None:
    module = Stage(SGD)
    values = logged(module)
    trainer(module, module.configure_optimizers())
    module.track(3, loss=torch.tensor(2.0, requires_grad=True), acc=torch.tensor(50.0))
    module.track(1, loss=torch.tensor(6.0), acc=torch.tensor(100.0))
    assert not module._sums["loss"].requires_grad
    module.on_train_epoch_end()
    assert values == {"train/loss": 3.0, "train/acc": 62.5, "train/lr": 0.5}

    values.clear()
    module.on_train_epoch_end()  # nothing was tracked since
    assert values == {"train/lr": 0.5}
    trainer(module)
    values.clear()
    module.on_train_epoch_end()
    assert values == {}


def test_a_half_done_epoch_goes_on_from_its_sums() -> None:
    first, second = Stage(), Stage()
    first.track(3, loss=torch.tensor(2.0))
    checkpoint: dict[str, Any] = {}
    first.on_save_checkpoint(checkpoint)
    first.track(1, loss=torch.tensor(100.0))  # after the checkpoint
    second.on_load_checkpoint(checkpoint)
    second.track(1, loss=torch.tensor(6.0))
    values = logged(second)
    trainer(second)
    second.on_train_epoch_end()
    assert values == {"train/loss": 3.0}


def test_an_example_is_one_zero_where_the_module_is() -> None:
    (x,) = Stage().to("meta").example((3, 4, 5))
    assert (x.shape, x.device.type) == ((1, 3, 4, 5), "meta")
    (x,) = Stage().example((2,))
    assert not bool(x.any())


def test_there_is_nothing_to_show_or_to_keep_by_default() -> None:
    module = Stage()
    assert (module.pictures(None), module.artifacts(), module.partial_backward) == ({}, {}, False)
    assert list(module.trained()) == [module.weight]


def test_tracked_tensors_need_not_lie_where_they_are_summed() -> None:
    """The count is made beside the module's own tensors."""
    module = Stage().to("meta")
    trainer(module)
    asked: list[Tensor] = []

    def reduce(total: Tensor, reduce_op: str) -> Tensor:
        asked.append(total)
        return torch.tensor([6.0, 2.0])

    module.trainer.strategy.reduce = reduce  # type: ignore[method-assign]
    values = logged(module)
    module.track(2, loss=torch.ones((), device="meta"))
    module.on_train_epoch_end()
    assert [total.device.type for total in asked] == ["meta"]
    assert values == {"train/loss": 3.0}
