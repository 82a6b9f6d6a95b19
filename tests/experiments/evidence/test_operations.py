"""What a published recipe takes on a GPU, by arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.evidence import operations, results


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)


def test_a_hundred_teraflops_for_three_hours_are_three_gpu_hours() -> None:
    assert operations.in_hours(100e12 * 3600 * 3) == "at least 3.0 GPU-hours at 100 TFLOP/s"
    assert operations.in_hours(100e12 * 3600 * 1234) == "at least 1,234 GPU-hours at 100 TFLOP/s"
    assert operations.in_hours(1e12) == "at least some seconds of a GPU at 100 TFLOP/s"


def test_all_stages_of_a_seed_count_and_settings_are_kept_apart() -> None:
    operations.write("rotnet", "full", {"rotnet": 9e16, "probe": 9e16})
    operations.write("rotnet", "full+cifar100", {"rotnet": 3.6e17})
    assert operations.read("rotnet", "full") == {"rotnet": 9e16, "probe": 9e16}
    assert operations.in_words("rotnet", "full").startswith("at least 0.50 GPU-hours")
    assert operations.in_words("rotnet", "full+cifar100").startswith("at least 1.0 GPU-hours")


def test_what_no_dry_run_counted_is_not_told() -> None:
    assert operations.read("rotnet", "full") == {}
    assert operations.in_words("rotnet", "full") == ""
