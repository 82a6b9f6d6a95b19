"""Re-labeling ImageNet: from Single to Multi-Labels, from Global to Localized Labels (Yun et al., CVPR 2021).

arXiv 2101.05022. Random crops of images with a single label often show something else. A strong classifier is run once
over every whole training image, without its global pooling: its last layer, as a 1x1 convolution, gives a label map
L in R^(H x W x C) of logits, of which the K best of each cell are kept (annotate.py). In training, each crop gets the
label that its region of the map holds (LabelPooling, pooling.py):

    y = softmax(RoIAlign(L, box)),    loss = -sum_c y_c log softmax(f(crop))_c, mean over the batch

With CutMix on top, labels are mixed by the share of the picture that each image has.

Where the released code is not followed:
- it hands boxes to RoIAlign as (y1, x1, y2, x2), whose order is (x1, y1, x2, y2): the pooled region is mirrored at the
  image's diagonal. Here it is the region; `coordinates="yxyx"` of Labels gives the code's.
- classes that a cell did not keep have the logit 0 before the softmax, as in the code, and so keep some of the mass.
- the weights of a map's cells are computed once for all classes: dense maps of a thousand classes are never made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from modules.common.classifier import ClassificationModule
from modules.common.distillation import similarity_loss
from modules.common.module import OptimizerFactory
from modules.common.multilabel import MultiLabelAccuracy
from modules.common.schedules import Schedule
from modules.relabel.pictures import draw_crops
from modules.relabel.pooling import COORDINATES, pool_labels

KINDS = ("localised", "global", "original")


@dataclass(frozen=True)
class Labels:
    """What a crop is labelled with.

    Attributes:
        kind: "localised" pools the label map over the crop, "global" over the whole image; "original" is the dataset's
            single label.
        single: one-hot labels of the largest class instead of pooled ones.
        coordinates: order of a box's coordinates in LabelPooling: "xyxy", or "yxyx" as in the released code.
        smoothing: of original labels, in [0, 1).
    Raises:
        ValueError: an unknown name, or a smoothing out of range.
    """

    kind: str = "localised"
    single: bool = False
    coordinates: str = "xyxy"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, value, valid in (("kind", self.kind, KINDS), ("coordinates", self.coordinates, COORDINATES)):
            if value not in valid:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing}: expected a number from 0 to below 1")


@dataclass(frozen=True)
class CutMix:
    """One box a batch, in which each image shows its neighbour.

    Attributes:
        alpha: parameter of the Beta distribution of the box's share.
        plain_epochs: at the end, without it.
    """

    alpha: float = 1.0
    plain_epochs: int = 5


class ReLabel(ClassificationModule):
    """A student. All arms of the comparison are this module with other labels.

    Args:
        network, classes: see ClassificationModule.
        labels: of the crops.
        cutmix: on top; None does without.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        labels: Labels | None = None,
        cutmix: CutMix | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.labels = labels or Labels()
        self.cutmix = v2.CutMix(alpha=cutmix.alpha) if cutmix else None
        self.cutmix_off = cutmix.plain_epochs if cutmix else 0
        self.multilabel = MultiLabelAccuracy(classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        y = self.target(batch)  # (B, classes)
        x, mixed = self.mix(batch.x, y)  # (B, C, S, S), (B, classes)

        loss = similarity_loss(self(x), mixed)

        self.track(len(x), loss=loss, **self.judge(y, batch))
        return loss

    def target(self, batch: Any) -> Tensor:
        """The labels of a batch of crops, (B, classes), each summing to 1."""
        if self.labels.kind == "original":
            hard = F.one_hot(batch.y, self.classes).float()
            return hard * (1 - self.labels.smoothing) + self.labels.smoothing / self.classes
        soft = self.pooled(batch, self.labels.kind).softmax(-1)
        return F.one_hot(soft.argmax(-1), self.classes).float() if self.labels.single else soft

    def pooled(self, batch: Any, kind: str) -> Tensor:
        """Pooled logits (B, classes) over each crop ("localised") or the whole image ("global")."""
        box = batch.box if kind == "localised" else batch.box.new_tensor([0.0, 0.0, 1.0, 1.0]).expand_as(batch.box)
        return pool_labels(batch.map, box, self.classes, self.labels.coordinates)

    def mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """CutMix of neighbours in this process's share of the batch, whose order is random; nothing where it is off."""
        epochs = self.trainer.max_epochs if self.cutmix is not None else None
        if self.cutmix is None or epochs is None or self.current_epoch >= epochs - self.cutmix_off:
            return x, y
        return self.cutmix(x, y)

    def judge(self, y: Tensor, batch: Any) -> dict[str, Tensor]:
        """What is known of the labels (B, classes), in percent: `relabelled` whose largest class is not the single
        label; `alone`, of crops known to show one thing alone, and `alone_right`, of those whose largest class that is.
        All are shares of all crops, so that several processes find what one does.
        """
        largest = y.argmax(-1)
        known = {"relabelled": 100 * (largest != batch.y).float().mean()}
        if "shown" in batch._fields:
            known["alone"] = 100 * (batch.shown >= 0).float().mean()
            known["alone_right"] = 100 * (largest == batch.shown).float().mean()
        return known

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self(batch.x)
        if dataloader_idx == 0:
            self.test_metrics.update(logits, batch.y)
        if "valid" in batch._fields:
            unlabelled = (batch.valid < 0).all(1)
            self.multilabel.update(logits.argmax(-1), batch.y, batch.valid, unlabelled)

    def on_test_epoch_end(self) -> None:
        """`real_acc`: percent of images whose prediction is among all labels that count as right; `single_top1`: the
        same images against the single label. Images without reassessed labels are left out.
        """
        super().on_test_epoch_end()
        scores = self.multilabel.compute()
        if scores["counted"] > 0:
            wrong = scores["mistakes"] / scores["counted"]  # of all processes, unlike the metric's state
            single = 100 * (1 - wrong)
            self.log_dict({"test/real_acc": scores["ml_acc"], "test/single_top1": single})
        self.multilabel.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Training crops with the labels that LabelPooling and the whole image give."""
        batch = next(iter(data.train_dataloader()))
        if self.labels.kind != "localised" or self.labels.single:
            return {}
        batch = type(batch)(*(column[:6].to(self.device) for column in batch))
        soft = torch.stack([self.pooled(batch, kind).softmax(-1).cpu() for kind in ("localised", "global")], 1)
        names = data.spec.classes
        return {"labels of crops": draw_crops(data.shown(batch.x), soft, [names[y] for y in batch.y.tolist()], names)}
