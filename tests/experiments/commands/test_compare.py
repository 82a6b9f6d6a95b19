"""Which numbers a change of the code moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.commands import compare, states
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.identity.provenance import code_version


def test_only_what_differs_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stage or a metric that one side lacks counts; NaN equals NaN."""
    base = {"a": {"x": 1.0, "y": math.nan}, "gone": {"x": 1.0}}
    here = {"a": {"x": 1.0, "y": math.nan, "z": 2.0}}

    def run_in(tree: Path, seed: int, words: Sequence[str]) -> dict[str, states.Done]:
        moved = {"a": {**base["a"], "x": float(seed)}, "gone": base["gone"]}
        metrics = moved if tree == tmp_path else here
        return {name: states.Done("0" * 12, values) for name, values in metrics.items()}

    monkeypatch.setattr(states, "run_in", run_in)
    moved = list(compare.compare("zpe", [1, 2], [], tmp_path))
    assert [(m.stage, m.metric) for m in moved] == [("a", "x"), ("a", "z"), ("gone", "x")]
    assert moved[0].base == [1.0, 2.0]
    assert moved[0].here == [1.0, 1.0]


@pytest.mark.parametrize(
    ("differences", "told"),
    [
        ([1.0, 2.0], "+1.5"),
        ([1.0, 1.0, 1.0], "+1"),
        ([1.0, 2.0, 3.0], "+2 [-0.484, +4.48]"),
        ([math.nan] * 3, "not finite, or not there"),
    ],
)
def test_the_mean_difference_has_an_interval_from_three_seeds_on(differences: list[float], told: str) -> None:
    """2 +- t(0.975; 2) / sqrt(3) = 2 +- 4.3027 / 1.7321."""
    assert str(compare.Moved("k", "s", "m", [0.0] * len(differences), differences)) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "base=REV is missing"),
        (["base=HEAD", "seeds=x"], "expected whole numbers"),
        (["base=no_such_branch"], "git worktree add"),
        (["base=HEAD", "paper=zep"], "zep"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        compare.main(words)


@pytest.mark.slow
def test_the_same_code_gives_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if code_version()["dirty"] is not False:
        pytest.skip("needs code that is committed")
    words = ["base=HEAD", f"paper={compose.default('paper')}", "trainer=cpu", "seeds=0", f"runs_dir={tmp_path}"]
    assert compare.main(words) == 0
    assert "the same" in capsys.readouterr().out
