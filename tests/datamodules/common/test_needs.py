"""What datamodules say they need."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from datamodules.common.folders import DeclaredFolder, ImageNet
from datamodules.common.needs import counts_of, of_data
from datamodules.common.torchvision_sets import CIFAR10
from datamodules.robust_explainability.shifted import ShiftedImageNet
from datamodules.vit_vqgan import FFHQ, CelebAHQ


def draw(root: Path, split: str, count: int) -> None:
    folder = root / split / "n01440764"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")


def test_a_folder_with_a_photo_too_few_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "train", 3)
    draw(tmp_path, "test", 2)
    data = DeclaredFolder(str(tmp_path), 2, {"classes": 1, "train": 3, "test": 2}, where="ask them")
    data.test_split = "test"
    need = of_data(data)
    assert need is not None
    assert (need.count, need.look()) == ({"train": 3, "test": 2}, "")

    next((tmp_path / "train").rglob("*.png")).unlink()
    assert need.look() == f"{tmp_path / 'train'} holds 2 images; {tmp_path.name} has 3. ask them"


def test_imagenet_is_whole_and_its_relatives_have_their_own_counts(tmp_path: Path) -> None:
    draw(tmp_path, "train", 1)
    draw(tmp_path, "val", 1)
    need = of_data(ImageNet(str(tmp_path), 2))
    assert need is not None
    assert "train holds 1 images; ImageNet-1k has 1,281,167" in need.look()

    shifted = of_data(ShiftedImageNet(str(tmp_path), 2, "ImageNet-R", 30_000))
    assert shifted is not None
    assert "holds 1 images; ImageNet-R has 30,000" in shifted.look()
    assert counts_of(CelebAHQ("x", 2)) == {"train": 25_000, "val": 5_000}
    assert counts_of(FFHQ("x", 2)) == {"train": 60_000, "val": 10_000}


def test_generated_images_need_nothing() -> None:
    assert of_data(ImageNet("nowhere", 2, generated=True)) is None


def test_torchvision_sets_are_fetched_and_checked(tmp_path: Path) -> None:
    need = of_data(CIFAR10(4, root=str(tmp_path / "none")))
    assert need is not None
    assert need.checksum == "md5 c58f30108f718f92721af3b95e74349a"
    assert "does not exist" in need.look()
    assert need.fetch is not None
