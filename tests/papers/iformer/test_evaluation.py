"""The spectra that the test reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.iformer.evaluation import branch_outputs
from modules.iformer.module import IFormerClassifier
from modules.iformer.networks import IFormer
from modules.iformer.spectra import averaged, high_frequency, radial


def labelled(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of at most four images."""
    return [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in images.split(4)]


def test_reported_spectra_are_means_over_images_and_blocks_on_attentions_cells(
    random: Callable[..., Tensor],
    tiny: Callable[..., IFormer],
    logged: Callable[..., dict[str, float]],
) -> None:
    module = IFormerClassifier(tiny(input_size=32), 5).eval()
    images = random(10, 1, 32, 32)
    scores = logged(module, *labelled(images))
    with torch.inference_mode(), branch_outputs(module.iformer) as outputs:
        module(images)
    assert not any(b._forward_hooks for _, _, m in module.iformer.mixers() for b in m.branches.values())
    assert {key: y.shape[1] for key, y in outputs.items() if key[2] == "conv"} == {
        (1, 1, "conv"): 16,
        (2, 1, "conv"): 8,
        (2, 2, "conv"): 8,
    }
    for name in ("conv", "pool", "attention"):
        maps = [averaged(outputs[1, 1, name], 2), outputs[2, 1, name], outputs[2, 2, name]]
        for suffix, base in (("", 0), ("_from_1", 1)):
            expected = torch.stack([high_frequency(radial(y), base) for y in maps]).mean()
            assert scores[f"test/{name}_high{suffix}"] == pytest.approx(float(expected), abs=1e-4)
    assert scores["test/n"] == 10


def test_maps_under_7_pixels_have_no_spectrum(
    random: Callable[..., Tensor], tiny: Callable[..., IFormer], logged: Callable[..., dict[str, float]]
) -> None:
    scores = logged(IFormerClassifier(tiny(input_size=26), 5).eval(), *labelled(random(4, 1, 26, 26)))
    assert scores["test/conv_high"] != 0  # stage 1: 13 pixels, 7 cells
    assert not [
        name for name in logged(IFormerClassifier(tiny(), 5).eval(), *labelled(random(4, 1, 16, 16))) if "high" in name
    ]


def test_untrained_spectra_stay_those_of_the_first_weights(
    parameters: Callable[..., int],
    random: Callable[..., Tensor],
    tiny: Callable[..., IFormer],
    logged: Callable[..., dict[str, float]],
) -> None:
    module, same = (IFormerClassifier(tiny(3, input_size=32), 5).eval() for _ in range(2))
    images = random(8, 1, 32, 32)
    before = logged(same, *labelled(images))
    with torch.no_grad():
        for p in module.network.parameters():
            p.add_(0.1 * random(*p.shape))
    after = logged(module, *labelled(images))
    for name in ("conv", "pool", "attention"):
        for suffix in ("", "_from_1"):
            assert after[f"test/{name}_high{suffix}_initial"] == before[f"test/{name}_high{suffix}_initial"]
            assert abs(after[f"test/{name}_high{suffix}"] - before[f"test/{name}_high{suffix}"]) > 1e-3
    tuned = logged(IFormerClassifier(tiny(4, input_size=32), 5, start=module).eval(), *labelled(images))
    assert not [name for name in tuned if name.endswith("_initial")]
    assert not [name for name in module.state_dict() if "initial" in name]
    assert sum(p.numel() for p in module.parameters()) == parameters(module.network)
