"""The deep version: maps, the three phases, and what each may change."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.robust_pbn.backbones import (
    Backbone,
    PartNetwork,
    Start,
    clear_absent,
    convnext_tiny,
    count_present,
    resnet50,
    small,
)
from modules.robust_pbn.deep import EndToEnd, HeadOnly, PartClassifier, Parts, explain
from modules.robust_pbn.heads import NormalisedRBF, StableCBC
from modules.robust_pbn.losses import CrossEntropy, Margin, alignment_loss, margin_loss, tanh_loss
from tests.schedules import half

CBC = partial(StableCBC, start="deep")


def start() -> Classifier:
    torch.manual_seed(3)
    return Classifier(Start(small(1, [4, 6, 8], [1, 2, 2], tuned=2), 3), 3)


def views(count: int = 6) -> SimpleNamespace:
    torch.manual_seed(4)
    return SimpleNamespace(x=torch.randn(count, 1, 8, 8), y=torch.arange(count) % 3, x2=torch.randn(count, 1, 8, 8))


def phase_1(epochs: int = 4, epoch: int = 0) -> Parts:
    module = Parts(start())
    module._trainer = SimpleNamespace(max_epochs=epochs, current_epoch=epoch)  # type: ignore[assignment]
    return module


def step(module: Any, batch: Any, rate: float = 0.05) -> None:
    module.train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    module.training_step(batch, 0).backward()
    optimizer.step()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("build", "count"), [(convnext_tiny, 27_818_592), (resnet50, 23_508_032)])
def test_published_backbones(build: Any, count: int) -> None:
    """torchvision's counts without the classifier; strides have no parameters."""
    with torch.device("meta"):
        network = build(pretrained=False)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    ("options", "shape"), [({}, (768, 26, 26)), ({"over": 300}, (768, 13, 13)), ({"over": 999}, (768, 7, 7))]
)
def test_maps_of_convnext(options: dict[str, int], shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        assert convnext_tiny(pretrained=False, **options)(torch.zeros(1, 3, 224, 224)).shape == (1, *shape)


def test_maps_of_resnet() -> None:
    with torch.device("meta"):
        network = resnet50(pretrained=False)
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 2048, 28, 28)
    assert network.channels == 2048


def test_the_tuned_layers_are_the_published_ones() -> None:
    """features.6 and .7 of ConvNeXt-T, layer3 and layer4 of ResNet-50."""
    with torch.device("meta"):
        convnext, resnet = convnext_tiny(pretrained=False), resnet50(pretrained=False)
    assert [type(layer).__name__ for layer in convnext.upper()[0]] == ["LayerNorm2d", "Conv2d"]
    assert [layer.in_channels for layer in convnext.upper()[0] if isinstance(layer, nn.Conv2d)] == [384]
    assert [len(layer) for layer in resnet.upper()] == [6, 3]
    assert sum(p.numel() for p in resnet.upper().parameters()) == 7_098_368 + 14_964_736


@pytest.mark.parametrize(("classes", "size"), [(200, 307_200), (196, 301_056), (37, 56_832)])
def test_published_heads(classes: int, size: int) -> None:
    assert sum(p.numel() for p in CBC(768, classes).parameters()) == size


def test_deep_heads_start_as_published() -> None:
    torch.manual_seed(0)
    logits = CBC(768, 37).logits.detach()
    assert float(logits.mean()) == pytest.approx(0.6, abs=0.005)
    assert float(logits.std()) == pytest.approx(0.2, abs=0.005)


def test_components_share_every_place_so_that_some_are_there() -> None:
    network = PartNetwork(small(1, [4, 8], [1, 2], tuned=1))
    maps, d = network(torch.randn(5, 1, 8, 8))
    assert torch.allclose(maps.sum(1), torch.ones(5, 4, 4), atol=1e-6)
    assert torch.equal(d, maps.flatten(2).amax(2))
    assert float(d.detach().sum(1).min()) >= 1 - 1e-6


def test_small_detections_do_not_count_in_the_test() -> None:
    d = torch.tensor([[0.05, 0.1, 0.8]])
    assert torch.equal(clear_absent(d), torch.tensor([[0.0, 0.1, 0.8]]))
    assert count_present(d).tolist() == [2]
    module = HeadOnly(phase_1(), CBC, 3, Margin(0.025))
    module.eval()
    x = torch.randn(4, 1, 8, 8)
    expected = module.head(clear_absent(module.look(x)[1]))
    assert torch.equal(module(x), expected)


