"""Training: mixed batches, decay, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.iformer.module import IFormerClassifier
from modules.iformer.networks import IFormer
from tests.schedules import half


def test_decay_reaches_positions_but_no_vector(tiny: Callable[..., IFormer]) -> None:
    module = IFormerClassifier(tiny(), 5)
    decayed, plain = module.trained()
    assert "weight_decay" not in decayed
    assert plain["weight_decay"] == 0.0
    names = {id(p): n for n, p in module.named_parameters()}
    assert sum("position" in names[id(p)] for p in decayed["params"]) == 2
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_the_module_trains_with_the_optimizer_and_the_schedule_that_it_is_given(tiny: Callable[..., IFormer]) -> None:
    module = IFormerClassifier(
        tiny(), 5, optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.05), schedule=half
    )
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(3e-3, 0.05), (3e-3, 0.0)]
    assert module.schedule is half


def test_mixed_batches_have_timms_smoothed_targets(random: Callable[..., Tensor], tiny: Callable[..., IFormer]) -> None:
    module = IFormerClassifier(tiny(), 5, label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    x, y = random(4, 1, 16, 16), torch.arange(4)
    torch.manual_seed(3)
    loss = module.training_step((x, y), 0)
    torch.manual_seed(3)
    mixed, target = module.mixed(x, y)  # two classes a row: its own with the share lambda, and its neighbour's
    on, off = 1 - 0.1 + 0.1 / 5, 0.1 / 5
    smooth = target * on + (1 - target) * off
    expected = -(smooth * module(mixed).log_softmax(-1)).sum(-1).mean()
    assert bool(((target > 0).sum(1) == 2).all())
    assert torch.allclose(target.sum(1), torch.ones(4))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_mixup_and_cutmix_take_turns(tiny: Callable[..., IFormer]) -> None:
    module = IFormerClassifier(tiny(), 5, mixup=0.8, cutmix=1.0)
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    torch.manual_seed(0)
    pasted = 0
    for _ in range(200):
        mixed, _ = module.mixed(x, torch.arange(4))
        pasted += set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert 75 < pasted < 125


def test_copies_of_an_image_are_rarely_mixed_with_each_other(
    random: Callable[..., Tensor], tiny: Callable[..., IFormer]
) -> None:
    """Three copies side by side, as repeated augmentation serves them: a pair is one image with 2 in 47, not 2 in 3."""
    module = IFormerClassifier(tiny(), 16, mixup=0.8)
    y = torch.arange(16).repeat_interleave(3)
    x = random(48, 1, 4, 4)
    torch.manual_seed(0)
    unmixed = torch.cat([(module.mixed(x, y)[1] > 0).sum(1) == 1 for _ in range(40)])
    assert float(unmixed.float().mean()) < 0.1


def test_without_mixing_the_loss_is_plain_smoothed_cross_entropy(
    random: Callable[..., Tensor], tiny: Callable[..., IFormer]
) -> None:
    module = IFormerClassifier(tiny(), 5, label_smoothing=0.1).eval()
    x, y = random(6, 1, 16, 16), torch.arange(6) % 5
    assert torch.allclose(module.training_step((x, y), 0), F.cross_entropy(module(x), y, label_smoothing=0.1))


def test_fine_tuning_starts_where_training_ended(random: Callable[..., Tensor], tiny: Callable[..., IFormer]) -> None:
    start = IFormerClassifier(tiny(3), 5).eval()
    x = random(2, 1, 16, 16)
    same = IFormerClassifier(tiny(4), 5, start=start).eval()
    larger = IFormerClassifier(tiny(4, input_size=24), 5, start=start).eval()
    assert torch.allclose(same(x), start(x), atol=1e-6)
    x = random(2, 1, 24, 24)
    assert torch.allclose(larger(x), start(x), atol=1e-5)  # the network itself interpolates in the same way
    assert [s.position.shape[-1] for s in larger.iformer.stages] == [12, 6]  # type: ignore[union-attr, index]
    start.network.norm.weight.data.zero_()  # type: ignore[union-attr, operator]
    assert float(larger.network.norm.weight.detach().min()) == 1.0  # type: ignore[union-attr, operator] # a copy
