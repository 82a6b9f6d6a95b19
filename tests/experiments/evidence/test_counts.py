"""Printed sizes of networks, and ours beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.common.errors import InputError
from experiments.config.networks import Counted
from experiments.evidence import counts, results
from experiments.running.counting import build_on_meta, multiply_adds, multiply_adds_of_image, parameters

CONFIG = {
    "stages": {
        "a": {"module": {"network": {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True}}},
        "b": {"module": {"rate": 1}},
    }
}


@pytest.mark.parametrize(
    ("printed", "low", "high"),
    [
        ("5.3M", 5_250_000, 5_350_000),
        ("564M", 563_500_000, 564_500_000),
        ("23.8B", 23_750_000_000, 23_850_000_000),
        ("14.0G", 13_950_000_000, 14_050_000_000),
        ("0.60M", 595_000, 605_000),
        (334_851, 334_851, 334_851),
        ("61,051,907", 61_051_907, 61_051_907),
    ],
)
def test_a_number_stands_for_what_rounds_to_it(printed: str | int, low: float, high: float) -> None:
    assert counts.limits(printed) == pytest.approx((low, high))


@pytest.mark.parametrize("printed", ["about 5M", "5.3", "M", "-5M", "5.3m"])
def test_what_is_no_size_is_refused(printed: str) -> None:
    with pytest.raises(InputError, match="expected a number as printed"):
        counts.limits(printed)


def test_rounding_decides() -> None:
    row = Counted(network="stages.a.module.network", source="Table 1", parameters="5.3M")
    verdicts = [counts.judge(row, "parameters", ours).verdict for ours in (5_249_999, 5_250_000, 5_350_000, 5_350_001)]
    assert verdicts == ["failed", "matched", "matched", "failed"]


def test_a_row_says_what_was_changed_however_deep_it_lies() -> None:
    changed = {"head": {"auxiliary": False, "dropout": {"rate": 0.5}}, "classes": 10}
    row = Counted(network="stages.a.module.network", source="Table 1", parameters="5.3M", set=changed)
    judged = counts.judge(row, "parameters", 5_300_000)
    assert judged.changed == "head.auxiliary=False, head.dropout.rate=0.5, classes=10"


def test_a_network_is_counted_without_memory_or_weights() -> None:
    """torchvision documents 11,689,512 parameters and 1.81 G mult-adds for ResNet-18."""
    network = build_on_meta(CONFIG, "stages.a.module.network", {})
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert parameters(network) == 11_689_512
    assert multiply_adds_of_image(network, (3, 224, 224)) == pytest.approx(1.814e9, rel=1e-3)
    assert parameters(build_on_meta(CONFIG, "stages.a.module.network", {"num_classes": 10})) == 11_689_512 - 990 * 513

    for place in ("stages.b.module.rate", "stages.c.module.network", "stages.b.module"):
        with pytest.raises(InputError, match="expected where a network is described"):
            build_on_meta(CONFIG, place, {})


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_norms_are_counted_where_that_is_asked_for(device: str) -> None:
    """3x3 convolution to 8 channels on 6x6 pixels; batch norm 2 and layer norm 5 an element; a layer of 8 x 4."""
    with torch.device(device):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(8),
            nn.Linear(8, 4),
        )
    x = torch.zeros(1, 3, 6, 6, device=device)
    plain = 36 * 8 * 27 + 8 * 4
    assert multiply_adds(network, x) == plain
    assert multiply_adds(network, x, norms=True) == plain + 2 * 8 * 36 + 5 * 8
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_what_was_written_is_compared_with_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    asked = Counted(network="stages.a.module.network", source="Table 1", parameters="5.3M", set={"depth": 3})
    row = counts.judge(asked, "parameters", 5_300_000)
    assert counts.stored("toy") == []
    counts.write("toy", [row])
    assert counts.stored("toy") == [row]
    assert counts.differences([row], [row]) == []
    moved = replace(row, ours=5_400_000, verdict="failed")
    (line,) = counts.differences([row], [moved])
    assert line == "parameters of a depth=3: recorded 5,300,000 (matched), counted 5,400,000 (failed)"
    assert "was not counted" in counts.differences([], [row])[0]
    assert "not in the paper's file" in counts.differences([row], [])[0]

    counts.path("toy").write_text('{"rows": [{"network": 1}]}')
    with pytest.raises(InputError, match="expected rows as make counts writes them"):
        counts.stored("toy")