def test_an_absent_component_decides_no_test_image(logged: Callable[..., dict[str, float]]) -> None:
    """Class 0 is the absence of component 0, seen at 0.09: 0.91, or 1 once cleared. Class 1 always scores 0.95."""
    module = HeadOnly(phase_1(), CBC, 3, Margin(0.025)).eval()
    positive, negative = torch.full((2, 8, 3), -30.0).unbind(0)
    negative[0, 0] = 0.0
    negative[1, 1], positive[2, 1] = math.log(0.95), math.log(0.05)
    positive[2, 2] = 0.0
    with torch.no_grad():
        module.head.logits.copy_(torch.stack([positive, negative]))
    d = torch.zeros(1, 8)
    d[0, 0] = 0.09
    module.look = lambda x: (torch.zeros(1, 8, 2, 2), d)  # type: ignore[method-assign]
    assert module.score(d)[0].tolist() == pytest.approx([0.91, 0.95, 0.0], abs=1e-5)
    assert logged(module, (torch.zeros(1, 1, 8, 8), torch.tensor([0])))["test/top1"] == 100


def test_phase_1_is_alignment_and_tanh_with_a_weight_that_rises() -> None:
    batch = views()
    for epoch, weight in ((0, 0.25), (3, 1.0)):
        module = phase_1(epochs=4, epoch=epoch)
        assert module.align_weight() == weight
        maps, d = module.parts(torch.cat([batch.x, batch.x2]))
        align = alignment_loss(maps[:6], maps[6:])
        tanh = (tanh_loss(d[:6]) + tanh_loss(d[6:])) / 2
        expected = weight * align + 5 * tanh
        assert float(module.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_phase_1_trains_the_upper_layers_without_a_head() -> None:
    module = phase_1()
    before = state(module.parts.backbone)
    step(module, views())
    weights = {name for name in changed(module.parts.backbone, before) if name.endswith("weight")}
    assert weights == {name for name in before if name.endswith("weight") and not name.startswith("0.")}
    assert not any("head" in name or "network" in name for name, _ in module.named_parameters())


def test_phase_2_changes_the_head_alone() -> None:
    """Batch statistics included: the components stay bit-equal."""
    parts = phase_1()
    before = state(parts.parts)
    module = HeadOnly(parts, CBC, 3, Margin(0.025))
    head = state(module.head)
    step(module, views())
    assert changed(parts.parts, before) == set()
    assert changed(module.head, head) == {"logits"}
    assert [name for name, _ in module.named_parameters()] == ["network.logits"]


def test_phase_3_trains_head_and_upper_layers_from_where_phase_2_ended() -> None:
    parts = phase_1()
    second = HeadOnly(parts, CBC, 3, Margin(0.025))
    step(second, views())
    learnt = second.head.logits.detach().clone()
    module = EndToEnd(parts, second)
    assert torch.equal(module.head.logits, learnt)
    assert all(part.training for part in module.modules())
    before = state(module)
    step(module, views())
    moved = {name for name in changed(module, before) if name.endswith(("weight", "logits"))}
    assert moved == {
        name for name in before if name.endswith(("weight", "logits")) and not name.startswith("parts.backbone.0.")
    }
    trained = {id(p) for p in module.trained()}
    assert trained == {id(p) for p in module.parameters() if p.requires_grad}


def test_the_cbc_head_is_trained_by_the_margin_loss_of_both_views_alone() -> None:
    batch = views()
    module = HeadOnly(phase_1(), CBC, 3, Margin(0.025))
    d = module.look(torch.cat([batch.x, batch.x2]))[1]
    right = F.one_hot(batch.y.repeat(2), 3).bool()
    expected = margin_loss(module.head(d), right, 0.025).mean()
    assert float(module.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)


def track(module: Any) -> dict[str, Any]:
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update({k: float(v) for k, v in terms.items()}, count=count)
    return tracked


def test_a_step_tells_its_terms_and_how_many_components_are_there() -> None:
    """Of both views in the mean; phase 2 by the class of each view."""
    batch, first = views(), phase_1()
    both = torch.cat([batch.x, batch.x2])
    tracked = track(first)
    loss = first.training_step(batch, 0)
    maps, d = first.parts(both)
    assert tracked["align"] == pytest.approx(float(alignment_loss(maps[:6], maps[6:])), rel=1e-5)
    assert tracked["tanh"] == pytest.approx(float((tanh_loss(d[:6]) + tanh_loss(d[6:])) / 2), rel=1e-5)
    assert tracked["present"] == pytest.approx(float((d >= 0.1).sum(1).float().mean()))
    assert (tracked["loss"], tracked["count"]) == (float(loss), 6)

    second = HeadOnly(first, CBC, 3, Margin(0.025))
    tracked = track(second)
    loss = second.training_step(batch, 0)
    scores = second.head(second.look(both)[1])
    right = (scores.argmax(1) == batch.y.repeat(2)).float().mean()
    assert tracked["top1"] == pytest.approx(100 * float(right))
    assert tracked["loss"] == tracked["classes"] == float(loss)
    assert tracked["count"] == 6


def test_validation_and_test_report_the_same_images_alike(logged: Callable[..., dict[str, float]]) -> None:
    """Ten images in two batches: accuracy of cleared detections, components that are there, the share of reasoning
    that is negative, each as the mean over all of them."""
    module = HeadOnly(phase_1(), CBC, 3, Margin(0.025)).eval()
    torch.manual_seed(5)
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    with torch.no_grad():
        d = module.look(x)[1]
        right = module.head(clear_absent(d)).argmax(1) == y
        values = logged(module, *batches)
        for number, batch in enumerate(batches):
            module.validation_step(batch, number)
        validated: dict[str, float] = {}
        module.log_dict = lambda logs, **_: validated.update({k: float(v) for k, v in logs.items()})  # type: ignore[method-assign, assignment]
        module.on_validation_epoch_end()
    assert values["test/top1"] == validated["val/top1"] == pytest.approx(100 * float(right.float().mean()))
    assert values["test/present"] == pytest.approx(float(count_present(d).float().mean()))
    _, negative = module.head.reasoning()
    assert values["test/negative_share"] == pytest.approx(float(negative.sum(0).mean()))


def test_stages_keep_their_optimiser_and_schedule() -> None:
    options: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.1), "schedule": half}
    parts = phase_1()
    second = HeadOnly(parts, CBC, 3, Margin(0.025), **options)
    for stage in (Parts(start(), **options), second, EndToEnd(parts, second, **options)):
        assert stage.schedule is half
        assert stage.optimizer_factory is options["optimizer"]


