"""The independent checks of Inception nnU-Net: parameter counts, initialisation, equivalences, receptive field."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import training
from experiments.plan import Plan
from modules.common.schedules import Position, poly
from modules.mswal.module import HEADS, InceptionNnunet, MiniInception, Segmenter, planned, transfer
from modules.mswal.segmentation import dice_per_class, gaussian_window, sliding_window

RES_ENC_L = [32, 64, 128, 256, 320, 320]
BLOCKS = [1, 3, 4, 6, 6, 6]
UNIT: dict[str, Any] = {
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(kind: type[nn.Module] = InceptionNnunet, classes: int = 3, seed: int = 0) -> nn.Module:
    return planned(partial(kind, n_blocks_per_stage=[1, 2, 2]), [8, 16, 32], classes, seed=seed)


def blocks(width: int = 8, out: int | None = None, stride: int = 1, kind: type[BasicBlockD] = BasicBlockD) -> Any:
    torch.manual_seed(0)
    made = kind(nn.Conv3d, width, out or width, 3, stride, **UNIT)
    for part in made.modules():
        ResidualUNet.initialize(part)
    return made


def shaken(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with every parameter random, norms too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.3)
    return module


@pytest.mark.parametrize(
    ("kind", "options", "decoder", "count"),
    [
        (InceptionNnunet, {"n_blocks_per_stage": BLOCKS}, 1, 110_692_552),
        (ResidualUNet, {"n_blocks_per_stage": BLOCKS}, 1, 107_852_360),
        (ResidualEncoderUNet, {"n_blocks_per_stage": BLOCKS}, 1, 102_354_600),
        (PlainConvUNet, {"n_conv_per_stage": 2}, 2, 31_200_424),
    ],
)
def test_published_sizes(kind: Any, options: dict[str, Any], decoder: int, count: int) -> None:
    with torch.device("meta"):
        network = planned(partial(kind, **options), RES_ENC_L, 8, decoder)
    assert parameters(network) == count
    if kind is InceptionNnunet:
        inside = [m for m in network.modules() if isinstance(m, MiniInception)]
        widths = [m.output_channels for m in inside]
        assert [widths.count(w) for w in sorted(set(RES_ENC_L))] == [1, 2, 3, 5, 10]
        assert sum(2 * w**2 + 4 * w for w in widths) == 2_840_192 == 110_692_552 - 107_852_360
        assert not any(isinstance(m, MiniInception) for m in network.decoder.stages.modules())


def test_small_network() -> None:
    network = small()
    assert parameters(network) == 160_902
    assert parameters(small(ResidualUNet)) == 157_990
    outputs = network(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(z.shape) for z in outputs] == [(1, 3, 16, 16, 16), (1, 3, 8, 8, 8)]


def test_one_block() -> None:
    block = blocks(kind=MiniInception)
    assert parameters(block) == 3_664 == parameters(blocks()) + 160
    assert parameters(blocks()) == 3_504


def test_a_block_starts_as_its_side_and_identity() -> None:
    block, x = blocks(kind=MiniInception), torch.randn(2, 8, 6, 6, 6)
    with torch.no_grad():
        assert float(block.side(x).abs().max()) > 0.1  # not zeroed
        assert torch.allclose(block(x), F.leaky_relu(x + block.side(x), 0.01), atol=1e-6)
        block.side[1].norm.weight.zero_()
        assert torch.allclose(block(x), F.leaky_relu(x, 0.01), atol=1e-6)
        assert torch.allclose(blocks()(x), F.leaky_relu(x, 0.01), atol=1e-6)


def test_with_a_silent_side_any_weights_give_the_residual_block() -> None:
    residual, block, x = shaken(blocks()), blocks(kind=MiniInception), torch.randn(2, 8, 6, 6, 6)
    block.load_state_dict(residual.state_dict(), strict=False)
    with torch.no_grad():
        nn.init.zeros_(block.side[1].norm.weight)
        nn.init.zeros_(block.side[1].norm.bias)
        assert torch.allclose(block(x), residual(x), atol=1e-6)
        shaken(block.side)
        assert not torch.allclose(block(x), residual(x), atol=1e-2)


def test_the_side_has_no_activation() -> None:
    """Pointwise and, but for the norms' statistics, linear: side(x) and side(-x) mirror each other about the bias."""
    block, x = shaken(blocks(kind=MiniInception)), torch.randn(1, 8, 6, 6, 6)
    with torch.no_grad():
        bias = block.side[1].norm.bias.view(1, -1, 1, 1, 1)
        assert torch.allclose(block.side(x) - bias, -(block.side(-x) - bias), atol=1e-5)


