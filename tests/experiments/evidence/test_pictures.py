"""Pictures beside a record: small, tied to the runs whose numbers the record holds, and refused where they are not."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.common.errors import InputError
from experiments.evidence import pictures, results
from experiments.evidence.ran import Confirmation
from experiments.evidence.records import Entry
from tests import example


def draw(path: Path, noise: bool = False, side: int = 300) -> None:
    """A picture of one colour that no other path has, or one of noise, which no format makes small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = list(hashlib.sha256(str(path).encode()).digest()[:3])
    pixels = np.full((side, side, 3), colour, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def entry() -> Entry:
    main = example.claim("c", "supported", [1.0, 2.0], [0.5, 2.5], main=True, better="student/test/top1")
    stages = {name: example.stage(2) for name in ("init", "other", "student")}
    return example.entry([0, 1], claims=[main], stages=stages)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs of two seeds and three stages; the record has folders of its own."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path / "runs"


def folder(runs: Path, stage: str, seed: int = 0) -> Path:
    return runs / f"toy/mini/seed={seed}/{stage}-f{seed}/pictures"


def test_the_claim_s_stages_come_first_and_each_has_a_turn(runs: Path) -> None:
    for stage in ("init", "other", "student"):
        draw(folder(runs, stage) / "a map.png")
    draw(folder(runs, "student") / "b.png")
    draw(folder(runs, "student", seed=1) / "of another seed.png")
    draw(runs / "toy/mini/seed=0/student-other/pictures/of another run.png")
    (folder(runs, "init") / "link.png").symlink_to(folder(runs, "student") / "b.png")
    pictures.keep("toy", "mini", entry(), runs)
    shown = pictures.of("toy", "mini", entry())
    told = [(item.stage, item.name) for item, _ in shown]
    assert told == [("student", "a map"), ("init", "a map"), ("other", "a map"), ("student", "b")]
    assert shown[0][0].file == "student-a-map.webp"
    with Image.open(io.BytesIO(shown[0][1])) as opened:
        assert (opened.format, opened.size) == ("WEBP", (300, 300))
    assert not list(pictures.problems("toy"))


def test_a_later_seed_s_pictures_where_the_first_one_s_runs_are_elsewhere(runs: Path) -> None:
    draw(folder(runs, "student", seed=1) / "a map.png")
    pictures.keep("toy", "mini", entry(), runs)
    assert [item.fingerprint for item, _ in pictures.of("toy", "mini", entry())] == ["f1"]
    draw(folder(runs, "student") / "a map.png")
    pictures.keep("toy", "mini", entry(), runs)  # once they are here, it is they
    assert [item.fingerprint for item, _ in pictures.of("toy", "mini", entry())] == ["f0"]
    shutil.rmtree(folder(runs, "student"))
    pictures.keep("toy", "mini", entry(), runs)
    assert [item.fingerprint for item, _ in pictures.of("toy", "mini", entry())] == ["f0"]


def test_a_confirmed_run_s_pictures_are_the_record_s(runs: Path) -> None:
    draw(runs / "toy/mini/seed=0/student-c0/pictures/a map.png")
    pictures.keep("toy", "mini", entry(), runs)
    assert not pictures.of("toy", "mini", entry())
    confirmed = entry()
    shown = Confirmation(fingerprint="c0", numbers=1, seed=0, commit="c" * 40, at="2026-01-01T00:00:00+00:00")
    confirmed.confirmed = {"student": shown}
    pictures.keep("toy", "mini", confirmed, runs)
    ((item, _),) = pictures.of("toy", "mini", confirmed)
    assert (item.stage, item.fingerprint) == ("student", "c0")
    with pytest.raises(InputError, match="is of no run of seed 0"):
        pictures.of("toy", "mini", entry())


def test_a_setting_and_a_paper_have_a_limit(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        draw(folder(runs, "student") / f"{number}.png")
    draw(folder(runs, "init") / "noise.png", noise=True, side=200)
    monkeypatch.setattr(pictures, "MOST_OF_ONE", 5_000)
    pictures.keep("toy", "mini", entry(), runs)
    shown = pictures.of("toy", "mini", entry())
    assert [item.name for item, _ in shown] == list("012345")  # noise does not get small enough
    sizes = [len(content) for _, content in shown]
    monkeypatch.setattr(pictures, "MOST_BYTES", sum(sizes) + sizes[0] + sizes[1] + sizes[2] // 2)
    pictures.keep("toy", "mini+other", entry(), runs)
    assert len(pictures.of("toy", "mini+other", entry())) == 2  # six and two and a half find room
    assert not list(pictures.problems("toy"))
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    (line,) = pictures.problems("toy")
    assert line.endswith(f"{sum(sizes) + sizes[0] + sizes[1]:,} bytes of pictures; a paper has at most 100")


def test_a_wide_drawing_is_made_smaller_on_white(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGBA", (1920, 960), (0, 0, 0, 0)).save(path)
    content = pictures.shrink(path, pictures.MOST_OF_ONE)
    assert content is not None
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (960, 480)
        assert min(opened.convert("RGB").getpixel((5, 5))) > 250  # what was transparent
    path.write_bytes(b"no picture")
    assert pictures.shrink(path, pictures.MOST_OF_ONE) is None


def test_pictures_stay_until_another_registration_is_recorded(runs: Path) -> None:
    draw(folder(runs, "student") / "a.png")
    pictures.keep("toy", "mini", entry(), runs)
    (folder(runs, "student") / "a.png").unlink()
    pictures.keep("toy", "mini", entry(), runs)  # its runs are no longer here: what was kept stays
    assert len(pictures.of("toy", "mini", entry())) == 1
    again = entry()
    again.registered = again.registered.model_copy(update={"hash": "def"})
    assert not pictures.of("toy", "mini", again)
    pictures.keep("toy", "mini", again, runs)
    path = pictures.list_of("toy", "mini")
    assert not path.exists()
    assert not list(path.with_suffix("").iterdir())


def test_a_picture_that_is_not_the_record_s_is_told(runs: Path) -> None:
    draw(folder(runs, "student") / "a.png")
    pictures.keep("toy", "mini", entry(), runs)
    other = entry()
    other.stages["student"].fingerprints = ["another run", "f1"]
    with pytest.raises(InputError, match=r"student-a.webp is of no run of seed 0 of the record"):
        pictures.of("toy", "mini", other)
    file = pictures.list_of("toy", "mini").with_suffix("") / "student-a.webp"
    file.with_name("stray.webp").write_bytes(b"")
    (line,) = pictures.problems("toy")
    assert "stray.webp: no list of pictures names it" in line
    file.write_bytes(b"another")
    with pytest.raises(InputError, match=r"student-a.webp: not what mini.json says"):
        pictures.of("toy", "mini", entry())
    pictures.list_of("toy", "mini").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        pictures.of("toy", "mini", entry())


def test_two_stages_that_draw_the_same_have_one_picture(runs: Path) -> None:
    draw(folder(runs, "student") / "a.png")
    shutil.copytree(folder(runs, "student"), folder(runs, "init"))
    pictures.keep("toy", "mini", entry(), runs)
    assert [item.stage for item, _ in pictures.of("toy", "mini", entry())] == ["student"]
