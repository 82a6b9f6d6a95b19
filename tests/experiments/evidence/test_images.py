"""Seeds and images: variance components by hand, how often the interval is right, and what is kept beside a record."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments.commands import check_results
from experiments.common.errors import InputError
from experiments.evidence import images, results
from experiments.evidence.records import Entry
from experiments.running import hits
from tests import example

BETTER = np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 0]], bool)  # (seeds, images)
THAN = np.array([[1, 0, 0, 1, 0], [1, 0, 0, 1, 1], [0, 1, 1, 0, 0]], bool)
DIFFERENCES = [40.0, 20.0, 40.0]  # points


def test_two_seeds_and_two_images_by_hand() -> None:
    """Mean squares 36 of seeds, 16 of images, 4 of the rest: (36 + 16 - 4) / 4 is the variance of the mean."""
    found = images.two_way(np.array([[1.0, 3.0], [5.0, 11.0]]))
    assert (found.seed, found.image, found.rest) == (pytest.approx(4.0), pytest.approx(math.sqrt(6)), pytest.approx(2))
    assert 16 / 2 + 6 / 2 + 4 / 4 == 12
    freedom = 48**2 / (36**2 + 16**2 + 4**2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(12)
    assert found.estimate.mean == 5
    assert found.estimate.high - 5 == pytest.approx(half)
    assert 5 - found.estimate.low == pytest.approx(half)


def test_without_an_effect_of_images_it_is_the_interval_of_seeds() -> None:
    """Every image differs alike within a seed: what is left is Student's t over the seeds' means."""
    by_seed = np.array([1.0, 2.0, 4.0, 5.0])
    found = images.two_way(np.repeat(by_seed[:, None], 50, axis=1))
    assert (found.image, found.rest) == (0.0, pytest.approx(0.0, abs=1e-9))
    half = stats.t.ppf(0.975, 3) * by_seed.std(ddof=1) / 2
    assert found.estimate.high - 3 == pytest.approx(half)


def test_equal_answers_have_no_interval_to_speak_of() -> None:
    found = images.two_way(np.zeros((3, 4)))
    assert (found.estimate.low, found.estimate.high) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_seed_or_one_image_says_nothing_of_others(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two seeds and two images"):
        images.two_way(np.zeros(shape))


@pytest.mark.parametrize(("seed", "image"), [(1.0, 20.0), (3.0, 5.0), (0.2, 30.0)])
def test_the_interval_holds_for_new_seeds_and_new_images(seed: float, image: float) -> None:
    """Six seeds of 200 images; an interval over the seeds alone would miss more often where images differ."""
    random = np.random.default_rng(1)
    held = alone = 0
    tries = 500
    for _ in range(tries):
        effects = seed * random.normal(size=(6, 1)) + image * random.normal(size=(1, 200))
        differences = 2.0 + effects + 15 * random.normal(size=(6, 200))
        estimate = images.two_way(differences).estimate
        held += estimate.low < 2 < estimate.high
        means = differences.mean(1)
        alone += abs(means.mean() - 2) < stats.t.ppf(0.975, 5) * means.std(ddof=1) / math.sqrt(6)
    assert 0.92 < held / tries <= 1
    if image > 10 * seed:
        assert alone / tries < 0.9


# --- kept ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Finished stages of three seeds, each with its answers."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    plans = []
    for seed, (better, than) in enumerate(zip(BETTER, THAN, strict=True)):
        stages = {}
        for name, right in (("student", better), ("init", than)):
            folder = tmp_path / "runs" / str(seed) / name
            folder.mkdir(parents=True)
            hits.write(folder, hits.Hits(right, "same"))
            stages[name] = SimpleNamespace(directory=folder)
        plans.append(SimpleNamespace(seed=seed, stages=stages))
    return plans


def entry(differences: list[float] | None = None) -> Entry:
    values = DIFFERENCES if differences is None else differences
    return example.entry([0, 1, 2], claims=[example.claim("a beats b", "supported", values, [0.0, 60.0], main=True)])


def test_answers_come_back_as_they_were_kept(plans: list[SimpleNamespace]) -> None:
    images.keep("toy", "mini", entry(), plans)  # type: ignore[arg-type]
    answers = images.of("toy", "mini", entry())
    assert answers is not None
    assert answers.differences().tolist() == (100.0 * (BETTER.astype(float) - THAN)).tolist()
    assert images.of("toy", "mini+clean", entry()) is None


def test_only_what_gives_the_recorded_differences_on_the_same_images_is_kept(plans: list[SimpleNamespace]) -> None:
    assert images.gather(entry([40.0, 20.0, 39.0]), plans) is None  # type: ignore[arg-type]
    assert images.gather(entry(), plans[:2]) is None  # type: ignore[arg-type]
    hits.write(plans[2].stages["init"].directory, hits.Hits(THAN[2], "drawn anew by the seed"))
    assert images.gather(entry(), plans) is None  # type: ignore[arg-type]


def test_a_seed_that_does_not_fit_is_left_out(plans: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_BYTES", 2 * 4 * 2)  # of five images: four letters an arm
    answers = images.gather(entry(), plans)  # type: ignore[arg-type]
    assert answers is not None
    assert answers.seeds == [0, 1]
    assert answers.differences().mean(1).tolist() == pytest.approx(DIFFERENCES[:2])


def test_bits_that_do_not_give_the_record_are_told(plans: list[SimpleNamespace]) -> None:
    images.keep("toy", "mini", entry(), plans)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"mini.json: seed 1: the bits say 20 points, the record 21; restore it"):
        images.of("toy", "mini", entry([40.0, 21.0, 40.0]))
    (line,) = check_results.differing_images("toy", "mini", entry([40.0, 21.0, 40.0]), "toy: mini")
    assert "the bits say 20 points, the record 21" in line
    assert not list(check_results.differing_images("toy", "mini", entry(), "toy: mini"))
    path = images.path_of("toy", "mini")
    path.write_text(path.read_text().replace('"count": 5', '"count": 50'))
    with pytest.raises(InputError, match="damaged"):
        images.of("toy", "mini", entry())
    path.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        images.of("toy", "mini", entry())


def test_another_registration_has_answers_of_its_own(plans: list[SimpleNamespace]) -> None:
    images.keep("toy", "mini", entry(), plans)  # type: ignore[arg-type]
    again = entry([1.0, 2.0, 3.0])
    again.registered = again.registered.model_copy(update={"hash": "def"})
    assert images.of("toy", "mini", again) is None
    images.keep("toy", "mini", again, plans)  # type: ignore[arg-type]
    assert not images.path_of("toy", "mini").exists()


def test_claims_of_other_kinds_have_no_answers() -> None:
    compound = example.claim("c", "supported", [1.0], None, than="mean(init/test/top1, other/test/top1)")
    other = example.claim("c", "supported", [1.0], None, better="student/test/psnr", than="init/test/psnr")
    assert images.arms(compound) is None
    assert images.arms(other) is None
    assert images.arms(example.claim("c", "supported", [1.0], None)) == ("student", "init")


def test_of_a_claim_with_rivals_the_answers_are_those_of_the_baseline() -> None:
    told = {"verdict": "supported", "per_seed": [1.0], "difference": 1.0, "interval": None}
    rivals = [{"name": than, "than": f"{than}/test/top1", **told} for than in ("init", "soft")]
    assert images.arms(example.claim("c", "supported", [1.0], None, against=rivals)) == ("student", "init")


def test_damaged_answers_of_a_stage_count_as_none(tmp_path: Path) -> None:
    hits.write(tmp_path, hits.Hits(BETTER[0], "same"))
    whole = (tmp_path / hits.NAME).read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2]):
        (tmp_path / hits.NAME).write_bytes(content)
        assert hits.read(tmp_path) is None
