"""What recovery and post-training say of their steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.cda.curriculum import Crops
from modules.cda.module import BINS, Recover
from modules.cda.post_training import PostTrain
from modules.common.classifier import Classifier
from modules.common.schedules import Position


def track(module: Any) -> dict[str, Any]:
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)
    return tracked


def recovery(squeezed: Classifier, steps: int = 20, **options: Any) -> Recover:
    module = Recover(squeezed, 10, 2, (1, 8, 8), 10, Crops("step", jitter=0), **options)
    module._trainer = SimpleNamespace(num_training_batches=steps, optimizers=[None])  # type: ignore[assignment]
    torch.manual_seed(4)
    with torch.no_grad():
        module.x.copy_(torch.randn(module.x.shape))
    return module


def share(rows: torch.Tensor) -> Any:
    return SimpleNamespace(slot=rows, y=rows % 10)


def test_a_step_of_recovery_tells_both_terms_and_adds_them_to_its_bin(squeezed: Classifier) -> None:
    """Of 20 steps, the 7th begins at bin 35 of 100."""
    module = recovery(squeezed, statistics_weight=0.5, first_layer_weight=3.0)
    tracked = track(module)
    rows = torch.tensor([1, 4, 6, 7])
    torch.manual_seed(0)
    loss = module.training_step(share(rows), 7)

    torch.manual_seed(0)
    view = module.crops(module.x[rows], 7, 20).detach()
    network = squeezed.network.eval()
    inputs: list[torch.Tensor] = []
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach())) for layer in norms]
    with torch.no_grad():
        ce = F.cross_entropy(network(view), rows % 10)
    for hook in hooks:
        hook.remove()
    terms = []
    for x, layer in zip(inputs, norms, strict=True):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        assert layer.running_var is not None
        assert layer.running_mean is not None
        terms.append((variance - layer.running_var).norm() + (mean - layer.running_mean).norm())
    bn = 3 * terms[0] + sum(terms[1:])

    assert float(tracked["ce"].detach()) == pytest.approx(float(ce), rel=1e-5)
    assert float(tracked["bn"].detach()) == pytest.approx(float(bn), rel=1e-5)
    assert float(tracked["loss"].detach()) == float(loss.detach()) == pytest.approx(float(ce + 0.5 * bn), rel=1e-5)
    assert tracked["count"] == 4
    filled = module.trace.abs().sum(1).nonzero().flatten().tolist()
    assert filled == [35]
    assert module.trace[35].tolist() == pytest.approx([float(ce), float(bn), 1.0], rel=1e-5)


def test_the_last_tenth_of_the_steps_is_told(squeezed: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins 90 to 99: sums of both terms over their steps; before them all is left out."""
    module = recovery(squeezed)
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(Recover, "current_epoch", 0)
    monkeypatch.setattr(Recover.__mro__[1], "on_train_epoch_end", lambda self: None)
    module.trace[:90] = 100.0
    module.on_train_epoch_end()
    assert logged == {"train/final_ce": 0.0, "train/final_bn": 0.0}  # nothing was counted there
    module.trace[90] = torch.tensor([3.0, 10.0, 2.0])
    module.trace[BINS - 1] = torch.tensor([1.0, 2.0, 2.0])
    module.on_train_epoch_end()
    assert logged == pytest.approx({"train/final_ce": 1.0, "train/final_bn": 3.0})


def test_images_of_a_recovery_have_their_own_rows_and_the_last_may_be_fewer(
    squeezed: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """17 images, 10 at a time."""
    module = recovery(squeezed)
    module.images = torch.full((17, 1, 8, 8), 7, dtype=torch.uint8)
    module.log_dict = lambda values, **_: None  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(Recover.__mro__[1], "on_train_epoch_end", lambda self: None)
    with torch.no_grad():
        module.x.copy_(torch.arange(10).view(-1, 1, 1, 1).expand_as(module.x) / 51)
    monkeypatch.setattr(Recover, "current_epoch", 1)
    module.on_train_epoch_end()
    assert bool((module.images[:10] == 7).all())
    assert module.images[10:, 0, 0, 0].tolist() == [0, 5, 10, 15, 20, 25, 30]


def test_the_schedule_is_that_of_one_recovery(squeezed: Classifier) -> None:
    seen: list[Position] = []
    module = recovery(squeezed, schedule=lambda position: float(seen.append(position) or 1))  # type: ignore[func-returns-value]
    module.factors(Position(5, 3, 20, 40))
    assert seen == [Position(0, 3, 20, 1)]


def test_post_training_tells_where_student_and_teacher_agree(squeezed: Classifier) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = PostTrain(squeezed, student, 10, temperature=2.0, squared=True, cutmix=0.0)
    tracked = track(module)
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = module.training_step(SimpleNamespace(x=x, y=torch.zeros(40, dtype=torch.long)), 0)
    with torch.no_grad():
        z_s, z_t = student(x), squeezed.network.eval()(x).half().float()
    p = (z_t / 2).softmax(1)
    kl = (p * (p.log() - (z_s / 2).log_softmax(1))).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(4 * float(kl), rel=1e-4)
    assert float(tracked["loss"].detach()) == float(loss.detach())
    agreement = 100 * float((z_s.argmax(1) == z_t.argmax(1)).float().mean())
    assert agreement < 100
    assert float(tracked["agreement"]) == pytest.approx(agreement)
    assert tracked["count"] == 40


def test_defaults_are_the_published_ones(squeezed: Classifier) -> None:
    module = PostTrain(squeezed, nn.Identity(), 10)
    assert (module.temperature, module.scale) == (20.0, 1.0)
    assert len(module.mixes) == 1
    recover = Recover(squeezed, 10, 1, (1, 8, 8), 10, Crops())
    assert (recover.statistics_weight, recover.first_layer_weight, recover.jpeg_quality) == (0.01, 10.0, None)
    crops = Crops()
    assert (crops.shape, crops.milestone, crops.smallest, crops.jitter) == ("cosine", 1.0, 0.08, 32)
    assert not crops.reverse
    assert not crops.shuffled
