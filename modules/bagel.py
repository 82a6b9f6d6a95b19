"""When does dough become a bagel? Analyzing the remaining mistakes on ImageNet (Vasudevan et al.).

arXiv 2205.04596. People reviewed every top-1 "mistake" that two strong models still make against ImageNet's
multi-labels. Nearly half were right; what remained got a category and a severity. Multi-label accuracy (MLA) with the
reviewed labels:

    MLA = 1/C sum_k 1/|I_k| sum_{i in I_k} [ argmax_c z_i(c) in S_i ]

S_i = correct and unclear labels of photo i; I_k = photos whose ORIGINAL label is k, problematic ones left out. It is a
mean over classes, and top-1 alone counts. ImageNet-M is 68 photos on which top models are obviously wrong; its score is
a count, and its selection decides the result: the models it was selected against score 0, weaker ones do not.

What can be recomputed is here: the metric (`MultiLabelEvaluation`), the logic of the selection (`SelectedSlice`) and
the tables of the released annotations (`MistakeTables`). The review itself is people's work and is not imitated.

Where the paper, its code and a later evaluation of 962 models (Peychev et al. 2023) differ:
- collapsed classes (a malamute is an eskimo dog, sunglass is sunglasses): the paper's labels hold them in 98.8% of the
  cases, its code adds nothing. Peychev et al. add them by original label, and so does `collapse=True`, since the
  numbers to compare with are theirs. The ImageNet-M count never uses them, as there; nor does `SelectedSlice`.
- the code demands all 1000 classes; here the mean is over those that occur, and `test/classes` says how many.
- one category is written in two ways in the released files; both are counted as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from modules.common.classifier import Classifier
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.multilabel import MultiLabelAccuracy, among
from modules.common.schedules import Schedule

# original label -> what else counts as right; class numbers of ImageNet-1k
COLLAPSED: dict[int, tuple[int, ...]] = {
    249: (248,),  # malamute: eskimo dog
    250: (248,),  # siberian husky: eskimo dog
    356: (357, 358, 359),  # weasel, mink, polecat, black-footed ferret
    357: (356, 358, 359),
    358: (356, 357, 359),
    359: (356, 357, 358),
    385: (101,),  # indian elephant: tusker
    386: (101,),  # african elephant: tusker
    435: (876,),  # bathtub: tub, and not the other way round
    482: (848,),  # cassette player: tape player
    504: (968,),  # coffee mug: cup
    620: (681,),  # laptop, notebook
    681: (620,),
    638: (639,),  # maillot, maillot tank suit
    639: (638,),
    657: (744,),  # missile, projectile
    744: (657,),
    664: (782,),  # monitor, screen
    782: (664,),
    836: (837,),  # sunglass, sunglasses
    837: (836,),
}
TREND = (1.007, 8.34)  # MLA = 1.007 top-1 + 8.34 over 962 ImageNet models, correlation 0.998 (data of Peychev et al.)

LARGEST = 5  # how often the most frequent confused pair of the released file occurs


def collapsed_table(classes: int = 1000) -> Tensor:
    """COLLAPSED as (classes, 3), padded with -1."""
    table = torch.full((classes, max(map(len, COLLAPSED.values()))), -1)
    for label, also in COLLAPSED.items():
        table[label, : len(also)] = torch.tensor(also)
    return table


class MultiLabelEvaluation(Classifier):
    """A classifier, tested against valid sets. Where a stage fits it, it learns from the single label alone.

    Test batches are (images, original label (B,), valid (B, L) padded with -1, skip (B,), major (B,)).

    Args:
        network: (B, C_in, H, W) -> logits (B, classes).
        classes: number of classes.
        collapse: also count what COLLAPSED allows for the original label; ImageNet's 1000 classes only.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: `collapse` with another number of classes.
    """

    collapsed: Tensor

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        collapse: bool = False,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer=optimizer, schedule=schedule)
        if collapse and classes != 1000:
            raise ValueError(f"collapse=true is about ImageNet's 1000 classes, but classes={classes}")
        table = collapsed_table() if collapse else torch.empty(classes, 0, dtype=torch.long)
        self.register_buffer("collapsed", table, persistent=False)
        self.measure = MultiLabelAccuracy(classes)
        self.major_right, self.major_seen = (SumMetric(nan_strategy="disable") for _ in range(2))
        self.confused = torch.zeros(classes, classes, dtype=torch.long)  # of a test in this process

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        x, original, valid, skip, major = batch
        prediction = self(x).argmax(-1)  # (B,)
        self.major_right.update((among(prediction, valid) & major).sum())
        self.major_seen.update(major.sum())
        self.measure.update(prediction, original, torch.cat([valid, self.collapsed[original]], 1), skip)

    def on_test_epoch_end(self) -> None:
        scores = self.measure.compute()
        self.confused = scores.pop("confused").cpu()
        seen, right = self.major_seen.compute(), self.major_right.compute()
        if seen:
            scores |= {"m_correct": right, "m_errors": seen - right, "m_images": seen}
        self.log_dict({f"test/{name}": value for name, value in scores.items()})
        for part in (self.measure, self.major_right, self.major_seen):
            part.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The pairs of classes that the remaining mistakes confuse most often."""
        counts, order = self.confused.flatten().sort(descending=True, stable=True)
        top = int((counts[:12] > 0).sum())
        if not top:
            return {}
        names = data.spec.classes
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(top), counts[:top])
        pairs = [divmod(int(pair), self.classes) for pair in order[:top]]
        axes.set_yticks(range(top), [f"{names[a]}, taken for {names[b]}" for a, b in pairs], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f"predictions that are not valid, {int(self.confused.sum())} in all")
        return {"most frequent confusions": figure}


