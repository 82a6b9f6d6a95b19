"""EfficientNet-Lite with the installed ImageNet weights."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from modules.common.pretrained import LITE, LITE_MEAN, LITE_STD, EfficientNetLite, efficientnet_lite, timm_key

ROOT = Path(os.environ.get("REPRISE_DATA", "data"))
PARAMETERS = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}


@pytest.mark.parametrize("number", LITE)
def test_every_weight_finds_its_place(number: int) -> None:
    """A strict load: the networks differ from their random start in every tensor, running statistics included."""
    network, random = efficientnet_lite(number), efficientnet_lite(number, pretrained=False)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[number]
    start = random.state_dict()
    same = [k for k, v in network.state_dict().items() if torch.equal(v, start[k]) and "num_batches" not in k]
    assert same == []


@pytest.mark.parametrize("number", LITE)
def test_input_is_that_of_timms_architecture(number: int) -> None:
    config = timm.data.resolve_model_data_config(efficientnet_lite(number, pretrained=False))
    side, crop = LITE[number]
    assert config["input_size"] == (3, side, side)
    assert config["crop_pct"] == pytest.approx(crop)
    assert (config["mean"], config["std"], config["interpolation"]) == (LITE_MEAN, LITE_STD, "bicubic")


def test_details_that_shapes_do_not_show() -> None:
    """Padding as TensorFlow's "SAME", its batch-norm epsilon, ReLU6: without them the weights give other logits."""
    network = efficientnet_lite(0, pretrained=False)
    assert all(m.eps == 1e-3 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert "SAME" in type(network.conv_stem).__name__.upper()
    assert any(isinstance(m, nn.ReLU6) for m in network.modules())


def test_names() -> None:
    depths = [1, 2, 2]
    assert timm_key("_conv_stem.weight", depths) == "conv_stem.weight"
    assert timm_key("_bn1.running_var", depths) == "bn2.running_var"
    assert timm_key("_blocks.0._project_conv.weight", depths) == "blocks.0.0.conv_pw.weight"
    assert timm_key("_blocks.2._bn2.bias", depths) == "blocks.1.1.bn3.bias"
    assert timm_key("_blocks.3._depthwise_conv.weight", depths) == "blocks.2.0.conv_dw.weight"
    with pytest.raises(KeyError, match="_se"):
        timm_key("_blocks.3._se.weight", depths)
    with pytest.raises(ValueError, match="number=5: expected one of 0, 1, 2"):
        efficientnet_lite(5)


def test_images_in_0_to_1_are_resized_and_normalised() -> None:
    module = EfficientNetLite(0).eval()
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = efficientnet_lite(0).eval()((x - 0.5) / 0.5)
        assert torch.allclose(module(x), expected, atol=1e-3)
        even = torch.full((1, 3, 320, 320), 0.25)
        assert torch.allclose(module(even), module(torch.full((1, 3, 224, 224), 0.25)), atol=1e-3)
    assert not {"mean", "std"} & set(module.state_dict())


def photos(number: int, count: int = 100) -> tuple[Tensor, Tensor]:
    """Evenly chosen sample photos in [0, 1], cropped as the network wants it, and their classes by rank of the wnid."""
    path = ROOT / "imagenet_samples.zip"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    side, crop = LITE[number]
    resized = v2.Resize(int(side / crop), interpolation=v2.InterpolationMode.BICUBIC)
    transform = v2.Compose([resized, v2.CenterCrop(side), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        wnids = sorted({Path(name).parent.name for name in names})
        assert len(wnids) == 1000
        chosen = names[:: len(names) // count][:count]
        images = [transform(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]
    return torch.stack(images), torch.tensor([wnids.index(Path(name).parent.name) for name in chosen])


@pytest.mark.parametrize("number", LITE)
def test_photos_are_recognised(number: int) -> None:
    """Class order and constants: a wrong order gives about 0, the usual ImageNet mean and deviation cost points."""
    images, labels = photos(number)
    module = EfficientNetLite(number).eval()
    with torch.inference_mode():
        right = torch.cat([module(part).argmax(-1) for part in images.split(25)]) == labels
    assert float(right.float().mean()) > 0.6
