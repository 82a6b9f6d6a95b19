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
from torchmetrics.classification import MulticlassAccuracy

from modules.common.classifier import ClassificationModule
from modules.common.generation import (
    Aside,
    CodebookUse,
    Extractor,
    FrechetDistance,
    InceptionScore,
    PixelModule,
    discriminator_loss,
    generator_loss,
    grid,
    r1_penalty,
    uniforms,
)
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule
from modules.common.vit_autoencoder import Block, Size, ViTAutoencoder, initialise

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
        self.perceptual = Aside(perceptual) if perceptual is not None and perceptual_weight > 0 else None
        self.weights = {
            "adv": adversarial_weight,
            "lpips": perceptual_weight,
            "laplace": logit_laplace_weight,
            "l2": l2_weight,
        }
        self.adversarial_start, self.r1_gamma, self.r1_every, self.clip = adversarial_start, r1_gamma, r1_every, clip
        self.discriminator_factory = discriminator_optimizer or optimizer
        self.extractor = Aside(cast(nn.Module, extractor))
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
            parts["lpips"] = self.perceptual.on(x.device)(2 * x_hat - 1, 2 * x - 1).mean()
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
        extractor = self.extractor.on(x.device)
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


class Vim(PixelModule):
    """Stage 2: a causal Transformer over the tokens of a frozen tokenizer; its samples are decoded and measured.

    One image is sampled for each test image, of the same class. Positions are learned per row and per column and added.

    Args:
        tokenizer: gives tokens and decodes them; extractor: gives `fid` and `is`, named after it.
        size: of the Transformer.
        classes: the first token is one of these, the image's class; None has a single one (unconditional).
        dropout: on residuals, in MLPs, on the attention.
        temperature: divides the logits when sampling.
        splits: of the Inception score.
        tokens: model only the first so many tokens, leaving the others of a sample at code 0; None takes all. A dry run
            cuts it, as it cuts the batch.
        init_seed: fixes the initial weights: arms that share it start alike.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        extractor: Extractor,
        size: Size,
        classes: int | None,
        dropout: float = 0.1,
        temperature: float = 1.0,
        splits: int = 10,
        tokens: int | None = None,
        init_seed: int = 0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.tokenizer, self.extractor = Aside(tokenizer), Aside(cast(nn.Module, extractor))
        self.size, self.classes, self.temperature, self.side = size, classes, temperature, tokenizer.side
        self.all_tokens = tokenizer.side**2
        self.tokens = tokens or self.all_tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            self.token = nn.Parameter(torch.randn(tokenizer.codes_count, size.dim) * 0.02)
            self.rows = nn.Parameter(torch.randn(self.side, 1, size.dim) * 0.02)
            self.columns = nn.Parameter(torch.randn(1, self.side, size.dim) * 0.02)
            self.prefix = nn.Parameter(torch.randn(classes or 1, size.dim) * 0.02)
            self.blocks = nn.ModuleList(Block(size, causal=True, dropout=dropout) for _ in range(size.blocks))
            self.norm, self.head = nn.LayerNorm(size.dim), nn.Linear(size.dim, tokenizer.codes_count)
        self.dropout = nn.Dropout(dropout)
        self.suffix, self.fid = extractor.suffix, FrechetDistance(extractor.features)
        self.inception_score = InceptionScore(extractor.classes, splits)
        self.nll, self.tested = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self._base, self._gallery = 0, dict[int, list[Tensor]]()  # noise of the samples; some, to show

    def embed(self, codes: Tensor) -> Tensor:
        """Tokens with their positions: (B, t) -> (B, t, dim)."""
        return F.embedding(codes, self.token) + (self.rows + self.columns).flatten(0, 1)[: codes.shape[1]]

    def first(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, 1, dim), the token before the image."""
        return F.embedding(labels if self.classes else torch.zeros_like(labels), self.prefix)[:, None]

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Tokens (B, t) -> logits (B, t, K); those of token j depend on the class and the tokens before j."""
        x = self.dropout(torch.cat([self.first(labels), self.embed(codes[:, :-1])], 1))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return torch.zeros(1, self.tokens, dtype=torch.long, device=self.device), torch.zeros(1, dtype=torch.long)

    def codes(self, x: Tensor) -> Tensor:
        """Images as the data serves them -> their tokens, (B, tokens)."""
        with torch.inference_mode():
            codes = self.tokenizer.on(x.device).codes(self.pixels(x))[:, : self.tokens]
        return codes.clone()

    def losses(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """-ln p of every token, (B, tokens)."""
        codes = self.codes(batch[0])
        logits = self(codes, batch[1])
        return F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.losses(batch).mean()
        self.track(len(batch[0]), loss=loss)
        return loss

    @torch.inference_mode()
    def sample(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Tokens (B, t), one after the other, from uniform noise (B, t): p(token | before), untouched by top-k."""
        t = noise.shape[1]
        x, codes = self.first(labels), torch.zeros(len(labels), t, dtype=torch.long, device=labels.device)
        shape = (2, len(labels), self.size.heads, t, self.size.head_width)
        caches = [torch.empty(shape, device=x.device, dtype=self._cache_type()) for _ in self.blocks]
        for j in range(t):
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, j)
            logits = self.head(self.norm(x[:, 0])).float() / self.temperature
            below = logits.softmax(-1).cumsum(-1)
            at = torch.searchsorted(below, noise[:, j : j + 1] * below[:, -1:], right=True)
            codes[:, j] = at[:, 0].clamp(max=logits.shape[1] - 1)
            if j + 1 < t:
                x = self.embed(codes[:, : j + 1])[:, -1:]
        return codes

    def _cache_type(self) -> torch.dtype:
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.token.dtype

    def images(self, labels: Tensor, numbers: Tensor) -> Tensor:
        """Pixels of generated images (B, C, H, W); an image's number fixes its noise."""
        codes = self.sample(labels, uniforms(self._base, numbers, self.tokens))
        codes = F.pad(codes, (0, self.all_tokens - self.tokens))
        return self.tokenizer.on(labels.device).decode(codes)

    def on_test_start(self) -> None:
        self._base = int(torch.randint(2**31, ()))  # the same on every process
        shown = range(0, self.classes, max(1, self.classes // 10))[:10] if self.classes else [0]
        self._gallery = {label: [] for label in shown}  # from all over: test folders are sorted by class

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, labels = batch
        self.nll.update(self.losses(batch).double().mean(1).sum())
        self.tested.update(float(len(x)))
        numbers, extractor = self.numbers(len(x)), self.extractor.on(x.device)
        generated = self.images(labels, numbers)
        features, logits = extractor.describe(generated)
        self.fid.update(extractor.describe(self.pixels(x))[0], real=True)
        self.fid.update(features, real=False)
        self.inception_score.update(logits, numbers)
        for label, image in zip(labels.tolist(), generated.cpu(), strict=True):
            kept = self._gallery.get(label if self.classes else 0)
            if kept is not None and len(kept) < 24:
                kept.append(image)

    def on_test_epoch_end(self) -> None:
        n = self.tested.compute()
        found = {f"fid{self.suffix}": self.fid.compute(), f"is{self.suffix}": self.inception_score.compute()}
        self.log_dict({f"test/{k}": v for k, v in {**found, "nll": self.nll.compute() / n, "n": n}.items()})
        for metric in (self.fid, self.inception_score, self.nll, self.tested):
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated images of the test, by class where the class was given."""
        images = {label: torch.stack(kept) for label, kept in self._gallery.items() if kept}
        if not images:
            return {}
        if not self.classes:
            rows = images[0].split(12)
            return {"generated images": grid(rows, [""] * len(rows))}
        names = [data.spec.classes[label] for label in images]
        return {"generated images": grid([kept[:12] for kept in images.values()], names)}


class LinearProbe(PixelModule, ClassificationModule):
    """One linear classifier on the activations of each of some blocks of a frozen Vim, averaged over positions.

    The Transformer sees the tokens of the image and no class. `top1` is that of `block`; the others are logged as
    `top1_block<b>`.

    Args:
        vim: its network is used, not trained.
        classes: number of classes.
        block: counts from 1; blocks: those swept, `block` among them.
        optimizer, schedule: see StageModule.
    """

    network: nn.ModuleDict

    def __init__(
        self,
        vim: Vim,
        classes: int,
        block: int,
        blocks: list[int],
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if block not in blocks or min(blocks) < 1 or max(blocks) > len(vim.blocks):
            raise ValueError(f"blocks={blocks}: expected {block} among them and all between 1 and {len(vim.blocks)}")
        heads = nn.ModuleDict({str(b): nn.Linear(vim.size.dim, classes) for b in sorted(blocks)})
        super().__init__(heads, classes, optimizer, schedule)
        self.vim, self.block = Aside(vim), str(block)
        sweep = {name: MulticlassAccuracy(classes, average="micro", validate_args=False) for name in heads}
        self.sweep = nn.ModuleDict(sweep)

    def every_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Images as the data serves them -> logits (B, classes) by block."""
        vim, found = self.vim.on(x.device), {}
        with torch.inference_mode():
            codes = vim.tokenizer.on(x.device).codes(self.pixels(x))[:, : vim.tokens]
            h = vim.embed(codes)
            for number, block in enumerate(vim.blocks, 1):
                h = block(h)
                if str(number) in self.network:
                    found[str(number)] = h.float().mean(1)
                if len(found) == len(self.network):
                    break
        return {name: self.network[name](features.clone()) for name, features in found.items()}

    def forward(self, x: Tensor) -> Tensor:
        return self.every_logits(x)[self.block]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        losses = {name: F.cross_entropy(z, batch[1]) for name, z in self.every_logits(batch[0]).items()}
        self.track(len(batch[1]), loss=losses[self.block])
        return torch.stack([*losses.values()]).sum()  # the classifiers share nothing: each is trained as if alone

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for name, logits in (every := self.every_logits(batch[0])).items():
            cast(MulticlassAccuracy, self.sweep[name]).update(logits, batch[1])
        self.test_metrics.update(every[self.block], batch[1])

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, metric in self.sweep.items():
            accuracy = cast(MulticlassAccuracy, metric)
            self.log(f"test/top1_block{name}", 100 * accuracy.compute())
            accuracy.reset()


def exponential_tail(position: Position, warmup_epochs: float, decay_epoch: float, final: float) -> float:
    """Linear warm-up from 0 to 1, constant, and from `decay_epoch` on exponentially down to `final` at the end."""
    done = position.epoch + position.step / position.steps_per_epoch
    if done < warmup_epochs:
        return (done + 1 / position.steps_per_epoch) / warmup_epochs
    return float(final ** max(0.0, (done - decay_epoch) / (position.max_epochs - decay_epoch)))
