"""Stage 2 of ViT-VQGAN (arXiv 2110.04627): a causal Transformer over tokens.

L = -1/T sum_j ln p(k_j | class, k_1 .. k_j-1)
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.extractors import Extractor
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.vit_vqgan.autoencoder import Block, Size
from modules.vit_vqgan.evaluation import SampleMetrics
from modules.vit_vqgan.module import Tokenizer
from modules.vit_vqgan.pictures import draw_samples
from modules.vit_vqgan.pixels import PixelModule, uniforms

SHOWN = 24  # generated images kept of a class, for the pictures


class Vim(PixelModule):
    """Stage 2: a causal Transformer over the tokens of a frozen tokenizer; its samples are decoded and measured.

    One image is sampled for each test image, of the same class. Positions are learned per row and per column and added.

    Args:
        tokenizer: gives tokens and decodes them.
        extractor: gives `fid` and `is`, named after it.
        size: of the Transformer.
        classes: the first token is one of these, the image's class; None has a single one (unconditional).
        dropout: on residuals, in MLPs, on the attention.
        temperature: divides the logits when sampling.
        splits: of the Inception score.
        tokens: model only the first so many tokens, leaving the others of a sample at code 0; None takes all. A dry run
            cuts it, as it cuts the batch.
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
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.tokenizer = Frozen([tokenizer])
        self.size = size
        self.classes = classes
        self.temperature = temperature
        self.side = tokenizer.side
        self.all_tokens = tokenizer.side**2
        self.tokens = tokens or self.all_tokens

        self.token = nn.Parameter(torch.randn(tokenizer.codebook_size, size.dim) * 0.02)
        self.rows = nn.Parameter(torch.randn(self.side, 1, size.dim) * 0.02)
        self.columns = nn.Parameter(torch.randn(1, self.side, size.dim) * 0.02)
        self.prefix = nn.Parameter(torch.randn(classes or 1, size.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(size, causal=True, dropout=dropout) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(size.dim)
        self.head = nn.Linear(size.dim, tokenizer.codebook_size)
        self.dropout = nn.Dropout(dropout)

        self.evaluation = SampleMetrics(extractor, splits)
        self._noise_seed = 0  # of a test's samples
        self._gallery: dict[int, list[Tensor]] = {}  # class -> some of its samples, to show

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.token_losses(batch).mean()
        self.track(len(batch[0]), loss=loss)
        return loss

    def token_losses(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """-ln p of every token, (B, tokens)."""
        x, labels = batch
        codes = self.tokenize(x)  # (B, T)
        logits = self(codes, labels)  # (B, T, K)
        return F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")

    def tokenize(self, x: Tensor) -> Tensor:
        """Images as the data serves them -> their codes, (B, tokens)."""
        tokenizer = self.tokenizer.on(x.device)[0]
        with torch.inference_mode():
            codes = tokenizer.tokenize(self.pixels(x))[:, : self.tokens]
        return codes.clone()  # an inference tensor cannot take part in a loss; this copy can

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Codes (B, T) -> logits (B, T, K); those of token j depend on the class and the tokens before j."""
        x = torch.cat([self.first(labels), self.embed(codes[:, :-1])], 1)  # (B, T, dim)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def embed(self, codes: Tensor) -> Tensor:
        """Tokens with their positions: (B, T) -> (B, T, dim)."""
        positions = (self.rows + self.columns).flatten(0, 1)  # (side side, dim)
        return F.embedding(codes, self.token) + positions[: codes.shape[1]]

    def first(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, 1, dim), the token before the image."""
        return F.embedding(labels if self.classes else torch.zeros_like(labels), self.prefix)[:, None]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return torch.zeros(1, self.tokens, dtype=torch.long, device=self.device), torch.zeros(1, dtype=torch.long)

    # Sampling

    @torch.inference_mode()
    def sample(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Codes (B, T), one after the other, from uniform noise (B, T): p(token | before), untouched by top-k."""
        b, t = noise.shape
        codes = torch.zeros(b, t, dtype=torch.long, device=labels.device)
        shape = (2, b, self.size.heads, t, self.size.head_width)
        caches = [torch.empty(shape, device=labels.device, dtype=self._cache_type()) for _ in self.blocks]

        x = self.first(labels)  # (B, 1, dim)
        for j in range(t):
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, j)
            logits = self.head(self.norm(x[:, 0])).float() / self.temperature  # (B, K)
            cumulative = logits.softmax(-1).cumsum(-1)
            drawn = torch.searchsorted(cumulative, noise[:, j : j + 1] * cumulative[:, -1:], right=True)  # (B, 1)
            codes[:, j] = drawn[:, 0].clamp(max=logits.shape[1] - 1)
            if j + 1 < t:
                x = self.embed(codes[:, : j + 1])[:, -1:]
        return codes

    def _cache_type(self) -> torch.dtype:
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.token.dtype

    def generate(self, labels: Tensor, indices: Tensor) -> Tensor:
        """Pixels of generated images (B, C, H, W); an image's index fixes its noise."""
        codes = self.sample(labels, uniforms(self._noise_seed, indices, self.tokens))
        codes = F.pad(codes, (0, self.all_tokens - self.tokens))
        return self.tokenizer.on(labels.device)[0].decode(codes)

    # Evaluation and pictures

    def on_test_start(self) -> None:
        self._noise_seed = int(torch.randint(2**31, ()))  # the same on every process
        shown = range(0, self.classes, max(1, self.classes // 10))[:10] if self.classes else [0]
        self._gallery = {label: [] for label in shown}  # from all over: test folders are sorted by class

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, labels = batch
        token_losses = self.token_losses(batch)
        indices = self.next_indices(len(x))
        generated = self.generate(labels, indices)
        self.evaluation.update(self.pixels(x), generated, token_losses, indices)

        for label, image in zip(labels.tolist(), generated.cpu(), strict=True):
            row = self._gallery.get(label if self.classes else 0)
            if row is not None and len(row) < SHOWN:
                row.append(image)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.evaluation.compute().items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated images of the test, by class where the class was given."""
        images = {label: row for label, row in self._gallery.items() if row}
        if not images:
            return {}
        return {"generated images": draw_samples(images, data.spec.classes if self.classes else None)}
