"""Every datamodule: what it declares is what it serves, splits do not overlap, errors name the path."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from datamodules.common import folders
from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, DataModule
from datamodules.common.digits import Digits
from datamodules.common.folders import DeclaredFolder, ImageFolder, ImageNet, to_planes
from datamodules.common.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from datamodules.diffusion_features.photos import ImageNet256

ROOT = os.environ.get("REPRISE_DATA", "data")
KINDS: list[ArrayData] = [
    Digits(32, 400, 397, 1000),
    FashionMNIST(128, val_size=1000),
    FashionMNIST(128, subset="full", root=ROOT, val_size=1000),
    MNIST(128, root=ROOT, val_size=1000),
    CIFAR10(128, root=ROOT, val_size=1000),
    CIFAR100(128, root=ROOT, val_size=1000),
]


@pytest.fixture(params=KINDS, ids=lambda d: f"{type(d).__name__}-{getattr(d, 'subset', '')}")
def data(request: pytest.FixtureRequest) -> Iterator[ArrayData]:
    if problem := request.param.available():
        pytest.skip(problem)
    request.param.setup()
    yield request.param
    request.param.splits = {}


def images(tensor: torch.Tensor) -> set[bytes]:
    return {array.tobytes() for array in tensor.numpy()}


def test_spec_is_what_is_served(data: ArrayData) -> None:
    spec = data.spec
    assert {name: len(split[0]) for name, split in data.splits.items()} == spec.sizes
    x, y = next(iter(data.test_dataloader()))
    assert x.shape[1:] == spec.shape
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert int(y.max()) < len(spec.classes)
    assert spec.source == "real"
    assert len(spec.identity) == 12


def test_mean_and_deviation_are_those_of_the_training_images(data: ArrayData) -> None:
    """A wrong mean or deviation costs points silently."""
    x = data.splits["train"][0].float() / data.peak
    assert torch.allclose(x.mean((0, 2, 3)), torch.tensor(data.spec.mean), atol=0.01)
    assert torch.allclose(x.std((0, 2, 3)), torch.tensor(data.spec.std), atol=0.01)


def test_no_image_is_in_two_splits(data: ArrayData) -> None:
    train, val, test = (images(data.splits[name][0]) for name in ("train", "val", "test"))
    shared = len(train & test) + len(val & test)
    assert shared == 0, f"{shared} images of {data.spec.name} are in train and test"


def test_embedded_fashion_mnist_is_a_part_of_the_real_one() -> None:
    full = FashionMNIST(128, subset="full", root=ROOT)
    if problem := full.available():
        pytest.skip(problem)
    (train, train_labels), (test, _) = full.read()
    (few, few_labels), (few_test, _) = FashionMNIST(128).read()
    assert images(few) < images(train)
    assert images(few_test) < images(test)
    assert few_labels.bincount().tolist() == [1200] * 10
    known = {array.tobytes(): label for array, label in zip(train.numpy(), train_labels.tolist(), strict=True)}
    assert [known[a.tobytes()] for a in few.numpy()] == few_labels.tolist()


def test_splits_follow_the_seed_and_nothing_else() -> None:
    identities = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(identities))
        module = Digits(32, 400, 397, 1000, seed=seed)
        module.setup()
        identities.append(module.spec.identity)
    assert identities[0] == identities[1] != identities[2]


def test_label_noise_replaces_the_stated_fraction_of_training_labels_only() -> None:
    clean, noisy = Digits(32, 400, 397, 1000), Digits(32, 400, 397, 1000, label_noise=0.3)
    clean.setup()
    noisy.setup()
    assert torch.equal(noisy.clean_labels, clean.splits["train"][1])
    changed = (noisy.splits["train"][1] != noisy.clean_labels).float().mean()
    assert float(changed) == pytest.approx(0.3 * 0.9, abs=0.06)  # a tenth of the random classes is right by chance
    assert torch.equal(noisy.splits["test"][1], clean.splits["test"][1])
    assert noisy.spec.identity == clean.spec.identity
    shown, given = noisy.relabelled(5)
    assert len(shown) == len(given) == 5


def test_too_many_images_asked_for() -> None:
    with pytest.raises(DataError, match="digits has 1797 images; cannot take train=1700, val=0, test=1000"):
        Digits(32, 1700, 0, 1000).setup()


@pytest.mark.parametrize("module", [*KINDS, ImageNet("nowhere", 4), ImageNet("nowhere", 4, image_size=64)], ids=str)
def test_generated_data_has_the_declared_shape(module: DataModule) -> None:
    options = {
        **{k: v for k, v in vars(module).items() if k in ("root", "image_size")},
        "batch_size": 4,
        "generated": True,
    }
    other = type(module)(**options)  # type: ignore[arg-type]
    other.setup()
    x, y = next(iter(other.train_dataloader()))
    assert x.shape == (4, *other.spec.shape)
    assert y.shape == (4,)
    assert other.spec.source == "generated"


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(DataError, match="data_dir /no/such/place does not exist"):
        MNIST(4, root="/no/such/place").prepare_data()
    with pytest.raises(DataError, match="/no/such/place does not exist"):
        ImageFolder("/no/such/place", 4).setup()


def test_a_folder_without_the_dataset_says_where_to_get_it(tmp_path: Path) -> None:
    assert "torchvision fetches it" in MNIST(4, root=str(tmp_path)).available()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = source.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / label / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", [ImageFolder, ImageNet])
@pytest.mark.parametrize("packed", [False, True])
def test_folders_and_zips_serve_the_same(folder: Path, kind: type[ImageFolder], packed: bool, tmp_path: Path) -> None:
    plain = kind(str(folder), 4, image_size=32, num_workers=0)
    plain.setup()
    root = folder
    if packed:
        root = tmp_path / "packed.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for file in sorted(folder.rglob("*.jpg")):
                archive.write(file, Path("photos") / file.relative_to(folder))
    other = kind(str(root), 4, image_size=32, num_workers=1)
    other.setup()
    assert other.spec.sizes == {"train": 6, "test": 6}
    assert len(other.spec.classes) == (1000 if kind is ImageNet else 2)
    for a, b in zip(plain.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(a[0], b[0])  # the same crops, whatever the number of workers
        assert torch.equal(a[1], b[1])
    labels = torch.cat([y for _, y in plain.test_dataloader()])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_photo_order_resumes_in_mid_epoch(folder: Path) -> None:
    module = ImageFolder(str(folder), 2, image_size=16, num_workers=1)
    module.setup()
    whole = [y.tolist() for _, y in module.train_dataloader()]
    loader = module.train_dataloader()
    served = iter(loader)
    first = next(served)[1].tolist()
    again = module.train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert [first, *(y.tolist() for _, y in again)] == whole


def test_a_truncated_photo_is_named(folder: Path) -> None:
    damaged = folder / "val" / "n01440764" / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    module = ImageFolder(str(folder), 4, image_size=32, num_workers=0)
    module.setup()
    with pytest.raises(DataError, match=r"val/n01440764/1\.jpg cannot be decoded"):
        list(module.test_dataloader())


def test_a_class_that_is_no_wnid_is_named(folder: Path) -> None:
    (folder / "train" / "n01440764").rename(folder / "train" / "goldfish")
    with pytest.raises(DataError, match="class folder 'goldfish' that ImageNet-1k does not know"):
        ImageNet(str(folder), 4).setup()


def test_a_declared_folder_knows_its_sizes_before_it_is_there(folder: Path) -> None:
    declared = {"classes": 200, "train": 100_000, "test": 10_000}
    absent = DeclaredFolder("/no/such/place", 4, declared, "a place", image_size=64, generated=True)
    assert len(absent.spec.classes) == 200
    assert dict(absent.spec.sizes) == {"train": 100_000, "test": 10_000}
    there, plain = DeclaredFolder(str(folder), 4, declared), ImageFolder(str(folder), 4)
    assert there.spec.classes == plain.spec.classes
    assert there.spec.sizes == plain.spec.sizes


def test_a_zip_that_points_outside_itself_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../train/a/x.jpg", b"")
    with pytest.raises(DataError, match="points outside it; refused"):
        ImageFolder(str(tmp_path / "bad.zip"), 4).setup()


def test_evaluation_crop_is_torchvisions_classic_pipeline(folder: Path) -> None:
    from torchvision import transforms

    module = ImageFolder(str(folder), 4, image_size=32)
    assert module.resize == 36
    assert ImageFolder(str(folder), 4, image_size=380).resize == 434
    module.setup()
    (served, _), *_ = module.test_dataloader()
    picture = Image.open(folder / "val" / "n01440764" / "0.jpg").convert("RGB")
    classic = transforms.Compose(
        [
            transforms.Resize(36),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(module.mean, module.std),
        ]
    )
    assert module.transform(train=False)(picture).dtype == torch.uint8  # what workers hand over
    assert torch.allclose(served[0], classic(picture), atol=1e-5)
    centre = transforms.Compose([*classic.transforms[:2], transforms.PILToTensor()])
    assert torch.equal(module.fixed("test", [0])[0], centre(picture))


def test_torchvisions_decoder_serves_the_same_crops(folder: Path) -> None:
    for kind in ("train", "val"):
        for file in (folder / kind).rglob("*.jpg"):
            rows = torch.linspace(0, 255, 48).to(torch.uint8)[:, None].expand(48, 64)
            Image.fromarray(torch.stack([rows] * 3, -1).numpy()).save(file, quality=95)
    modules = [ImageFolder(str(folder), 6, image_size=32, num_workers=0, decoder=d) for d in ("pillow", "torchvision")]
    for module in modules:
        module.setup()
    for loaders in ([m.train_dataloader() for m in modules], [m.test_dataloader() for m in modules]):
        (a, _), (b, _) = (next(iter(loader)) for loader in loaders)
        assert a.shape == b.shape == (6, 3, 32, 32)
        assert (a - b).abs().max() < 3 / 255 / 0.225  # resized pixels are rounded differently
    with pytest.raises(DataError, match="decoder='opencv': expected pillow or torchvision"):
        ImageFolder(str(folder), 4, decoder="opencv")
    with pytest.raises(DataError, match="decoder='torchvision': expected pillow"):
        ImageNet256(str(folder), 4, decoder="torchvision")  # its crops are Pillow's


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_a_picture_that_would_exhaust_the_memory_is_refused(
    folder: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 // 3)
    module = ImageFolder(str(folder), 4, image_size=32, num_workers=0, decoder=decoder)
    module.setup()
    with pytest.raises(DataError, match=r"0\.jpg cannot be decoded .*exceeds limit"):
        list(module.test_dataloader())


def test_a_folder_is_listed_again_only_if_it_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scanned() -> int:
        calls: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path, scan=os.scandir: (calls.append(str(path)), scan(path))[1])
            listed.append(folders.image_files(folder))
        return len(calls)

    listed: list[tuple[str, ...]] = []
    assert scanned() == 7  # the folder, two splits, two classes each
    assert scanned() == 7  # changed within the last second: the clock of a file system may miss a second change
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1, 1))
    assert [scanned(), scanned()] == [7, 0]
    (folder / "val" / "n01440764" / "new.jpg").touch()
    assert scanned() == 7
    assert set(listed[-1]) - set(listed[-2]) == {"val/n01440764/new.jpg"}
    assert listed[-2] == tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("?.jpg")))


def test_links_to_folders_are_followed_once(folder: Path) -> None:
    (folder / "val" / "n99999999").symlink_to(folder / "val" / "n01440764")
    (folder / "val" / "n01440764" / "back").symlink_to(folder)
    assert sum(name.startswith("val/") for name in folders.image_files(folder)) == 6


def test_an_epoch_that_was_left_does_not_reach_the_next(folder: Path) -> None:
    module = ImageFolder(str(folder), 2, image_size=16, num_workers=2)
    module.setup()
    loader, untouched = module.train_dataloader(), module.train_dataloader()
    next(iter(loader))  # its workers, which stay, have further batches ready
    for each in (loader, untouched):
        each.sampler.set_epoch(1)
    for a, b in zip(loader, untouched, strict=True):
        assert torch.equal(a.x, b.x)


def test_planes_are_what_pil_to_tensor_gives() -> None:
    pixels = torch.randint(256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photo = Image.fromarray(pixels.numpy())
    assert torch.equal(to_planes(photo), pil_to_tensor(photo))
    assert to_planes(pixels) is pixels  # what torchvision decoded is a tensor already