class SelectedSlice(StageModule):
    """ImageNet-M's logic: photos that every judge gets wrong, and how a network does on them that had no say.

    The judges score 0 on the slice by construction, so a model's score there says how much it resembles the judges and
    not how good it is.

    Args:
        judges: classifiers, whose networks choose the slice.
        network: the classifier that is scored.
        classes: number of classes.

    Batches are those of MultiLabelEvaluation; images may be a list, one tensor for each judge and then the network's.
    """

    def __init__(self, judges: list[MultiLabelEvaluation], network: MultiLabelEvaluation, classes: int) -> None:
        super().__init__()
        self.frozen = Frozen(member.network for member in (*judges, network))
        self.measures = [MultiLabelAccuracy(classes) for _ in range(len(self.frozen))]
        for number, measure in enumerate(self.measures):  # registered for moves between devices
            self.add_module(f"measure_{number}", measure)
        self.chosen, self.right = (SumMetric(nan_strategy="disable") for _ in range(2))
        self.points: list[tuple[float, float]] = []  # (top-1, MLA) of each network, of a test in this process

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (T, B, C) of the judges and then the network."""
        views = [x] * len(self.frozen) if isinstance(x, Tensor) else x
        return torch.cat([self.frozen.logits(view, [number]) for number, view in enumerate(views)])

    def test_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        x, original, valid, skip, _ = batch
        predictions = self(x).argmax(-1)  # (T, B)
        right = torch.stack([among(prediction, valid) for prediction in predictions])
        chosen = ~right[:-1].any(0) & ~skip
        self.chosen.update(chosen.sum())
        self.right.update((right[-1] & chosen).sum())
        for measure, prediction in zip(self.measures, predictions, strict=True):
            measure.update(prediction, original, valid, skip)

    def on_test_epoch_end(self) -> None:
        scores = [measure.compute() for measure in self.measures]
        self.points = [(float(each["top1"]), float(each["mla"])) for each in scores]
        chosen, right = self.chosen.compute(), self.right.compute()
        own = {"slice_n": chosen, "slice_right": right, "slice_acc": 100 * right / chosen}
        self.log_dict({f"test/{k}": v for k, v in (own | {k: scores[-1][k] for k in ("mla", "top1", "n")}).items()})
        for part in (*self.measures, self.chosen, self.right):
            part.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """A few test images with all labels and predictions, and MLA against top-1."""
        drawn = {"labels and predictions": self.examples(data)}
        return drawn | ({"MLA against top-1": self.scatter()} if self.points else {})

    def examples(self, data: Any, count: int = 6) -> Figure:
        x, original, valid, _, _ = next(iter(data.test_dataloader()))
        count = min(count, len(original))
        views = [x[:count]] if isinstance(x, Tensor) else [view[:count] for view in x]
        device = next(self.frozen.networks[0].parameters()).device
        moved = [view.to(device) for view in views]
        predictions = self(moved[0] if len(moved) == 1 else moved).argmax(-1).cpu()  # (T, count)
        names = data.spec.classes
        figure = Figure(figsize=(9, 3), layout="constrained")
        for column, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
            axes.imshow(data.shown(views[0][column]).permute(1, 2, 0), cmap="gray")
            also = [names[label] for label in valid[column].tolist() if label not in (-1, int(original[column]))]
            axes.set_title("\n".join([f"label {names[original[column]]}", *(f"also {n}" for n in also)]), fontsize=7)
            hits = among(predictions[:, column], valid[column].expand(len(predictions), -1).cpu())
            who = [*(f"judge {n + 1}" for n in range(len(predictions) - 1)), "scored"]
            said = zip(who, predictions[:, column].tolist(), hits.tolist(), strict=True)
            axes.set_xlabel("\n".join(f"{w}: {names[p]}{'' if hit else ' (wrong)'}" for w, p, hit in said), fontsize=7)
            axes.set(xticks=[], yticks=[])
        return figure

    def scatter(self) -> Figure:
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        slope, offset = TREND
        axes.plot([0, (100 - offset) / slope], [offset, 100], ":", color="0.5", label="962 models on ImageNet")
        axes.plot([0, 100], [0, 100], color="0.8", label="one valid label per image")
        for number, (top1, mla) in enumerate(self.points):
            who = f"judge {number + 1}" if number + 1 < len(self.points) else "scored"
            axes.plot(top1, mla, "o", label=f"{who}: {top1:.1f} to {mla:.1f}")
        axes.set(xlabel="top-1, percent", ylabel="MLA, percent", xlim=(0, 100), ylim=(0, 100))
        axes.legend(fontsize=7)
        return figure


class MistakeCounts(Metric):
    """What MistakeTables counts, as sums: exact over several processes.

    Args:
        models, categories, severities: how many there are of each.
    """

    full_state_update = False
    table: Tensor  # (models, categories, severities)
    photos: Tensor
    shared: Tensor  # (3,) photos that all models get wrong; with the same class; all of them in the first severity
    frequencies: Tensor  # how many confused pairs occur once, twice, ...

    def __init__(self, models: int, categories: int, severities: int) -> None:
        super().__init__()
        sizes = {"table": (models, categories, severities), "photos": (), "shared": (3,), "frequencies": (LARGEST,)}
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update_photos(self, rows: Tensor) -> None:
        """rows (B, models, 3): prediction, category, severity; -1 where the model is not wrong."""
        prediction, category, severity = rows.unbind(-1)  # (B, models)
        models, categories, severities = self.table.shape
        cell = (torch.arange(models, device=rows.device) * categories + category) * severities + severity
        counts = torch.bincount(cell[prediction >= 0], minlength=self.table.numel())
        self.table = self.table + counts.view_as(self.table)
        every = (prediction >= 0).all(1)
        same, worst = every & (prediction == prediction[:, :1]).all(1), every & (severity == 0).all(1)
        self.shared = self.shared + torch.stack([every.sum(), same.sum(), worst.sum()])
        self.photos = self.photos + len(rows)

    def update_pairs(self, rows: Tensor) -> None:
        """rows (B, 3): class, class, how often."""
        if len(rows) and int(rows[:, 2].max()) > LARGEST:
            raise ValueError(f"a pair occurs {int(rows[:, 2].max())} times; expected at most {LARGEST}")
        self.frequencies = self.frequencies + torch.bincount(rows[:, 2] - 1, minlength=LARGEST)

    def update(self, rows: Tensor) -> None:
        (self.update_photos if rows.ndim == 3 else self.update_pairs)(rows)

    def compute(self) -> dict[str, Tensor]:
        names = ("table", "photos", "shared", "frequencies")
        return {name: getattr(self, name).clone() for name in names}


class MistakeTables(StageModule):
    """The paper's counts from its released annotations: category by severity, overlap of two models, confused pairs.

    Test data is that of datamodules.bagel.annotations.Mistakes: photos (B, M, 3) with prediction, category and
    severity of each model, -1 where it is not wrong; and pairs (B, 3) with two classes and a count.

    Args:
        models, categories, severities: names, in the order of the numbers in the data. The first severity is the one
            whose share is reported.
    """

    def __init__(self, models: Sequence[str], categories: Sequence[str], severities: Sequence[str]) -> None:
        super().__init__()
        self.models, self.categories, self.severities = list(models), list(categories), list(severities)
        self.counts = MistakeCounts(len(models), len(categories), len(severities))

    def forward(self, rows: Tensor) -> Tensor:
        """Nothing is predicted; a dry run counts the operations of this."""
        return rows

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.counts.update(batch)

    def on_test_epoch_end(self) -> None:
        counts = self.counts.compute()
        worst = self.severities[0]
        named: dict[str, Tensor] = {"n": counts["photos"]}
        for model, table in zip(self.models, counts["table"], strict=True):
            named[f"{model}_mistakes"] = table.sum()
            named[f"{model}_{worst}_share"] = 100 * table[:, 0].sum() / table.sum()
            named |= {f"{model}_{name}": n for name, n in zip(self.severities, table.sum(0), strict=True)}
            named |= {f"{model}_{name}": n for name, n in zip(self.categories, table.sum(1), strict=True)}
            named |= {f"{model}_{worst}_{name}": n for name, n in zip(self.categories, table[:, 0], strict=True)}
        named |= dict(zip(("shared", "shared_same_class", f"shared_{worst}"), counts["shared"], strict=True))
        frequencies = counts["frequencies"]
        named["pairs"] = frequencies.sum()
        named["pair_mistakes"] = (frequencies * torch.arange(1, LARGEST + 1, device=self.device)).sum()
        named |= {f"pairs_seen_{times}": n for times, n in enumerate(frequencies, 1)}
        self.log_dict({f"test/{name}": value.float() for name, value in named.items()})
        self.counts.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Category by severity, one table a model."""
        counts = MistakeCounts(len(self.models), len(self.categories), len(self.severities))
        counts.update(data.photos)
        figure = Figure(figsize=(9, 3), layout="constrained")
        for axes, model, table in zip(figure.subplots(1, len(self.models)), self.models, counts.table, strict=True):
            axes.imshow(table, cmap="Oranges", aspect="auto")
            for (row, column), count in np.ndenumerate(table.numpy()):
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
            axes.set_xticks(range(len(self.severities)), self.severities, fontsize=8)
            axes.set_yticks(range(len(self.categories)), [c.replace("_", " ") for c in self.categories], fontsize=8)
            axes.set_title(f"{model.replace('_', ' ')}: {int(table.sum())} mistakes left", fontsize=9)
        return {"category by severity": figure}
