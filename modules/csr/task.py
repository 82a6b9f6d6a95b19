"""Step 4: the linear layer on similarities, and what a doctor makes of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import SumMetric

from modules.common.frozen import Frozen
from modules.common.localisation import PointingGame
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.csr.atlas import Atlas
from modules.csr.evaluation import MacroF1
from modules.csr.interaction import Doctor, importance, pixels_of, reject, strongest, weigh
from modules.csr.module import Prototypes
from modules.csr.pictures import draw_interaction

SHORTCUTS = "shortcuts"  # what may be discarded: prototypes whose atlas patch lies in a negative box
AT_RANDOM = "at random"  # as many of the same concepts
DOCTORS = ("spatial", "elsewhere", "negative", "rejection", "dealt", "combined")


class TaskHead(StageModule):
    """Step 4: a linear layer on the largest similarities, and what a doctor makes of its predictions.

    Test metrics, percent:

    - f1: macro-F1 of all test images, without any doctor.
    - gated: share of images that a doctor looks at; f1_gated: macro-F1 of these.
    - f1_gated_<doctor>, f1_<doctor>: macro-F1 of these images and of all, after the doctor looked at these:
      spatial (positive and negative boxes), elsewhere (a control: boxes of the same size at random places), negative
      (negative boxes alone), rejection (absent concepts are rejected), dealt (a control: as many at random), combined
      (boxes and rejection).
    - pointing, chance, overlap: of each present concept's map, the largest over its prototypes, with the concept's
      boxes; pointing_any, chance_any: with the boxes of any concept in the image.
    - pointing_<concept's number>: of one concept.

    Validation metrics: f1 and f1_spatial.

    Args:
        start: the stage that has the prototypes.
        classes: C.
        doctor: who looks at which images.
        atlas: needed to discard prototypes.
        discard: "shortcuts", "at random", or pairs of a concept and a prototype's number.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: prototypes to discard that are not there, or no atlas to tell.
    """

    kept: Tensor

    def __init__(
        self,
        start: Prototypes,
        classes: int,
        doctor: Doctor | None = None,
        atlas: Atlas | None = None,
        discard: str | Sequence[Sequence[int]] = (),
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.frozen = Frozen([start.prototypes])
        self.register_buffer("kept", kept_after(start.prototypes.vectors.shape[:2], atlas, discard))
        self.concepts = len(self.kept)
        self.head = nn.Linear(int(self.kept.sum()), classes)
        self.doctor = doctor or Doctor()

        self.f1 = MacroF1(classes, ["f1", *(f"f1_{name}" for name in DOCTORS)])
        self.f1_gated = MacroF1(classes, ["f1_gated", *(f"f1_gated_{name}" for name in DOCTORS)])
        self.f1_val = MacroF1(classes, ["f1", "f1_spatial"])
        self.gated = SumMetric(nan_strategy="disable")
        self.count = SumMetric(nan_strategy="disable")
        self.pointing = PointingGame()
        self.pointing_any = PointingGame(overlaps=False)
        self.pointing_of = [PointingGame(overlaps=False) for _ in range(self.concepts)]
        for k, game in enumerate(self.pointing_of):  # registered for moves between devices; the list keeps their type
            self.add_module(f"pointing_{k}", game)

    def trained(self) -> Any:
        return self.head.parameters()

    def maps(self, features: Tensor) -> Tensor:
        """Similarity maps S (B, K, M, h, w). No gradient flows."""
        (prototypes,) = self.frozen.on(features.device)
        with torch.no_grad():
            return prototypes(features)

    def classify(self, scores: Tensor) -> Tensor:
        """Scores (B, K, M) -> logits (B, C)."""
        return self.head(scores[:, self.kept])

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, c, H, W) -> logits (B, C)."""
        (prototypes,) = self.frozen.on(features.device)
        with torch.no_grad():
            scores = prototypes.scores(features)
        return self.classify(scores)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch.x)
        loss = F.cross_entropy(logits, batch.y)

        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean())
        return loss

    def concept_maps(self, maps: Tensor) -> Tensor:
        """What is shown of each concept: the largest of its prototypes' maps, (B, K, h, w); 0 if it has none left."""
        largest = maps.masked_fill(~self.kept[:, :, None, None], -torch.inf).amax(2)
        return largest.masked_fill(~self.kept.any(1)[:, None, None], 0.0)

    def drawn(self, boxes: Tensor, batch: Any, grid: tuple[int, int]) -> Tensor:
        """A (B, h, w) of these boxes (B, R, 4) around what the batch says that they show."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        of_concept, negative = pixels_of(boxes, batch.shows, self.concepts, data.image_side)
        return importance(of_concept.any(1), negative, self.doctor.alpha, grid)

    def corrected(self, maps: Tensor, batch: Any) -> dict[str, Tensor]:
        """Logits (B, C) after each doctor's correction of every image."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        grid = (maps.shape[3], maps.shape[4])
        _, negative = pixels_of(batch.boxes, batch.shows, self.concepts, data.image_side)

        weights = {
            "spatial": self.drawn(batch.boxes, batch, grid),
            "elsewhere": self.drawn(batch.elsewhere, batch, grid),
            "negative": importance(torch.ones_like(negative), negative, self.doctor.alpha, grid),
        }
        scores = {name: strongest(weigh(maps, weight)) for name, weight in weights.items()}
        scores["rejection"] = reject(strongest(maps), batch.concepts == 0)
        scores["dealt"] = reject(strongest(maps), batch.dealt == 0)
        scores["combined"] = reject(scores["spatial"], batch.concepts == 0)
        return {name: self.classify(score) for name, score in scores.items()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        maps = self.maps(batch.x)  # (B, K, M, h, w)
        logits = self.classify(strongest(maps))
        weights = self.drawn(batch.boxes, batch, (maps.shape[3], maps.shape[4]))
        boxed = self.classify(strongest(weigh(maps, weights)))

        gated = self.doctor.looks_at(logits)[:, None]  # (B, 1)
        self.f1_val.update("f1", logits, batch.y)
        self.f1_val.update("f1_spatial", torch.where(gated, boxed, logits), batch.y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value.float() for name, value in self.f1_val.compute().items()})
        self.f1_val.reset()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        maps = self.maps(batch.x)  # (B, K, M, h, w)
        logits = self.classify(strongest(maps))
        gated = self.doctor.looks_at(logits)  # (B,)

        self.f1.update("f1", logits, batch.y)
        self.f1_gated.update("f1_gated", logits[gated], batch.y[gated])
        for name, changed in self.corrected(maps, batch).items():
            after = torch.where(gated[:, None], changed, logits)
            self.f1.update(f"f1_{name}", after, batch.y)
            self.f1_gated.update(f"f1_gated_{name}", after[gated], batch.y[gated])
        self.gated.update(gated.float().sum())
        self.count.update(float(len(batch.y)))

        shown = self.concept_maps(maps)  # (B, K, h, w)
        of_concept, _ = pixels_of(batch.boxes, batch.shows, self.concepts, data.image_side)
        self.pointing.update(shown, of_concept)
        for k, game in enumerate(self.pointing_of):
            game.update(shown[:, k : k + 1], of_concept[:, k : k + 1])
        present = of_concept.flatten(2).any(2)[:, :, None, None]
        self.pointing_any.update(shown, of_concept.any(1, keepdim=True) & present)

    def on_test_epoch_end(self) -> None:
        count = self.count.compute()
        values = {**self.f1.compute(), **self.f1_gated.compute(), **self.pointing.compute()}
        anywhere = self.pointing_any.compute()
        values |= {f"{name}_any": anywhere[name] for name in ("pointing", "chance")}
        values |= {f"pointing_{k}": game.compute()["pointing"] for k, game in enumerate(self.pointing_of)}
        values |= {"gated": 100 * self.gated.compute() / count, "prototypes": self.kept.sum().float(), "n": count}
        self.log_dict({f"test/{name}": value.float() for name, value in values.items()})
        metrics: list[Any] = [self.f1, self.f1_gated, self.gated, self.count, self.pointing, self.pointing_any]
        for metric in (*metrics, *self.pointing_of):
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Images that a doctor looked at, with a concept's map before and after the boxes."""
        batch = next(iter(data.test_dataloader()))
        maps = self.maps(batch.x.to(self.device))
        gated = self.doctor.looks_at(self.classify(strongest(maps))).nonzero().flatten()[:4]
        of_concept, negative = pixels_of(batch.boxes, batch.shows, self.concepts, data.image_side)
        weights = importance(of_concept.any(1), negative, self.doctor.alpha, data.grid).to(self.device)
        before = self.concept_maps(maps)[gated].cpu()
        after = self.concept_maps(weigh(maps, weights))[gated].cpu()
        present = of_concept.flatten(2).any(2)[gated.cpu()]
        return {"interaction": draw_interaction(before, after, present, list(data.concepts))} if len(gated) else {}


