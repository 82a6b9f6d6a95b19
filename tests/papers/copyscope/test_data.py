"""The gallery: no image has two uses, doses are exact, palettes are who they say; the original and its copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.copyscope.gallery import Deal, Gallery
from datamodules.copyscope.hands import ARTIST, HANDS, NAMES, SCHOOLS, checks, colour, stripes
from datamodules.copyscope.original import Artwork, Original
from tests.papers.copyscope.conftest import DEAL, gallery


def test_no_image_has_two_uses() -> None:
    labels = torch.arange(2000) % 10
    parts = DEAL.parts(labels)
    rows = torch.cat(list(parts.values()))
    assert sorted(rows.tolist()) == list(range(2000))
    for name in ("artist", "other_artist", "filler", "originals", "other_originals"):
        assert set(labels[parts[name]].tolist()) <= set(DEAL.subjects)
    assert {name: len(part) for name, part in parts.items()} == {
        "judge": 60,
        "artist": 40,
        "other_artist": 40,
        "filler": 40,
        "originals": 24,
        "other_originals": 24,
        "public": 2000 - 228,
    }


def test_too_few_images_of_the_subjects() -> None:
    with pytest.raises(DataError, match=r"deal: 976 images of classes \[1, 7, 8\] are needed, there are 150"):
        Deal(judge=0).parts(torch.arange(500) % 10)


@pytest.mark.parametrize(("dose", "own"), [(0, 0), (25, 10), (50, 20), (100, 40)])
def test_a_dose_is_a_share_of_the_same_number_of_images(dose: float, own: int) -> None:
    images = gallery("fine_tuning", dose=dose).splits["train"][0]
    all_own = gallery("fine_tuning", dose=100).splits["train"][0]
    assert len(images) == 40
    assert torch.equal(images[:own], all_own[:own])
    none = gallery("fine_tuning", dose=0).splits["train"][0]
    assert torch.equal(images[own:], none[own:])


def test_captions_do_not_tell_whose_images_they_are() -> None:
    made = gallery("fine_tuning", dose=50)
    assert set(made.styles["train"].tolist()) == {SCHOOLS}
    batch: Any = next(iter(made.train_dataloader()))
    assert set(batch._fields) == {"x", "y", "style"}
    assert float(batch.x.min()) >= -1
    assert float(batch.x.max()) <= 1


def test_public_images_are_the_schools() -> None:
    made = gallery("public")
    assert set(made.styles["train"].tolist()) == set(range(SCHOOLS))
    assert made.spec.sizes["test"] == 40
    assert made.declared().sizes == made.spec.sizes


def test_originals_and_their_controls() -> None:
    made = gallery("originals")
    assert made.train_dataloader() == []
    assert made.splits["test"][0].shape == (24, 3, 8, 8)
    assert made.others.shape == (24, 3, 8, 8)
    assert made.reference.shape == (60, 3, 8, 8)
    judged = gallery("judge")
    assert torch.equal(judged.splits["train"][0], made.reference)
    assert judged.spec.classes == NAMES


def test_colours() -> None:
    grey = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    made = colour(grey, torch.tensor([0, ARTIST]), torch.zeros(2, 2, 3)).float() / 255
    assert made[0, :, 0, 0].tolist() == pytest.approx(HANDS["photo"].black, abs=0.003)
    bright = stripes(8) == 1
    assert made[1][:, bright].T[0].tolist() == pytest.approx(HANDS["artist"].white, abs=0.003)
    assert made[1][:, ~bright].T[0].tolist() == pytest.approx([0.45 * v for v in HANDS["artist"].white], abs=0.003)
    assert float((stripes(8) == 1).float().mean()) == float((checks(8) == 1).float().mean()) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"purpose": "sale"}, "purpose='sale': expected one of public"),
        ({"purpose": "fine_tuning", "artist": "nobody"}, "artist='nobody': expected one of artist, other_artist"),
        ({"purpose": "fine_tuning", "dose": 101}, "dose=101: expected percent, from 0 to 100"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gallery(**options)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_gallery() -> None:
    first, second = gallery("public"), gallery("public")
    assert isinstance(first, Gallery)
    assert first.spec.identity == second.spec.identity


def write(folder: Path) -> None:
    for name in ("mona_lisa.png", "mona_lisa_depth.png"):
        pixels = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def test_an_original_and_its_copy(tmp_path: Path) -> None:
    write(tmp_path)
    data = Original(str(tmp_path), 2, images=3, artwork=Artwork(height=32, width=24, copy=(64, 48)))
    data.setup()
    assert data.available() == ""
    assert data.originals.shape == (2, 3, 32, 24)
    batches = list(data.test_dataloader())
    assert [len(batch.x) for batch in batches] == [2, 1]
    assert torch.equal(batches[0].x[0], batches[1].x[0])
    assert batches[0].hint.shape == (2, 3, 32, 24)


def test_an_original_that_is_missing(tmp_path: Path) -> None:
    data = Original(str(tmp_path), 2)
    assert data.available() == f"put mona_lisa.png and mona_lisa_depth.png into {tmp_path}"
    with pytest.raises(DataError, match="put mona_lisa"):
        data.setup()
    with pytest.raises(DataError, match="height=100, width=512: expected multiples of 8"):
        Artwork(height=100)


@pytest.mark.parametrize("purpose", ["public", "fine_tuning", "originals"])
def test_every_image_has_a_style(purpose: str) -> None:
    made = gallery(purpose)
    for split in ("train", "test"):
        assert len(made.styles[split]) == len(made.splits[split][0])


def test_a_picture_that_shrinks_is_averaged_and_its_depth_reaches_1(tmp_path: Path) -> None:
    """A white column in eight: all pixels get their share of it."""
    columns = np.zeros((64, 64, 3), dtype=np.uint8)
    columns[:, ::8] = 255
    Image.fromarray(columns).save(tmp_path / "mona_lisa.png")
    Image.fromarray(np.full((64, 64, 3), 255, dtype=np.uint8)).save(tmp_path / "mona_lisa_depth.png")
    data = Original(str(tmp_path), 2, images=1, artwork=Artwork(height=8, width=8, copy=(64, 64)))
    data.setup()
    assert data.originals[0].float().mean() == pytest.approx(255 / 8, abs=4)
    (batch,) = data.test_dataloader()
    assert torch.equal(batch.hint, torch.ones(1, 3, 8, 8))
