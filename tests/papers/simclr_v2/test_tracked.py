"""What each phase says of a step while it trains, written out from the outputs."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.simclr_v2.lars import LARS
from modules.simclr_v2.module import Distillation, FineTuning, LinearEvaluation, Pretraining

Make = Callable[..., Any]
Labelled = namedtuple("Labelled", ("x", "y"))
DECAYED = partial(LARS, lr=1.0, weight_decay=0.1)


def track(module: Any) -> dict[str, Any]:
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)
    return tracked


def share(right: Tensor) -> float:
    return 100 * float(right.float().mean())


@pytest.fixture
def labelled() -> Any:
    source = torch.Generator().manual_seed(2)
    return Labelled(torch.randn(12, 1, 8, 8, generator=source), torch.arange(12) % 10)


def test_pretraining_tells_the_contrastive_loss_and_both_accuracies(pretraining: Make, pairs: Any) -> None:
    module: Pretraining = pretraining(temperature=0.5)
    nn.init.normal_(module.classifier.weight, generator=torch.Generator().manual_seed(3))
    tracked = track(module)
    module.training_step(pairs, 0)

    n = len(pairs.y)
    h = module.network(torch.cat([pairs.x, pairs.x2])).detach()
    z = F.normalize(module.head(h)[-1].detach(), dim=1)
    similarity = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * n).roll(n)
    l = F.cross_entropy(similarity, partner, reduction="none")  # noqa: E741 - the paper's symbol
    assert float(tracked["loss"].detach()) == pytest.approx(float(l[:n].mean() + l[n:].mean()), rel=1e-4)
    nearest = (z[:n] @ z[n:].T).argmax(1)
    assert float(tracked["contrast_top1"]) == pytest.approx(share(nearest == torch.arange(n)))
    probe = module.classifier(h).argmax(1)
    assert float(tracked["top1"]) == pytest.approx(share(probe == torch.cat([pairs.y, pairs.y])))
    assert tracked["count"] == n


def test_fine_tuning_tells_its_loss_without_the_classifiers_decay(pretraining: Make, labelled: Any) -> None:
    module = FineTuning(10, pretrained=pretraining(), layer=1, optimizer=DECAYED)
    nn.init.normal_(module.classifier.weight, generator=torch.Generator().manual_seed(3))
    tracked = track(module)
    loss = module.training_step(labelled, 0).detach()
    logits = module(labelled.x).detach()
    plain = F.cross_entropy(logits, labelled.y)
    assert float(tracked["loss"].detach()) == pytest.approx(float(plain), rel=1e-5)
    assert float(loss) == pytest.approx(
        float(plain + 0.05 * module.classifier.weight.detach().square().sum()), rel=1e-5
    )
    assert float(tracked["top1"]) == pytest.approx(share(logits.argmax(1) == labelled.y))
    assert tracked["count"] == 12


def test_distillation_tells_how_far_it_is_from_the_teacher(small: Make, pretraining: Make, labelled: Any) -> None:
    teacher = FineTuning(10, pretrained=pretraining(1), layer=1)
    student = Distillation(small(), 10, teacher, temperature=0.5, alpha=0.7, optimizer=DECAYED)
    for number, module in enumerate((teacher, student)):
        nn.init.normal_(module.classifier.weight, generator=torch.Generator().manual_seed(number))
    tracked = track(student)
    student.training_step(labelled, 0)
    z_s, z_t = student(labelled.x).detach(), teacher(labelled.x).detach()
    p_t = (z_t / 0.5).softmax(1)
    log_p_s = (z_s / 0.5).log_softmax(1)
    kl = (p_t * (p_t.log() - log_p_s)).sum(1).mean()
    assert float(tracked["kl"].detach()) == pytest.approx(float(kl), rel=1e-4)
    loss = -0.7 * (p_t * log_p_s).sum(1).mean() + 0.3 * F.cross_entropy(z_s, labelled.y)
    assert float(tracked["loss"].detach()) == pytest.approx(float(loss), rel=1e-4)
    assert float(tracked["agreement"]) == pytest.approx(share(z_s.argmax(1) == z_t.argmax(1)))
    assert tracked["count"] == 12


def test_defaults_are_the_papers(small: Make) -> None:
    teacher = FineTuning(10, network=small())
    student = Distillation(small(), 10, teacher)
    assert (student.temperature, student.alpha) == (1.0, 1.0)
    module = Pretraining(small(), 10, {"outputs": 16})
    assert (module.temperature, module.memory) == (0.1, None)
    assert [name for name, _ in teacher.network.named_children()] == ["0"]  # layer 0: nothing of a head


def test_without_an_optimiser_there_is_no_decay(small: Make) -> None:
    module = FineTuning(10, network=small())
    nn.init.ones_(module.classifier.weight)
    assert float(module.decay_of_classifier().detach()) == 0


def test_predictions_are_the_classifiers_on_the_network(pretraining: Make, small: Make, labelled: Any) -> None:
    """A new classifier's logits are 0, weights and biases alike."""
    source: Pretraining = pretraining().eval()
    student = Distillation(small(1), 10, FineTuning(10, network=small())).eval()
    evaluation = LinearEvaluation(source, 10).eval()
    for module, layer in ((source, source.classifier), (student, student.classifier), (evaluation, evaluation.network)):
        assert not module(labelled.x).any()
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        network = student.network if module is student else source.network
        with torch.no_grad():
            assert torch.allclose(module(labelled.x), layer(network(labelled.x)), atol=1e-6)


def test_a_rate_is_remembered_as_it_was_scaled(pretraining: Make) -> None:
    """The schedule multiplies `initial_lr`."""
    module: Pretraining = pretraining()
    module.lr_scale = 9.0
    groups: list[dict[str, Any]] = module.configure_optimizers().param_groups  # type: ignore[union-attr]
    assert [(group["lr"], group["initial_lr"]) for group in groups] == [(3.0, 3.0)] * 2
