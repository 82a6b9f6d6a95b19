"""Vector-quantized Image Modeling with Improved VQGAN (Yu et al., ICLR 2022).

arXiv 2110.04627. Stage 1: a ViT encoder, a codebook looked up in a low-dimensional normalised space, a ViT decoder:

    k* = argmin_k | l2(z_e) - l2(e_k) |^2,   z_e = linear(h) in R^32,   z_q = l2(e_k*),   straight-through
    L_VQ = | sg[l2(z_e)] - l2(e) |^2 + beta | l2(z_e) - sg[l2(e)] |^2,   beta = 0.25
    L = L_VQ + 0.1 L_adv + 0.1 L_perceptual + 0.1 L_logit-laplace + 1.0 L_2

Stage 2 (VIM): a causal Transformer over the tokens in raster order, after one class token; sampled at temperature 1
without top-k. Its activations, averaged over positions at a middle block, are probed linearly.

The authors released no code. Where the text leaves room, re-implementations are followed, or not:
- norms in L_VQ are means over the dimensions (thuanz123/enhancing-transformers, quantizers.py), not sums; the
  straight-through step skips the normalisation.
- tanh stands once, in a two-layer MLP at the end of the encoder and before the output of the decoder (paper).
  Re-implementations put it into every block instead: `activation="tanh", output_mlp=False`.
- the logit-laplace term has weight 0 by default, as in the re-implementations; theirs call |x - x_hat| by that name.
- the discriminator's loss is the mean over real and reconstructed images, R1 has gamma 10 every 16 batches.
- stage 2 takes its tokens from the frozen tokenizer on every batch; nothing is dumped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import SumMetric

from modules.common.extractors import Extractor
from modules.common.fid import FrechetDistance
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.vit_vqgan.adversarial import discriminator_loss, generator_loss, r1_penalty
from modules.vit_vqgan.autoencoder import Size, ViTAutoencoder, initialise
from modules.vit_vqgan.codebook_use import CodebookUse
from modules.vit_vqgan.pixels import PixelModule, grid

EPSILON = 0.1  # of logit-laplace: keeps pixels off 0 and 1


def vq_loss(z: Tensor, e: Tensor, beta: float = 0.25) -> Tensor:
    """L_VQ, the mean over tokens and dimensions: codes move to the encoder's output, and beta times as strongly back.

    z, e (..., d): what was looked up and the codes found, both normalised or both not.
    """
    return F.mse_loss(e, z.detach()) + beta * F.mse_loss(z, e.detach())


class Quantizer(nn.Module):
    """The factorised codebook: down to `lookup_dim`, nearest code, up again. Learned by L_VQ alone.

    Args:
        dim_in, dim_out: of encoder and decoder.
        codes: K; lookup_dim: d_c.
        normalise: look up and decode on the unit sphere.
        init: "normal" N(0, 1) or "uniform" U(-1/K, 1/K), VQ-VAE's.
        beta: commitment.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        codes: int,
        lookup_dim: int,
        normalise: bool = True,
        init: str = "normal",
        beta: float = 0.25,
    ) -> None:
        super().__init__()
        if init not in ("normal", "uniform"):
            raise ValueError(f"codebook_init={init!r}: expected normal or uniform")
        self.normalise, self.beta = normalise, beta
        self.down, self.up = nn.Linear(dim_in, lookup_dim), nn.Linear(lookup_dim, dim_out)
        self.apply(initialise)
        e = torch.randn(codes, lookup_dim)
        self.codebook = nn.Parameter(e if init == "normal" else e.uniform_(-1 / codes, 1 / codes))

    def looked_up(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1) if self.normalise else x.float()

    def nearest(self, z: Tensor, e: Tensor) -> Tensor:
        """(..., d) and (K, d) -> (...): argmin_k |z - e_k|^2, which drops |z|^2, and |e_k|^2 on the unit sphere."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):  # bf16 would pick other codes
            scores = z.flatten(0, -2) @ e.T
            if not self.normalise:
                scores -= 0.5 * e.square().sum(-1)
            return scores.argmax(-1).view(z.shape[:-1])

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, dim_in) -> decoder input (B, T, dim_out), codes (B, T), L_VQ."""
        z_e = self.down(h).float()
        z, e = self.looked_up(z_e), self.looked_up(self.codebook)
        codes = self.nearest(z, e)
        z_q = F.embedding(codes, e)
        return self.up(z_e + (z_q - z_e).detach()), codes, vq_loss(z, z_q, self.beta)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T) -> decoder input (B, T, dim_out)."""
        return self.up(self.looked_up(F.embedding(codes, self.codebook)))


def logit_laplace(x: Tensor, mu: Tensor, log_b: Tensor) -> Tensor:
    """-ln of the logit-Laplace density at pixels x in [0, 1], mean over all elements."""
    x = (1 - 2 * EPSILON) * x + EPSILON
    return (math.log(2) + log_b + torch.log(x * (1 - x)) + (torch.logit(x) - mu).abs() * torch.exp(-log_b)).mean()


class Tokenizer(PixelModule):
    """Stage 1. All arms are this module with other switches; test metrics are those of the reconstruction.

    Args:
        extractor: gives the features of `rfid`, named after it.
        image_size, channels, patch, encoder, decoder, activation, output_mlp: see ViTAutoencoder.
        codes, lookup_dim, normalise, codebook_init, beta: see Quantizer.
        adversarial_weight, perceptual_weight, logit_laplace_weight, l2_weight: of the loss terms beside L_VQ.
        discriminator: gives logits of images in [-1, 1]; needed where adversarial_weight is above 0.
        perceptual: a distance of images in [-1, 1]; needed where perceptual_weight is above 0.
        adversarial_start: batches before the discriminator takes part; 0 in the paper.
        r1_gamma, r1_every: R1's strength, and batches between its uses.
        clip: largest norm of either network's gradient; None does not clip.
        init_seed: fixes the initial encoder and decoder: arms that share it start alike.
        optimizer, schedule: see StageModule; discriminator_optimizer: None takes the same as the other.
    Raises:
        ValueError: a loss has a weight and no network, or image and patch do not fit.
    """

    partial_backward = True

    def __init__(
        self,
        extractor: Extractor,
        image_size: int,
        channels: int,
        patch: int,
        encoder: Size,
        decoder: Size,
        codes: int,
        lookup_dim: int,
        normalise: bool = True,
        codebook_init: str = "normal",
        beta: float = 0.25,
        adversarial_weight: float = 0.1,
        perceptual_weight: float = 0.1,
        logit_laplace_weight: float = 0.0,
        l2_weight: float = 1.0,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
        adversarial_start: int = 0,
        r1_gamma: float = 10.0,
        r1_every: int = 16,
        clip: float | None = 1.0,
        activation: str = "gelu",
        output_mlp: bool = True,
        init_seed: int = 0,
        optimizer: OptimizerFactory | None = None,
        discriminator_optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False
        if image_size % patch:
            raise ValueError(f"image_size={image_size} is no multiple of patch={patch}")
        for name, weight, network in (
            ("discriminator", adversarial_weight, discriminator),
            ("perceptual", perceptual_weight, perceptual),
        ):
            if weight > 0 and network is None:
                raise ValueError(f"{name}=None, but its loss has weight {weight}; give the network or weight 0")
        self.channels, self.codes_count, self.side = channels, codes, image_size // patch
        maps = 2 if logit_laplace_weight > 0 else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            self.vit = ViTAutoencoder(
                image_size, channels, patch, encoder, decoder, maps, activation, output_mlp
            )  # before anything whose size differs between arms
        self.quantizer = Quantizer(encoder.dim, decoder.dim, codes, lookup_dim, normalise, codebook_init, beta)
        self.discriminator = discriminator if adversarial_weight > 0 else None
        self.perceptual = Frozen([perceptual]) if perceptual is not None and perceptual_weight > 0 else None
        self.weights = {
            "adv": adversarial_weight,
            "lpips": perceptual_weight,
            "laplace": logit_laplace_weight,
            "l2": l2_weight,
        }
        self.adversarial_start, self.r1_gamma, self.r1_every, self.clip = adversarial_start, r1_gamma, r1_every, clip
        self.discriminator_factory = discriminator_optimizer or optimizer
        self.extractor = Frozen([cast(nn.Module, extractor)])
        self.suffix, self.rfid = extractor.suffix, FrechetDistance(extractor.features)
        self.squared_error, self.tested = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self.use: CodebookUse | None = None  # made in setup: its size depends on the test set's
        self._shown: list[tuple[Tensor, Tensor]] = []  # images and their codes, for the pictures

    def setup(self, stage: str) -> None:
        super().setup(stage)
        images = self.trainer.datamodule.spec.sizes["test"]  # type: ignore[attr-defined]
        self.use = CodebookUse(self.codes_count, images).to(self.device)

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, C, H, W) -> the decoder's maps, codes (B, T), L_VQ."""
        h, codes, loss = self.quantizer(self.vit.encode(pixels))
        return self.vit.decode(h).float(), codes, loss

    def image(self, maps: Tensor) -> Tensor:
        """The decoder's maps as pixels, neither clamped nor rounded."""
        if not self.weights["laplace"]:
            return maps
        return (maps.chunk(2, 1)[0].sigmoid() - EPSILON) / (1 - 2 * EPSILON)

    def codes(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, T) in raster order."""
        return self.quantizer(self.vit.encode(pixels))[1]

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T) -> pixels (B, C, H, W), clamped to [0, 1]."""
        return self.image(self.vit.decode(self.quantizer.decode(codes)).float()).clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.image(self.reconstruct(self.pixels(x))[0])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = self.pixels(batch[0])
        seen = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        adversarial = self.discriminator is not None and seen >= self.adversarial_start
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        maps, _, l_vq = self.reconstruct(x)
        x_hat = self.image(maps)
        parts = {"vq": l_vq, "l2": F.mse_loss(x_hat, x)}
        if self.perceptual is not None:
            parts["lpips"] = self.perceptual.on(x.device)[0](2 * x_hat - 1, 2 * x - 1).mean()
        if self.weights["laplace"]:
            parts["laplace"] = logit_laplace(x, *maps.chunk(2, 1))
        if adversarial:
            assert self.discriminator is not None
            self.discriminator.requires_grad_(False)  # the generator's gradient passes through it, not into it
            parts["adv"] = generator_loss(self.discriminator(2 * x_hat - 1))
        loss = l_vq + sum(weight * parts[name] for name, weight in self.weights.items() if name in parts)
        self._step(optimizers[0], loss)
        if adversarial:
            assert self.discriminator is not None
            self.discriminator.requires_grad_(True)
            fake = self.discriminator(2 * x_hat.detach() - 1)
            parts["disc"] = discriminator_loss(self.discriminator(2 * x - 1), fake)
            penalty = torch.zeros_like(parts["disc"])
            if seen % self.r1_every == 0:
                penalty = 0.5 * self.r1_gamma * self.r1_every * r1_penalty(self.discriminator, 2 * x - 1)
            self._step(optimizers[1], parts["disc"] + penalty)
        self.track(len(x), loss=loss, **parts)
        return loss.detach()

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        optimizer.step()

    def trained(self) -> Iterable[Any]:
        return [*self.vit.parameters(), *self.quantizer.parameters()]

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = [super().configure_optimizers()]
        if self.discriminator is not None:
            assert self.discriminator_factory is not None
            optimizers.append(self.prepared(self.discriminator_factory(self.discriminator.parameters())))
        return cast(list[Optimizer], optimizers)

    def on_test_start(self) -> None:
        self._shown = []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x = self.pixels(batch[0])
        maps, codes, _ = self.reconstruct(x)
        x_hat = self.image(maps).clamp(0, 1)
        assert self.use is not None
        numbers = self.numbers(len(x))
        self.use.update(codes, numbers)
        first = self.use.group(numbers) == 0  # one of the batches that the use is counted in, from all classes
        self._shown.append((x[first].cpu(), codes[first].cpu()))
        self.squared_error.update((x_hat - x).double().square().mean((1, 2, 3)).sum())
        self.tested.update(float(len(x)))
        extractor = self.extractor.on(x.device)[0]
        self.rfid.update(extractor.describe(x)[0], real=True)
        self.rfid.update(extractor.describe(x_hat)[0], real=False)

    def on_test_epoch_end(self) -> None:
        assert self.use is not None
        n, mse = self.tested.compute(), self.squared_error.compute() / self.tested.compute()
        found = {"mse": mse, "psnr": -10 * mse.log10(), f"rfid{self.suffix}": self.rfid.compute(), "n": n}
        self.log_dict({f"test/{name}": value for name, value in {**found, **self.use.compute()}.items()})
        for metric in (self.use, self.squared_error, self.tested, self.rfid):
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images above their reconstructions, and how often each code is used."""
        if not self._shown:  # not tested
            return {}
        x, codes = (torch.cat(parts) for parts in zip(*self._shown, strict=True))
        rebuilt = self.decode(codes[:12].to(self.device))
        figures = {"reconstructions": grid([x[:12], rebuilt], ["original", "reconstruction"])}
        used = torch.bincount(codes.flatten(), minlength=self.codes_count).sort(descending=True).values
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.stairs(used, fill=True)
        axes.set(xlabel="codes, most used first", ylabel=f"tokens of {len(x)} test images")
        axes.set_title(f"{int((used > 0).sum())} of {self.codes_count} codes are used", fontsize=9)
        return {**figures, "codebook use": figure}