@pytest.mark.parametrize(("out", "stride"), [(8, 2), (16, 1), (16, 2)])
def test_strided_and_widening_blocks_have_no_side(out: int, stride: int) -> None:
    with pytest.raises(ValueError, match="no side branch"):
        MiniInception(nn.Conv3d, 8, out, 3, stride, **UNIT)


def test_with_silent_sides_the_network_is_the_residual_unet() -> None:
    network, baseline, x = small(), small(ResidualUNet), torch.randn(1, 1, 16, 16, 16)
    shared = shaken(baseline).state_dict()
    missing = network.load_state_dict(shared, strict=False)
    assert not missing.unexpected_keys
    assert all(".side." in name for name in missing.missing_keys)
    for block in network.modules():
        if isinstance(block, MiniInception):
            nn.init.zeros_(block.side[1].norm.weight)
    with torch.no_grad():
        for a, b in zip(network(x), baseline(x), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_side_adds_no_receptive_field() -> None:
    """Norms aside (they see the whole map), a voxel's output depends on the same inputs with and without sides."""

    def reach(network: nn.Module) -> Tensor:
        shaken(network).double()
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.InstanceNorm3d):
                    setattr(parent, name, nn.Identity())
        x = torch.randn(1, 1, 48, 48, 48, dtype=torch.float64, requires_grad=True)
        network(x)[0][0, :, 24, 24, 24].sum().backward()
        assert x.grad is not None
        return x.grad[0, 0] != 0

    tiny = {"features": [2, 2, 4], "classes": 2}
    seen = [reach(planned(partial(k, n_blocks_per_stage=[1, 1, 1]), **tiny)) for k in (InceptionNnunet, ResidualUNet)]
    assert 1000 < int(seen[0].sum()) < seen[0].numel()
    assert torch.equal(seen[0], seen[1])


def test_initial_weights_are_shared_where_the_architectures_are() -> None:
    network, baseline = small(seed=3).state_dict(), small(ResidualUNet, seed=3).state_dict()
    assert all(torch.equal(value, network[name]) for name, value in baseline.items())
    stem = "encoder.stem.convs.0.conv.weight"
    assert not torch.equal(network[stem], small(seed=4).state_dict()[stem])


def test_he_normal_and_zero_last_norms() -> None:
    network = small()
    for block in network.modules():
        if isinstance(block, BasicBlockD):
            assert not bool(block.conv2.norm.weight.any())
            weight = block.conv1.conv.weight.detach()
            fan = weight[0].numel()
            assert float(weight.std()) == pytest.approx((2 / (1 + 0.01**2) / fan) ** 0.5, rel=0.1)
            assert not bool(block.conv1.conv.bias.any())


# --- training and transfer -------------------------------------------------------------------------------------------


def test_transfer_takes_all_but_the_heads() -> None:
    source, target = shaken(small(classes=4)), small(classes=2)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    module = Segmenter(target, pretrained=Segmenter(source))
    after, given = module.network.state_dict(), source.state_dict()
    assert all(torch.equal(after[n], fresh[n] if HEADS in n else given[n]) for n in after)
    assert sum(HEADS in n for n in after) == 4  # weight and bias of two heads
    with pytest.raises(ValueError, match="pretrained"):
        transfer(small(ResidualUNet), small())


