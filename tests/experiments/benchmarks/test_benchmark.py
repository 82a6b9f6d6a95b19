"""Networks of a paper beside independent ones: what is measured and how wrong input is answered. No timed asserts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiments.benchmarks import frame as frame_benchmark
from experiments.benchmarks import networks as benchmark
from experiments.common.errors import InputError
from experiments.config import compose

NET: dict[str, Any] = {
    "_target_": "modules.common.networks.ConvNet",
    "in_channels": 1,
    "input_size": 8,
    "widths": [4],
    "strides": [1],
    "classes": 2,
}
PAIR = {"name": "small", "ours": NET, "theirs": {**NET, "widths": [8]}, "input": [1, 8, 8], "batch": 2}


def listed(monkeypatch: pytest.MonkeyPatch, *pairs: dict[str, Any]) -> None:
    monkeypatch.setattr(compose, "paper_file", lambda paper: {"bench": list(pairs)})


def test_both_networks_are_timed_in_inference_and_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(monkeypatch, PAIR, {**PAIR, "name": "other"})
    assert benchmark.main(["paper=any", "rounds=2", "only=small"]) == 0
    shown = capsys.readouterr().out
    assert "small" in shown
    assert "other" not in shown
    rows = benchmark._pair_rows(benchmark.Pair(**PAIR), 2)
    assert [row[2] for row in rows] == ["inference, 2 images", "training step, 2 images"]
    assert {row[1] for row in rows} == {"1,114 / 558"}  # theirs / ours
    for row in rows:
        low, high = map(float, row[6].split(" to "))
        assert 0 < low <= high


def test_what_has_nothing_to_train_is_not_trained() -> None:
    rows = benchmark._pair_rows(benchmark.Pair(**{**PAIR, "ours": {"_target_": "torch.nn.Identity"}}), 1)
    assert [row[2] for row in rows] == ["inference, 2 images"]


@pytest.mark.parametrize(
    ("pairs", "arguments", "message"),
    [
        ([], ["paper=any"], "any has no network to compare"),
        ([PAIR], ["paper=any", "only=large"], "called 'large'; it has small"),
        ([{**PAIR, "inputs": [1]}], ["paper=any"], "bench.0: key"),
        ([PAIR], ["rounds=none"], "rounds=none: expected a whole number from 1"),
        ([PAIR], ["papers=any"], "expected rounds=N, paper=K or only=TEXT"),
    ],
)
def test_wrong_input_is_named(
    pairs: list[dict[str, Any]], arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(monkeypatch, *pairs)
    with pytest.raises(InputError, match=message):
        benchmark.main(arguments)


def test_the_frame_is_timed_beside_what_one_would_take_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = replace(frame_benchmark.STEPS[0], epochs=1)
    monkeypatch.setattr(frame_benchmark, "STEPS", [tiny])
    monkeypatch.setattr(frame_benchmark, "PHOTOS", 8)
    monkeypatch.setattr(frame_benchmark, "PHOTO_BATCH", 4)
    assert benchmark.main(["rounds=1", "only=tiny"]) == 0
    assert "at most 1.5" in capsys.readouterr().out
    assert [row[-1] for row in frame_benchmark._photo_rows(1)] == ["at least 1", "at least 1"]
    with pytest.raises(InputError, match="only=huge: expected a part of one of training step, tiny"):
        benchmark.main(["only=huge"])
