"""Dataset Distillation via Curriculum Data Synthesis in Large Data Era (Yin & Shen, TMLR 2024).

arXiv 2311.18838. A dataset is distilled in three phases that meet only in a network f_T with batch norms (SRe2L):

    squeeze   f_T is trained on the whole dataset; its weights and running statistics RM, RV are what is kept of it
    recover   x ~ N(0, 1), a batch of images y optimised by Adam for S steps t of what f_T sees of them, crop_t(x):
                  L = CE(f_T(crop_t(x)), y) + r_bn sum_l w_l (||var_l - RV_l||_2 + ||mean_l - RM_l||_2)
    relabel   every crop that a student is going to see is labelled by f_T; the student learns these soft labels

SRe2L's crops cover between 8% and 100% of the image at every step. CDA lets the lower bound m(t) fall from 100% to 8%
(curriculum.py): first the whole image is in view, details last. All arms of recovery are one module with other Crops.

Where the text leaves room, the released code is followed:
- "global to local" is the lower bound alone; the upper bound stays 1. Crop, mirror and shift are one for the batch.
- the norms are not squared, w_l is 10 for the first batch norm and 1 for the others, the variance is the biased one.
- pixels are clipped to what an image can hold after every step; the last iterate is kept, as an 8-bit JPEG.

Recovered images are this stage's artifact, and the post-training's data is fed with them (post_training.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from modules.cda.curriculum import Crops
from modules.cda.pictures import draw_images, draw_trace
from modules.cda.statistics import batch_norms, statistics_loss, watch
from modules.common.classifier import ClassificationModule
from modules.common.distributed import summed
from modules.common.frozen import Frozen
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule

BINS = 100  # parts of a recovery that the trace of its losses has


class Recover(StageModule):
    """Images out of a squeezed network. An epoch is one recovery: S batches, each one step on the same images.

    Tested are the images as they are kept: whether the squeezed network sees their class in them, uncropped.

    Args:
        squeezed: the classifier f_T, with batch norms.
        classes: number of classes.
        per_class: images of each class (IPC).
        shape: (C, H, W) of an image.
        together: images that are optimised in one batch; the data's `batch_size`.
        crops: what f_T sees of the images at a step.
        statistics_weight: r_bn.
        first_layer_weight: w_1.
        jpeg_quality: of the images as they are kept; None keeps them without loss.
        optimizer, schedule: see StageModule; an epoch begins with a new optimiser, and the schedule is one epoch's.
    Raises:
        ValueError: f_T has no batch norm that keeps statistics.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        squeezed: ClassificationModule,
        classes: int,
        per_class: int,
        shape: tuple[int, int, int],
        together: int,
        crops: Crops,
        statistics_weight: float = 0.01,
        first_layer_weight: float = 10.0,
        jpeg_quality: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.squeezed = Frozen([squeezed.network])
        self.layers = batch_norms(squeezed.network)
        self.crops = crops
        self.statistics_weight = statistics_weight
        self.first_layer_weight = first_layer_weight
        self.jpeg_quality = jpeg_quality
        self.metrics = Classification(classes, ("top1", "nll"))

        self.x = nn.Parameter(torch.zeros(together, *shape))  # of the current recovery, normalised
        self.images = torch.zeros(per_class * classes, *shape, dtype=torch.uint8)  # of the finished ones
        self.trace = torch.zeros(BINS, 3)  # sums over steps of CE, R_BN and 1
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(shape[0], 1, 1), persistent=False)

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.mean.copy_(torch.tensor(spec.mean).view(-1, 1, 1))
        self.std.copy_(torch.tensor(spec.std).view(-1, 1, 1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.begin()
        super().on_train_batch_start(batch, batch_idx)

    def begin(self) -> None:
        """Noise for new images, the same for every arm and process, and an optimiser that knows nothing yet."""
        with torch.no_grad():
            self.x.copy_(torch.randn(self.x.shape))
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        steps = int(self.trainer.num_training_batches)
        x = self.x.index_select(0, batch.slot)  # (b, C, H, W), this process's share of the batch
        view = self.crops(x, batch_idx, steps)

        z, inputs = watch(self.network, self.layers, view)  # (b, classes), what each batch norm was given
        ce = global_cross_entropy(z, batch.y)
        bn = statistics_loss(inputs, self.layers, self.first_layer_weight)
        loss = ce + self.statistics_weight * bn

        self.trace[batch_idx * BINS // steps] += torch.stack([ce, bn, torch.ones_like(ce)]).detach().cpu()
        self.track(len(batch.y), loss=loss, ce=ce, bn=bn)
        return loss

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        with torch.no_grad():  # to what an image can hold
            self.x.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)

    def on_train_epoch_end(self) -> None:
        first = self.current_epoch * len(self.x)
        kept = self.images[first : first + len(self.x)]  # fewer in the last recovery where it is not full
        kept.copy_(self.as_image(self.x[: len(kept)]))

        ce, bn, count = self.trace[-BINS // 10 :].sum(0).tolist()  # the last tenth of the steps, all recoveries so far
        self.log_dict({"train/final_ce": ce / max(count, 1), "train/final_bn": bn / max(count, 1)})
        super().on_train_epoch_end()

    def factors(self, position: Position) -> list[float]:
        """The schedule of one recovery: an epoch is all there is of it."""
        return super().factors(Position(0, position.step, position.steps_per_epoch, 1))

    @property
    def network(self) -> nn.Module:
        """f_T, frozen and in evaluation mode."""
        (network,) = self.squeezed.on(self.x.device)
        return network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def as_image(self, x: Tensor) -> Tensor:
        """Normalised (B, C, H, W) -> uint8 on the CPU, through a JPEG where they are kept as one."""
        pixels = (x.detach().float() * self.std + self.mean) * 255
        images = pixels.round().clamp(0, 255).to(torch.uint8).cpu()
        return images if self.jpeg_quality is None else through_jpeg(images, self.jpeg_quality)

    def as_input(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> what f_T takes."""
        return (images.to(self.device) / 255 - self.mean) / self.std

    # The images as they are kept

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.metrics.update(self(self.as_input(self.images[batch.row.cpu()])), batch.y)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()

    def artifacts(self) -> dict[str, np.ndarray]:
        return {"images": self.images.numpy()}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first images of some classes, and how the losses and m(t) went over a recovery."""
        bounds = [self.crops.bound(t, BINS) for t in range(BINS)]
        return {
            "recovered images": draw_images(self.images, data.labels, data.spec.classes),
            "recovery": draw_trace(self.trace, bounds),
        }

    def get_extra_state(self) -> dict[str, Tensor]:
        """Part of the checkpoint, and yet no buffers: images would fill a GPU, and processes would exchange them."""
        return {"images": self.images, "trace": self.trace}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.images.copy_(state["images"])
        self.trace.copy_(state["trace"])


def global_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """The mean over the global batch, on every process; its gradient there, as that of R_BN, is one process's times
    their number, which DDP divides by. z (b, classes), y (b,)."""
    own = F.cross_entropy(z.float(), y, reduction="sum")
    total, count = summed(torch.stack([own, torch.full_like(own, len(y))]))
    return total / count


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """uint8 (B, C, H, W), C 1 or 3, written as JPEG and read again."""
    return torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in images])
