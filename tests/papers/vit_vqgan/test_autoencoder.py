"""Published sizes of stage 1's Transformers, and what their patches are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.vit_vqgan.autoencoder import Size, ViTAutoencoder
from modules.vit_vqgan.module import Tokenizer
from modules.vit_vqgan.quantizer import Quantizer

BASE = Size(768, 12, 12, 3072)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "trunk", "total"),
    [
        (Size(512, 8, 8, 2048), 25_207_808, 50_908_195),
        (BASE, 85_028_352, 170_664_483),
        (Size(1280, 32, 16, 5120), 587_614_720, None),
    ],
)
def test_tanh_blocks_without_output_mlp_are_the_reimplementations_sizes(
    size: Size, trunk: int, total: int | None
) -> None:
    """thuanz123/enhancing-transformers has fixed positions and 3 output biases where ours are 192."""
    with torch.device("meta"):
        vit = ViTAutoencoder(256, 3, 8, size, size, activation="tanh", output_mlp=False)
        quantizer = Quantizer(size.dim, size.dim, 8192, 32)
    assert parameters(vit.encoder) == parameters(vit.decoder) == trunk
    ours = parameters(vit) + parameters(quantizer) - vit.encoder_positions.numel() - vit.decoder_positions.numel()
    if total is not None:
        assert ours - (192 - 3) == total


def test_base_transformer_has_about_91_million_parameters_with_its_output_mlp() -> None:
    with torch.device("meta"):
        vit = ViTAutoencoder(256, 3, 8, BASE, BASE)
    encoder = parameters(vit.patches) + vit.encoder_positions.numel() + parameters(vit.encoder)
    assert encoder == 90_685_440
    assert not any(isinstance(layer, nn.Tanh) for layer in vit.encoder[0].modules())
    assert sum(isinstance(layer, nn.Tanh) for layer in vit.modules()) == 2  # once at either end


def test_shapes_at_published_size() -> None:
    with torch.device("meta"):
        vit, quantizer = ViTAutoencoder(256, 3, 8, BASE, BASE), Quantizer(768, 768, 8192, 32)
        h = vit.encode(torch.zeros(2, 3, 256, 256))
        assert quantizer.down(h).shape == (2, 1024, 32)
        assert vit.decode(quantizer.decode(torch.zeros(2, 1024, dtype=torch.long))).shape == (2, 3, 256, 256)
    assert 1024 * math.log2(8192) == 13_312  # bits of an image


def bare() -> ViTAutoencoder:
    """8x8 pixels in patches of 4, and nothing but the patching: tokens are pixels."""
    vit = ViTAutoencoder(8, 1, 4, Size(16, 1, 2, 32, 8), Size(16, 1, 2, 32, 8))
    for name in ("patches", "encoder", "decoder", "to_pixels"):
        setattr(vit, name, nn.Identity())
    nn.init.zeros_(vit.encoder_positions)
    nn.init.zeros_(vit.decoder_positions)
    return vit


def test_patches_are_raster_ordered_and_put_back() -> None:
    vit, x = bare(), torch.arange(64.0).view(1, 1, 8, 8)
    tokens = vit.encode(x)
    assert torch.equal(tokens, F.unfold(x, 4, stride=4).transpose(1, 2))
    assert torch.equal(vit.decode(tokens), x)


def test_a_constant_image_is_rebuilt_as_one_patch_repeated_but_for_positions(
    tokenizer: Callable[..., Tokenizer],
) -> None:
    module, x = tokenizer().eval(), torch.full((1, 1, 8, 8), 0.3)
    assert not torch.allclose(module.reconstruct(x)[0][..., :2, :2], module.reconstruct(x)[0][..., 2:4, 2:4])
    nn.init.zeros_(module.autoencoder.encoder_positions)
    nn.init.zeros_(module.autoencoder.decoder_positions)
    maps, codes, _ = module.reconstruct(x)
    assert len(codes.unique()) == 1
    assert torch.allclose(maps, maps[..., :2, :2].repeat(1, 1, 4, 4), atol=1e-6)


def test_patches_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="image_size=8 is no multiple of patch=3"):
        ViTAutoencoder(8, 1, 3, BASE, BASE)