def test_heads_and_losses_are_crossed_on_the_same_components() -> None:
    parts = phase_1()
    x = torch.randn(3, 1, 8, 8)
    seen = [
        HeadOnly(parts, head, 3, loss).look(x)[1]
        for head in (CBC, NormalisedRBF)
        for loss in (Margin(), CrossEntropy())
    ]
    assert all(torch.equal(d, seen[0]) for d in seen)


def test_an_explanation_adds_up_what_is_there_and_what_is_not() -> None:
    d = torch.tensor([0.9, 0.0, 0.5])
    positive, negative = torch.tensor([0.4, 0.1, 0.0]), torch.tensor([0.0, 0.3, 0.2])
    actual = explain(d, positive, negative, count=2)
    assert [(words, k) for words, k, _ in actual] == [("there", 0), ("not there", 1), ("not there", 2)]
    assert [share for *_, share in actual] == pytest.approx([0.36, 0.3, 0.1])


def test_pictures_show_an_explanation() -> None:
    module = HeadOnly(phase_1(), CBC, 3, Margin(0.025)).eval()
    x = torch.rand(2, 1, 8, 8)
    data = SimpleNamespace(
        test_dataloader=lambda: [(x, torch.tensor([0, 1]))],
        shown=lambda images: images,
        spec=SimpleNamespace(classes=["a", "b", "c"]),
    )
    assert set(module.pictures(data)) == {"explanation"}


def test_what_has_no_certificate_says_so() -> None:
    module = HeadOnly(phase_1(), CBC, 3, lambda reading, right, y: reading.radius(right))
    with pytest.raises(ValueError, match="the deep network has no certificate"):
        module.training_step(views(), 0)
    assert isinstance(module, PartClassifier)
    assert isinstance(phase_1().parts.backbone, Backbone)
