"""Pictures beside a record: small, tied to the runs whose numbers the record holds, and refused where they are not."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.common.errors import InputError
from experiments.evidence import pictures, results
from experiments.evidence.records import Entry
from tests import example


def draw(path: Path, noise: bool = False, side: int = 300) -> None:
    """A plain red picture, or one of noise, which no format makes small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), (200, 20, 20), np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def entry() -> Entry:
    main = example.claim("c", "supported", [1.0, 2.0], [0.5, 2.5], main=True, better="student/test/top1")
    stages = {name: example.stage(2) for name in ("init", "other", "student")}
    return example.entry([0, 1], claims=[main], stages=stages)


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two seeds' runs of three stages; the first seed's folders may hold pictures."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return [
        SimpleNamespace(
            seed=seed,
            stages={
                name: SimpleNamespace(directory=tmp_path / f"runs/{seed}/{name}", fingerprint=f"f{seed}")
                for name in ("init", "other", "student")
            },
        )
        for seed in (0, 1)
    ]


def folder(plans: list[Any], stage: str, seed: int = 0) -> Path:
    directory: Path = plans[seed].stages[stage].directory / "pictures"
    return directory


def test_the_claim_s_stages_come_first_and_each_has_a_turn(plans: list[Any]) -> None:
    for stage in ("init", "other", "student"):
        draw(folder(plans, stage) / "a map.png")
    draw(folder(plans, "student") / "b.png")
    draw(folder(plans, "student", seed=1) / "of another seed.png")
    pictures.keep("toy", "mini", entry(), plans)
    shown = pictures.of("toy", "mini", entry())
    told = [(item.stage, item.name) for item, _ in shown]
    assert told == [("student", "a map"), ("init", "a map"), ("other", "a map"), ("student", "b")]
    assert shown[0][0].file == "student-a-map.webp"
    with Image.open(io.BytesIO(shown[0][1])) as opened:
        assert (opened.format, opened.size) == ("WEBP", (300, 300))
    assert not list(pictures.problems("toy"))


def test_a_setting_and_a_paper_have_a_limit(plans: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        draw(folder(plans, "student") / f"{number}.png")
    draw(folder(plans, "init") / "noise.png", noise=True, side=200)
    monkeypatch.setattr(pictures, "MOST_OF_ONE", 5_000)
    pictures.keep("toy", "mini", entry(), plans)
    shown = pictures.of("toy", "mini", entry())
    assert [item.name for item, _ in shown] == list("012345")  # noise does not get small enough
    one = len(shown[0][1])
    monkeypatch.setattr(pictures, "MOST_BYTES", 8 * one + one // 2)
    pictures.keep("toy", "mini+other", entry(), plans)
    assert len(pictures.of("toy", "mini+other", entry())) == 2  # six of eight and a half are taken
    assert not list(pictures.problems("toy"))
    monkeypatch.setattr(pictures, "MOST_BYTES", one)
    (line,) = pictures.problems("toy")
    assert line.endswith(f"{8 * one:,} bytes of pictures; a paper has at most {one:,}")


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


def test_pictures_stay_until_another_registration_is_recorded(plans: list[Any]) -> None:
    draw(folder(plans, "student") / "a.png")
    pictures.keep("toy", "mini", entry(), plans)
    (folder(plans, "student") / "a.png").unlink()
    pictures.keep("toy", "mini", entry(), plans)  # its runs are no longer here: what was kept stays
    assert len(pictures.of("toy", "mini", entry())) == 1
    again = entry()
    again.registered = again.registered.model_copy(update={"hash": "def"})
    assert not pictures.of("toy", "mini", again)
    pictures.keep("toy", "mini", again, plans)
    path = pictures.list_of("toy", "mini")
    assert not path.exists()
    assert not list(path.with_suffix("").iterdir())


def test_a_picture_that_is_not_the_record_s_is_told(plans: list[Any]) -> None:
    draw(folder(plans, "student") / "a.png")
    pictures.keep("toy", "mini", entry(), plans)
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
