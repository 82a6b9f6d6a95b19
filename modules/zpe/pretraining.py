"""The image-text model whose prompts are weighted, and what it makes of a downstream set.

A small model is trained as CLIP is (Radford et al., arXiv 2103.00020), with v and t at length 1 and a learnt scale:

    L = 1/2 [CE(scale v t^T, i = j) + CE(scale t v^T, i = j)]

Captions that occur twice in a batch need no care: equal texts have equal logits, so that the targets i = j and targets
spread over the equal captions have the same gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import SumMetric

from modules.common.distributed import summed, world_size
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.zpe.networks import DualEncoder, OpenClip, unit
from modules.zpe.pictures import draw_captioned

TEXTS = 512  # embedded at a time


def contrastive_loss(v: Tensor, t: Tensor, scale: Tensor) -> Tensor:
    """L of matching rows v, t (B, D) at length 1."""
    logits = scale * v @ t.T  # (B, B)
    matching = torch.arange(len(v), device=v.device)
    return 0.5 * (F.cross_entropy(logits, matching) + F.cross_entropy(logits.T, matching))


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, (b, D) -> (B, D), with gradient.

    Every process then has the whole loss, whose gradient arrives as often as there are processes; the mean over
    processes that follows makes it what one process would have.
    """
    if world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    before, after = int(sum(sizes[: dist.get_rank()])), int(sum(sizes[dist.get_rank() + 1 :]))
    return summed(F.pad(x, (0, 0, before, after)))


class ImageTextModel(StageModule):
    """Trains an image-text model on (x, caption), a number in the data's `captions`; or holds one that is loaded.

    The test compares each image with every caption that the data knows, and logs how often its own is the best
    (caption_top1, percent). Weights of one dimension and the scale have no weight decay, as in CLIP.

    Args:
        network: the model.
        optimizer, schedule: see StageModule.
    """

    tokens: Tensor

    def __init__(
        self,
        network: DualEncoder | OpenClip,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network
        self.register_buffer("tokens", torch.empty(0, 0, dtype=torch.long), persistent=False)
        self.texts = torch.empty(0, 0)
        self.right, self.seen = (SumMetric(nan_strategy="disable") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> embeddings (B, D) at length 1."""
        return unit(self.network.encode_images(x))

    def on_fit_start(self) -> None:
        captions = self.trainer.datamodule.captions  # type: ignore[attr-defined]
        self.tokens = self.network.tokenize(captions).to(self.device)  # (K, L)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        v = self(batch.x)  # (B, D)
        t = unit(self.network.encode_texts(self.tokens[batch.caption]))  # (B, D)
        scale = self.network.scale
        loss = contrastive_loss(gather_rows(v), gather_rows(t), scale)
        self.track(len(v), loss=loss, scale=scale)
        return loss

    def trained(self) -> list[dict[str, Any]]:
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]

    def on_test_start(self) -> None:
        self.texts = embed_texts(self.network, self.trainer.datamodule.captions, self.device)  # type: ignore[attr-defined]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        best = (self(batch.x) @ self.texts.T).argmax(1)
        self.right.update((best == batch.caption).sum())
        self.seen.update(float(len(best)))

    def on_test_epoch_end(self) -> None:
        seen = self.seen.compute()
        self.log_dict({"test/caption_top1": 100 * self.right.compute() / seen, "test/n": seen})
        self.right.reset()
        self.seen.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images with their captions, where the data has any."""
        if not hasattr(data, "captions"):
            return {}
        batch = next(iter(data.test_dataloader()))
        captions = [data.captions[number] for number in batch.caption[:8].tolist()]
        return {"image-text pairs": draw_captioned(data.shown(batch.x[:8]), captions)}


def embed_texts(network: DualEncoder | OpenClip, texts: list[str], device: torch.device) -> Tensor:
    """(n, D) at length 1, in inference mode."""
    with torch.inference_mode():
        chunks = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return torch.cat([unit(network.encode_texts(network.tokenize(part).to(device))) for part in chunks])


class Embeddings(StageModule):
    """A set's images, and its class names in every template of the pool, through the frozen image-text model.

    Later stages are fed with `images` (N, D), where there are prompts also with `labels` (N,), `texts` (P, C, D),
    `scale`, `templates` (P,), `classes` (C,), `own` and `planted` (P,). All embeddings have length 1. Runs in one
    process: a stage's configuration says `trainer: {devices: 1, strategy: auto}`.

    The test logs `cone`, the length of the average image: 0 if images point everywhere, 1 if they are all alike. What
    the normalisation of scores subtracts is as large as that.

    Args:
        model: the stage that trained or loaded the image-text model.
    """

    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self.model = Frozen([model])
        self.arrays: dict[str, np.ndarray] = {}
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> embeddings (B, D)."""
        return self.model.logits(x)[0]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._images.append(self(batch.x).float())
        if hasattr(batch, "y"):
            self._labels.append(batch.y)

    def on_test_epoch_end(self) -> None:
        images = torch.cat(self._images)  # (N, D)
        self.arrays = {"images": images.cpu().numpy()}
        prompts = self.trainer.datamodule.prompts()  # type: ignore[attr-defined]
        if prompts is not None:
            self.arrays |= {"labels": torch.cat(self._labels).cpu().numpy(), **self.embed_prompts(prompts)}
        self._images, self._labels = [], []
        self.log_dict({"test/cone": images.mean(0).norm(), "test/n": float(len(images))})

    def embed_prompts(self, prompts: Any) -> dict[str, np.ndarray]:
        (model,) = self.model.on(self.device)
        network = model.network
        texts = [template.replace("{}", name) for template in prompts.pool for name in prompts.classes]
        with torch.autocast(self.device.type, enabled=False):  # a fifth decimal counts in an average of 247 prompts
            embedded = embed_texts(network, texts, self.device)  # (P C, D)
        return {
            "texts": embedded.view(len(prompts.pool), len(prompts.classes), -1).cpu().numpy(),
            "scale": network.scale.detach().float().cpu().numpy(),
            "templates": np.array(prompts.pool),
            "classes": np.array(prompts.classes),
            "own": np.isin(prompts.pool, prompts.own),
            "planted": np.isin(prompts.pool, prompts.planted),
        }

    def artifacts(self) -> dict[str, np.ndarray]:
        return self.arrays

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first images of a downstream set with their classes."""
        prompts = data.prompts()
        if prompts is None:
            return {}
        batch = next(iter(data.test_dataloader()))
        names = [prompts.classes[label] for label in batch.y[:8].tolist()]
        return {"images of the set": draw_captioned(data.shown(batch.x[:8]), names)}
