"""The colours of decoded JPEG files, against Pillow's decoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from modules.common.probes import decodable, decodable_share, dither


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
