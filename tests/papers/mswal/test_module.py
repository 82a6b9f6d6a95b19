"""Training, transfer and the ways of inference."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualUNet
from torch import Tensor, nn

from experiments.running import training
from experiments.running.plan import Plan
from modules.mswal.inference import Inference, gaussian_window, sliding_window
from modules.mswal.module import Segmenter
from modules.mswal.networks import HEADS, transfer
from modules.mswal.scores import dice_per_class
from tests.papers.mswal.helpers import randomise, small_network


def test_transfer_takes_all_but_the_heads() -> None:
    source, target = randomise(small_network(classes=4)), small_network(classes=2)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    module = Segmenter(target, pretrained=Segmenter(source))
    after, given = module.network.state_dict(), source.state_dict()
    assert all(torch.equal(after[n], fresh[n] if HEADS in n else given[n]) for n in after)
    assert sum(HEADS in n for n in after) == 4  # weight and bias of two heads
    with pytest.raises(ValueError, match="pretrained"):
        transfer(small_network(ResidualUNet), small_network())


def test_training_step_reaches_every_weight_but_the_lowest_head() -> None:
    module = Segmenter(randomise(small_network()))
    torch.manual_seed(2)
    loss = module.training_step((torch.randn(2, 1, 16, 16, 16), torch.randint(3, (2, 16, 16, 16))), 0)
    loss.backward()
    still = {n for n, p in module.network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    constant = {n for n in still if n.endswith("conv.bias")}  # an instance norm follows: no effect
    assert still - constant == {f"decoder.{HEADS}.0.weight", f"decoder.{HEADS}.0.bias"}


class Pointwise(nn.Module):
    """A network that mirrors with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.decoder = nn.Conv3d(1, 3, 1), SimpleNamespace(num_classes=3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


def test_mirroring_changes_nothing_for_a_network_that_mirrors_along() -> None:
    torch.manual_seed(0)
    module, x = Segmenter(Pointwise()), torch.randn(1, 1, 12, 10, 9)
    assert len(module.flips) == 8
    with torch.no_grad():
        actual = sliding_window(x, module.average_views, [8, 8, 8], 0.5, gaussian_window([8, 8, 8]), 2)
        assert torch.allclose(actual, module(x), atol=1e-5)


def test_mirrored_logits_are_the_average_over_mirrored_inputs() -> None:
    module, x = Segmenter(small_network()).eval(), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        actual = module.average_views(x)
        each = [module(x.flip(axes)).flip(axes) if axes else module(x) for axes in module.flips]
        assert torch.allclose(actual, torch.stack(each).mean(0), atol=1e-5)
        assert torch.allclose(module.average_views(x.flip(3)), actual.flip(3), atol=1e-5)
        both = Segmenter(module.network, inference=Inference(compare=True)).eval().average_views(x)
        assert torch.equal(both, torch.cat([actual, module(x)], 1))


class OfEachWindow(nn.Module):
    """Logits that depend on the whole window and on its direction: its mean, its first voxel's row, and the voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = SimpleNamespace(num_classes=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        mean = x.mean((2, 3, 4), keepdim=True).expand_as(x)
        return [torch.cat([0.3 * mean, x - mean, x[..., :1].expand_as(x) - x, -x - 0.1], 1)]


def test_the_three_ways_of_inference(make_plan: Callable[..., Plan]) -> None:
    data = training.build(make_plan("paper=mswal", "scale=smoke").stages["inception"].data)
    data.setup()
    module = Segmenter(OfEachWindow(), inference=Inference(compare=True, window_batch=3))
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    patch, (image, reference) = [16, 16, 16], next(iter(data.test_dataloader()))
    module.test_step((image, reference), 0)

    def mirrored(x: Tensor) -> Tensor:
        return torch.stack([module(x.flip(axes)).flip(axes) for axes in module.flips]).mean(0)

    window = gaussian_window(patch)
    both = sliding_window(image, mirrored, patch, 0.5, window)[0].argmax(0)
    straight = sliding_window(image, module, patch, 0.5, window)[0].argmax(0)
    single = torch.zeros_like(both)  # size 24: windows begin at 0 and 8, and voxels below 16 belong to the first
    for start in reversed(list(product((0, 8), repeat=3))):
        box = tuple(slice(a, a + 16) for a in start)
        single[box] = module(image[(..., *box)])[0].argmax(0)
    actual = [module.scores, module.inference_scores["no_mirror"], module.inference_scores["no_overlap"]]
    for scores, labels in zip(actual, (both, straight, single), strict=True):
        assert torch.equal(scores.dice_sum, dice_per_class(labels, reference[0], 4).nan_to_num())
    assert not torch.equal(both, straight)
    assert not torch.equal(straight, single)


def test_validation_is_the_mean_dice_of_whole_scans(make_plan: Callable[..., Plan]) -> None:
    """Without mirroring; the next epoch starts anew."""
    data = training.build(make_plan("paper=mswal", "scale=smoke").stages["inception"].data)
    data.setup()
    module = Segmenter(OfEachWindow(), inference=Inference(window_batch=3))
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    logged: dict[str, Tensor] = {}
    module.log = logged.__setitem__  # type: ignore[method-assign, assignment]
    patch = [16, 16, 16]
    (loader,) = data.val_dataloader()
    (image, reference) = next(iter(loader))
    expected = sliding_window(image, module, patch, 0.5, gaussian_window(patch))[0].argmax(0)
    for _ in range(2):
        module.validation_step((image, reference), 0)
        module.on_validation_epoch_end()
        assert float(logged["val/dice"]) == pytest.approx(float(dice_per_class(expected, reference[0], 4).nanmean()))


def test_scores_count_every_volume_and_name_every_class(make_plan: Callable[..., Plan]) -> None:
    stage = make_plan("paper=mswal", "scale=smoke").stages["inception"]
    data = training.build(stage.data)
    data.setup()
    module = Segmenter(small_network(classes=4), inference=Inference(compare=True, window_batch=8)).eval()
    logged: dict[str, float] = {}
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    module.log_dict = logged.update  # type: ignore[method-assign, assignment]
    with torch.inference_mode():
        for number, batch in enumerate(data.test_dataloader()):
            module.test_step(batch, number)
        module.on_test_epoch_end()
    assert logged["test/n"] == data.spec.sizes["test"]
    named = {"dice", "region_f1", "region_f1_t0", "region_f1_t50", "dice_no_mirror", "dice_no_overlap"}
    assert {f"test/{name}" for name in named} <= set(logged)
    assert any(name in logged for name in ("test/dice_stone", "test/dice_cyst", "test/dice_tumour"))
    assert all(0 <= value <= 1 for name, value in logged.items() if name != "test/n")
    assert logged["test/region_f1_t50"] <= logged["test/region_f1"] <= logged["test/region_f1_t0"]