def test_training_step_reaches_every_weight_but_the_lowest_head() -> None:
    module = Segmenter(shaken(small()))
    torch.manual_seed(2)
    loss = module.training_step((torch.randn(2, 1, 16, 16, 16), torch.randint(3, (2, 16, 16, 16))), 0)
    loss.backward()
    still = {n for n, p in module.network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    constant = {n for n in still if n.endswith("conv.bias")}  # an instance norm follows: no effect
    assert still - constant == {f"decoder.{HEADS}.0.weight", f"decoder.{HEADS}.0.bias"}


def test_learning_rate(make_plan: Callable[..., Plan]) -> None:
    factors = [0.01 * poly(Position(epoch, 0, 250, 1000)) for epoch in (0, 500, 999)]
    assert factors == pytest.approx([0.01, 0.00535887, 1.99526e-5], rel=1e-5)
    assert poly(Position(500, 249, 250, 1000)) == poly(Position(500, 0, 250, 1000))
    stage = make_plan("paper=mswal", "scale=full").stages["inception"]
    assert stage.trainer["max_epochs"] == 1000
    assert stage.trainer["gradient_clip_val"] == 12
    assert stage.data["batch_size"] == stage.reference_batch == 2
    assert stage.module["batch_dice"]  # a plan for scans of this size has a low-resolution stage
    group = Segmenter(small(), optimizer=training.build(stage.module["optimizer"])).configure_optimizers().param_groups
    wanted = {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
    assert {key: group[0][key] for key in wanted} == wanted


@pytest.mark.parametrize(("scale", "variant"), [("full", None), ("full", "long"), ("mini", None)])
def test_arms_differ_in_their_network_alone(scale: str, variant: str | None, make_plan: Callable[..., Plan]) -> None:
    lines = ["paper=mswal", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
    stages = make_plan(*lines).stages
    first = stages["inception"]
    for name in ("residual", "wide", "plain", *(["residual_encoder"] if scale == "full" else [])):
        stage = stages[name]
        assert stage.data == first.data
        assert stage.trainer == first.trainer
        ours = {k: v for k, v in stage.module.items() if k not in ("network", "compare_inference")}
        assert ours == {k: v for k, v in first.module.items() if k not in ("network", "compare_inference")}
        assert stage.module["network"]["seed"] == first.module["network"]["seed"] == 0
    assert stages["finetuned"].data == stages["scratch"].data
    assert stages["finetuned"].module == stages["scratch"].module
    assert stages["finetuned"].trainer == stages["scratch"].trainer
    with torch.device("meta"):
        networks = {n: s.module["network"] for n, s in stages.items() if "network" in s.module}
        sizes = {n: parameters(training.build(network, "network")) for n, network in networks.items()}
    assert sizes["wide"] == pytest.approx(sizes["inception"], rel=0.001)


# --- inference -------------------------------------------------------------------------------------------------------


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
        found = sliding_window(x, module.views, [8, 8, 8], 0.5, gaussian_window([8, 8, 8]), 2)
        assert torch.allclose(found, module(x), atol=1e-5)


def test_mirrored_logits_are_the_average_over_mirrored_inputs() -> None:
    module, x = Segmenter(small()).eval(), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        found = module.views(x)
        each = [module(x.flip(axes)).flip(axes) if axes else module(x) for axes in module.flips]
        assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-5)
        assert torch.allclose(module.views(x.flip(3)), found.flip(3), atol=1e-5)
        both = Segmenter(module.network, compare_inference=True).eval().views(x)
        assert torch.equal(both, torch.cat([found, module(x)], 1))


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
    module = Segmenter(OfEachWindow(), compare_inference=True, window_batch=3)
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
    found = [module.scores, module.inference_scores["no_mirror"], module.inference_scores["no_overlap"]]
    for scores, labels in zip(found, (both, straight, single), strict=True):
        assert torch.equal(scores.dice_sum, dice_per_class(labels, reference[0], 4).nan_to_num())
    assert not torch.equal(both, straight)
    assert not torch.equal(straight, single)


def test_scores_count_every_volume_and_name_every_class(make_plan: Callable[..., Plan]) -> None:
    stage = make_plan("paper=mswal", "scale=smoke").stages["inception"]
    data = training.build(stage.data)
    data.setup()
    module = Segmenter(small(classes=4), compare_inference=True, window_batch=8).eval()
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
