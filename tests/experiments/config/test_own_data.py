"""data=NAME: whole nodes are replaced, sizes, classes and channels follow, and a paper that needs more says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.common.errors import InputError
from experiments.config import compose, own_data
from tests.overlay.photos import write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("own") / "photos")


@pytest.fixture
def mine(photos: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of configuration whose data my_photos is four classes of 12 + 4 colour photos each."""
    (tmp_path / "conf" / "data").mkdir(parents=True)
    said = f"_target_: datamodules.common.own.PhotoFolder\nroot: {photos}\n"
    (tmp_path / "conf" / "data" / "my_photos.yaml").write_text(said, encoding="utf-8")
    compose.search(str(tmp_path / "conf"))
    yield tmp_path / "conf"
    compose.search(None)


def resolved(*lines: str) -> dict[str, Any]:
    return compose.resolve(compose.compose(compose.request(["scale=smoke", *lines]).overrides), 3)


@pytest.mark.usefixtures("mine")
def test_a_node_is_replaced_as_a_whole_and_classes_and_channels_follow(photos: Path) -> None:
    config = resolved("paper=meal_v2", "data=my_photos")
    student, teacher = (config["stages"][name] for name in ("student", "teacher_a"))
    assert config["data_name"] == "my_photos"
    assert student["data"]["_target_"] == "datamodules.common.own.PhotoFolder"
    assert student["data"]["root"] == str(photos)
    assert "subset" not in student["data"], "an option of the data that was there"
    assert student["data"]["seed"] == 3
    assert [item["_target_"].rpartition(".")[2] for item in student["data"]["augment"]] == [
        "RandomResizedCrop",
        "HorizontalFlip",
    ]
    assert student["module"]["classes"] == 4
    network = teacher["module"]["network"]
    assert (network["in_channels"], network["input_size"], network["classes"]) == (3, 28, 4)

    # 250 are the most that a stage has, and there are 48, of which 4 are for validation
    assert teacher["data"]["train_size"] == int(192 * 44 / 250)
    assert student["data"]["train_size"] == int(80 * 44 / 250)
    assert student["data"]["val_size"] == teacher["data"]["val_size"] == 4
    assert student["data"]["test_size"] == 16


@pytest.mark.usefixtures("mine")
def test_what_stands_on_top_of_the_data_stays_and_asks_for_no_more_images_than_there_are() -> None:
    stage = resolved("paper=rotnet", "data=my_photos")["stages"]["conv"]
    assert stage["data"]["_target_"] == "datamodules.common.subsets.Subset"
    assert stage["data"]["source"]["_target_"] == "datamodules.common.own.PhotoFolder"
    assert stage["data"]["source"]["train_size"] == 40  # 48 without 8 for validation
    assert stage["data"]["per_class"] == 5  # of the 12 there are


@pytest.mark.usefixtures("mine")
def test_the_side_is_that_of_the_recipes_own_data() -> None:
    config = resolved("paper=inception_next", "data=my_photos")
    assert config["stages"]["inception"]["data"]["side"] == 28


def test_the_suites_own_data_goes_in_as_well() -> None:
    """CIFAR-10 has enough images: the recipe's sizes stay."""
    config = resolved("paper=meal_v2", "data=cifar10")
    data = config["stages"]["student"]["data"]
    assert data["_target_"] == "datamodules.common.torchvision_sets.CIFAR10"
    assert (data["train_size"], data["val_size"], data["test_size"]) == (80, 100, 200)
    network = config["stages"]["init"]["module"]["network"]
    assert (network["in_channels"], network["input_size"]) == (3, 32)
    assert config["stages"]["init"]["module"]["classes"] == 10