def kept_after(shape: Sequence[int], atlas: Atlas | None, discard: str | Sequence[Sequence[int]]) -> Tensor:
    """Which of K x M prototypes are left: (K, M) bool.

    Discarding as many "at random" takes the same number from each concept, fixed by the random state.
    """
    kept = torch.ones(*shape, dtype=torch.bool)
    if isinstance(discard, str):
        if discard not in (SHORTCUTS, AT_RANDOM):
            raise ValueError(f"discard={discard!r}: expected {SHORTCUTS!r}, {AT_RANDOM!r} or pairs of numbers")
        if atlas is None:
            raise ValueError(f"discard={discard!r} needs needs: {{atlas: <stage>}}")
        lost = atlas.shortcut.cpu()
        if discard == AT_RANDOM:
            order = torch.rand(*shape).argsort(1).argsort(1)
            lost = order < lost.sum(1, keepdim=True)
        kept = ~lost
    else:
        for pair in discard:
            if len(pair) != 2 or not (0 <= pair[0] < shape[0] and 0 <= pair[1] < shape[1]):
                raise ValueError(
                    f"discard: {list(pair)}: expected a concept below {shape[0]} and a number below {shape[1]}"
                )
            kept[pair[0], pair[1]] = False
    if not bool(kept.any()):
        raise ValueError("discard: no prototype is left")
    return kept
