"""The colours of decoded JPEG files, against Pillow's decoder."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modules.common.detection import EVERY
from modules.common.probes import Probes, decodable, decodable_share, dither


def test_a_quarter_of_all_colours_can_be_decoded() -> None:
    assert decodable().mean() == pytest.approx(0.254, abs=5e-4)
    grey = [value * 0x010101 for value in range(256)]
    assert decodable()[grey].all()


def test_what_pillow_decodes_is_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=90)
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    raw = torch.from_numpy(smooth).permute(2, 0, 1)[None]
    assert float(decodable_share(decoded)) > 0.999
    assert float(decodable_share(dither(decoded, torch.Generator().manual_seed(0)))) < 0.35
    assert float(decodable_share(raw)) < 0.35


def test_what_two_numbers_tell_of_a_set() -> None:
    """Real pictures were JPEG files, the first generator's have any colour, the second's are grey and flat."""
    grey = torch.arange(8 * 8).remainder(7).view(1, 1, 8, 8).expand(4, 3, 8, 8) / 255 * 30
    coloured = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    flat = torch.full((4, 3, 8, 8), 100 / 255)
    x = torch.cat([grey, coloured, flat])
    y = torch.tensor([0] * 4 + [1] * 8)
    subset = torch.tensor([EVERY] * 4 + [0] * 4 + [1] * 4)
    module = Probes()
    data = SimpleNamespace(shown=lambda pictures: pictures, names=("loud", "flat", "absent"))
    module._trainer = SimpleNamespace(datamodule=data, global_rank=0)  # type: ignore[assignment]
    told: dict[str, float] = {}
    module.log = lambda name, value: told.update({name: float(value)})  # type: ignore[method-assign, assignment]
    module.on_test_epoch_start()
    for rows in torch.arange(12).split(5):
        module.test_step(SimpleNamespace(x=x[rows], y=y[rows], subset=subset[rows]), 0)
    module.on_test_epoch_end()
    assert told["test/real_share"] == 100  # grey can always be decoded
    assert told["test/history"] == 100
    assert told["test/leak_loud"] == told["test/leak"] == 100
    assert told["test/leak_flat"] == 50  # as decodable as the real ones
    assert told["test/energy_auroc_flat"] == 100
    assert told["test/energy_auroc_loud"] == 0
    assert "test/leak_absent" not in told
    assert module.shares["flat"] == 1
