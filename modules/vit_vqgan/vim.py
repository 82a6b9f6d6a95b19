"""Stage 2 of ViT-VQGAN (arXiv 2110.04627): a causal Transformer over tokens, and a linear probe of its activations."""

from __future__ import annotations

from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy

from modules.common.classifier import ClassificationModule
from modules.common.extractors import Extractor
from modules.common.fid import FrechetDistance
from modules.common.frozen import Frozen
from modules.common.inception_score import InceptionScore
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule
from modules.vit_vqgan.autoencoder import Block, Size
from modules.vit_vqgan.module import Tokenizer
from modules.vit_vqgan.pixels import PixelModule, grid, uniforms


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
        self.tokenizer, self.extractor = Frozen([tokenizer]), Frozen([cast(nn.Module, extractor)])
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
            codes = self.tokenizer.on(x.device)[0].codes(self.pixels(x))[:, : self.tokens]
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
        return self.tokenizer.on(labels.device)[0].decode(codes)

    def on_test_start(self) -> None:
        self._base = int(torch.randint(2**31, ()))  # the same on every process
        shown = range(0, self.classes, max(1, self.classes // 10))[:10] if self.classes else [0]
        self._gallery = {label: [] for label in shown}  # from all over: test folders are sorted by class

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, labels = batch
        self.nll.update(self.losses(batch).double().mean(1).sum())
        self.tested.update(float(len(x)))
        numbers, extractor = self.numbers(len(x)), self.extractor.on(x.device)[0]
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
        self.vim, self.block = Frozen([vim]), str(block)
        sweep = {name: MulticlassAccuracy(classes, average="micro", validate_args=False) for name in heads}
        self.sweep = nn.ModuleDict(sweep)

    def every_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Images as the data serves them -> logits (B, classes) by block."""
        vim, found = self.vim.on(x.device)[0], {}
        with torch.inference_mode():
            codes = vim.tokenizer.on(x.device)[0].codes(self.pixels(x))[:, : vim.tokens]
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
