"""A user's photos in an overlay: every paper that takes plain labelled images runs on them, recorded in the overlay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.commands import register, reproduce, setting
from experiments.common.errors import InputError
from experiments.common.overlay import make_current
from experiments.common.paths import ROOT
from experiments.config import compose, overlay
from experiments.evidence import naming, results
from experiments.pages import scope
from tests.overlay.conftest import git
from tests.overlay.photos import write_photos

QUICK = ("case_based_prototypes", "meal_v2")  # seconds each
FEW, MANY = 48, 256  # training images of my_photos and many_photos


def least(paper: str) -> int | None:
    """How many training images a paper needs; None if it has no use for plain labelled images."""
    said = compose.paper_file(paper).get("own_data") or {}
    return None if isinstance(said, str) else int(said.get("images") or 0)


PAPERS = [paper for paper in compose.papers() if (count := least(paper)) is not None and count <= MANY]
TREE = """\
\"\"\"Coarse classes of my photos.\"\"\"

from datamodules.transhp.hierarchies import Written


def photos() -> Written:
    return Written({"grown": ("flower", "trees"), "other": ("person", "roof")}, ("flower", "person", "roof", "trees"))
"""
ASKED = {  # what papers need beside images
    "transhp": [
        "stages.*.data.hierarchy._target_=mine.datamodules.tree.photos",
        "stages.*.module.network.levels=[[0,2]]",
    ]
}
SAID = "_target_: datamodules.common.own.PhotoFolder\nroot: photos\n"


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay as docs/own-data.md says to make one, committed: four classes of 16 photos."""
    folder = tmp_path_factory.mktemp("overlay") / "mine"
    write_photos(folder / "photos")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "my_photos.yaml").write_text(SAID, encoding="utf-8")
    many = SAID.replace("root: photos", "root: many")
    (folder / "conf" / "data" / "many_photos.yaml").write_text(many, encoding="utf-8")
    (folder / "datamodules").mkdir()
    (folder / "datamodules" / "tree.py").write_text(TREE, encoding="utf-8")
    allowed = "name: mine\nallow: [mine.datamodules.tree.photos]\n"
    (folder / "overlay.yaml").write_text(allowed, encoding="utf-8")
    (folder / ".gitignore").write_text("runs/\nsite/\nresults/here/\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "My photos")
    return folder


@pytest.fixture
def mine(shown: Path) -> Iterator[Path]:
    """The overlay, open."""
    with overlay.opened(str(shown)):
        yield shown
    make_current(None)


def run(paper: str, folder: Path, runs: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """A paper at smoke on the photos; its short form."""
    data = "my_photos" if (least(paper) or 0) <= FEW else "many_photos"
    if data == "many_photos":
        write_photos(folder / "many", 86)
    lines = [f"paper={paper}", "scale=smoke", f"data={data}", "seeds=[0]", f"runs_dir={runs}", "jobs=1"]
    lines += ASKED.get(paper, [])
    assert reproduce.main(lines) == 0
    summary = json.loads((runs / paper / "smoke" / f"summary-{data}.json").read_text(encoding="utf-8"))
    assert all(summary["stages"].values())
    assert "not run" not in {claim["verdict"] for claim in summary["claims"]}
    return dict(summary)


@pytest.mark.usefixtures("_one_of_a_kind_draws", "_checkpoints_read_once")
@pytest.mark.parametrize("paper", QUICK)
def test_a_paper_runs_on_a_users_photos(paper: str, mine: Path, tmp_path: Path) -> None:
    run(paper, mine, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_of_a_kind_draws", "_checkpoints_read_once")
@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper not in QUICK])
def test_every_other_paper_runs_on_a_users_photos(paper: str, mine: Path, tmp_path: Path) -> None:
    run(paper, mine, tmp_path)


@pytest.mark.usefixtures("mine")
def test_what_a_paper_needs_beside_images_is_asked_for_by_name() -> None:
    with pytest.raises(
        InputError, match=r"data=my_photos: transhp needs stages\.\*\.data\.hierarchy\._target_=\.\.\., a"
    ):
        compose.request(["paper=transhp", "scale=smoke", "data=my_photos"])
    config = compose.compose(
        compose.request(["paper=transhp", "scale=smoke", "data=my_photos", *ASKED["transhp"]]).overrides
    )
    stage = compose.resolve(config, 0)["stages"]["transhp"]
    assert stage["data"]["hierarchy"]["_target_"] == "mine.datamodules.tree.photos"
    assert stage["module"]["network"]["levels"] == [[0, 2]]
    assert (stage["module"]["classes"], stage["module"]["network"]["in_channels"]) == (4, 3)
    assert stage["data"]["source"]["side"] == stage["module"]["network"]["image_size"] == 20


@pytest.mark.usefixtures("mine")
def test_too_few_images_are_told() -> None:
    with pytest.raises(InputError, match="data=my_photos: 48 training images; g_simclr needs 256 or more"):
        compose.request(["paper=g_simclr", "scale=smoke", "data=my_photos"])


def test_at_least_twenty_papers_take_plain_labelled_images() -> None:
    assert len(PAPERS) >= 20
    assert set(QUICK) <= set(PAPERS)


@pytest.mark.usefixtures("mine")
def test_it_is_a_setting_of_its_own_that_explores_until_it_is_registered() -> None:
    asked = setting.read(["paper=semiotics", "data=my_photos"])
    assert asked.title == "mini+data=my_photos"
    assert asked.explores
    assert not asked.by_hand
    assert asked.request.told == ("data=my_photos",)


def test_an_entry_says_what_stood_in_place_of_the_papers_data() -> None:
    """Its name and the line that composes it again follow from what it holds."""
    entry = next(iter(results.entries("semiotics").values()))
    other = entry.model_copy(update={"overrides": ["data=my_photos"]})
    assert naming.data_of(entry) is None
    assert naming.title_of(other) == f"{naming.title_of(entry)}+data=my_photos"
    about_its_own = {"scope": {"mini": "digits of eight pixels"}}
    assert scope.told(about_its_own, "mini", None) == "digits of eight pixels"
    assert scope.told(about_its_own, "mini", None, "my_photos") == "on my_photos"


def test_the_suites_records_take_in_the_suites_data_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_photos(tmp_path / "photos", 4)
    said = SAID.replace("root: photos", f"root: {tmp_path / 'photos'}")
    (tmp_path / "data" / "my_photos.yaml").write_text(said, encoding="utf-8")
    compose.search(str(tmp_path))
    try:
        with pytest.raises(InputError, match=r"data=my_photos: not one of the suite's; extra=FOLDER registers it"):
            register.main(["paper=semiotics", "data=my_photos"])
    finally:
        compose.search(None)
    assert not list((ROOT / "results" / "registrations" / "semiotics").glob("*my_photos*"))