def images(train: int, test: int) -> own_data.Images:
    return own_data.Images(("a", "b"), 3, 28, train, test, (0.5,), (0.5,), train // 2)


def scaled(asked: dict[str, tuple[int, int, int]], there: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Sizes for training, validation and test where the paper's data has 12,000 + 2,000 images."""
    names = ("train_size", "val_size", "test_size")
    sizes = {name: dict(zip(names, each, strict=True)) for name, each in asked.items()}
    old, new = (dict.fromkeys(asked, images(*counts)) for counts in ((12000, 2000), there))
    fitted = own_data._scaled(sizes, old, new)
    return [(each["train_size"], each["val_size"], each["test_size"]) for each in fitted.values()]


@pytest.mark.parametrize(
    ("there", "sizes"),
    [
        ((1000, 500), [(800, 120, 400), (80, 120, 400)]),  # enough
        ((500, 100), [(495, 5, 100), (49, 5, 100)]),  # a hundredth for validation as before, 495 of 800, a quarter
        ((670, 0), [(407, 60, 203), (40, 60, 203)]),  # 670 of 800 + 120 + 400: one set for all three
        ((12, 2), [(10, 2, 2), (2, 2, 2)]),  # an image of each class at least
    ],
)
def test_all_stages_get_the_same_share_of_the_images_that_their_recipe_asks_for(
    there: tuple[int, int], sizes: list[tuple[int, int, int]]
) -> None:
    assert scaled({"teacher": (800, 120, 400), "student": (80, 120, 400)}, there) == sizes


def test_a_stage_that_takes_all_there_is_makes_the_others_no_smaller() -> None:
    asked = {"all": (own_data.ALL, 1200, 25), "some": (30, 10, 50)}
    assert scaled(asked, (50, 50)) == [(45, 5, 25), (30, 2, 50)]


def test_sides_of_canvases_and_of_networks_that_shrink_images_follow_in_proportion() -> None:
    canvases = resolved("paper=bagel", "data=cifar10")["stages"]["weak"]
    assert canvases["module"]["network"]["input_size"] == 64
    assert canvases["data"]["train_size"] == 600, "counts canvases, not images"
    shrunk = resolved("paper=noprop", "data=cifar10")["stages"]["noprop"]
    assert shrunk["module"]["network"]["size"] == 16
    assert shrunk["module"]["label"] | {"classes": 10, "dim": 10} == shrunk["module"]["label"]


def test_a_side_that_the_user_says_is_followed(mine: Path, photos: Path) -> None:
    said = f"_target_: datamodules.common.own.PhotoFolder\nroot: {photos}\nside: 40\ngrey: true\n"
    (mine / "data" / "larger.yaml").write_text(said, encoding="utf-8")
    stages = resolved("paper=meal_v2", "data=larger")["stages"]
    assert stages["init"]["data"]["side"] == 40
    network = stages["init"]["module"]["network"]
    assert (network["in_channels"], network["input_size"]) == (1, 40)


@pytest.mark.usefixtures("mine")
def test_a_paper_of_grey_networks_makes_photos_grey() -> None:
    stage = resolved("paper=robust_pbn", "data=my_photos")["stages"]["cbc_robust"]
    assert stage["data"]["grey"] is True
    assert stage["module"]["network"]["components"]["features"] == 28**2
    with pytest.raises(InputError, match="data=cifar10: 3 channels; robust_pbn needs grey images"):
        resolved("paper=robust_pbn", "data=cifar10")


def test_without_it_nothing_is_named() -> None:
    request = compose.request(["paper=meal_v2", "scale=smoke"])
    assert request.data is None
    assert not [line for line in request.overrides if "data" in line]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["paper=meal_v2", "data=my_photo"], "data 'my_photo' does not exist; did you mean 'my_photos'?"),
        (["paper=csr", "data=my_photos"], "data=my_photos: csr needs concepts beside the classes"),
        (["paper=mswal", "data=my_photos"], "data=my_photos: mswal needs volumes"),
        (["paper=meal_v2", "data=imagenet"], "data=imagenet: datamodules.common.folders.ImageNet does not hold plain"),
        (["paper=meal_v2", "data=digits,mnist"], "expected one name, for one paper and scale"),
        (["paper=meal_v2", "scale=full", "data=my_photos"], "at scale=full reads datamodules."),
        (["paper=meal_v2", "data=gone"], "gone: no such folder; expected"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(mine: Path, lines: list[str], words: str) -> None:
    gone = "_target_: datamodules.common.own.PhotoFolder\nroot: gone\n"
    (mine / "data" / "gone.yaml").write_text(gone, encoding="utf-8")
    with pytest.raises(InputError) as told:
        resolved(*lines)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_root_is_beside_the_configuration_that_names_it(mine: Path) -> None:
    write_photos(mine.parent / "beside", 2)
    said = "_target_: datamodules.common.own.PhotoFolder\nroot: beside\n"
    (mine / "data" / "beside.yaml").write_text(said, encoding="utf-8")
    config = resolved("paper=meal_v2", "data=beside")
    assert config["stages"]["init"]["data"]["root"] == str(mine.parent / "beside")


@pytest.mark.parametrize(
    "value",
    [
        {"_target_": "a.B", "x": [1, 2.5, None, True], "text": "it's, {braces}: and = signs", "deep": {"y": []}},
        [-1, 1e-05, "", "${seed}"],
    ],
)
def test_a_value_comes_back_from_hydras_grammar_as_it_was(value: Any) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"+key={own_data.text(value)}"])
    assert OmegaConf.to_container(OmegaConf.create({"key": parsed.value()}), resolve=False) == {"key": value}


@pytest.mark.parametrize("paper", compose.papers())
def test_every_paper_says_why_not_in_a_sentence_that_goes_on_from_its_name(paper: str) -> None:
    said = compose.paper_file(paper).get("own_data")
    if isinstance(said, str):
        assert said.split()[0] in ("needs", "counts", "chooses"), said
