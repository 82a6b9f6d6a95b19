"""How explainable are adversarially-robust CNNs? (Nourelahi, Kotthoff, Chen & Nguyen 2022, arXiv 2205.13042).

One network, nine attribution methods, four measures:

    pointing    the map's largest value lies in the object's box (Zhang et al. 2016)
    wsl         the box of the map's largest bright region overlaps the object's by half: weakly supervised localisation
    insertion   area below p_c while pixels come back to a blurred image, most important first; higher is better
    deletion    area below p_c while they turn into the mean, most important first; lower is better

Networks are compared on images that all of them classify rightly, else accuracy would count as explainability; c is
what the network predicts, and then the label too. Insertion and deletion are made of probabilities, and so of a
network's confidence: with the logits multiplied by a number the map of a gradient points as before, and both areas
change. That is measured by a second pair of areas, at the number that gives this network another one's confidence.

A map may also point because it is smooth, or because it shows the picture's edges, without any of that being learnt by
robust training: maps are measured under the blur that suits them best as well, and so are the edges; see smoothed.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.common.frozen import Frozen
from modules.common.localisation import PointingGame, box_masks, hits
from modules.common.metrics import compute_and_reset
from modules.common.module import StageModule
from modules.robust_explainability.curves import Curves, area
from modules.robust_explainability.gradients import flat
from modules.robust_explainability.localisation import Localisation, dilated
from modules.robust_explainability.smoothed import SmoothedPointing, central, edges

Method = Callable[[Any, Tensor, Tensor], Tensor]
# Maps that ask no network: noise, how far pixels are from the mean, where they differ from their neighbours, and how
# near they are to the middle of the picture.
RANDOM, INPUT, EDGES, CENTRE = CONTROLS = ("random", "input", "edges", "centre")


def explain(method: Method, network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """A method's maps (B, H, W) of images (B, C, H, W) at targets (B,), in fp32, also within `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        maps = method(network, x.detach().float().clone(), targets.clone())
    return maps.detach().float()


def random_maps(rows: Tensor, side: tuple[int, int], seed: int) -> Tensor:
    """Noise (B, H, W) that belongs to an image's number, whatever batch it is in."""
    maps = [torch.rand(side, generator=torch.Generator().manual_seed(1_000_003 * seed + row)) for row in rows.tolist()]
    return torch.stack(maps).to(rows.device)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of |map| that lies in the mask, percent: (B, H, W) both -> (B,); 0 for an empty map."""
    size = maps.abs()
    return 100 * (size * masks).sum((1, 2)) / size.sum((1, 2)).clamp(min=torch.finfo(size.dtype).tiny)


def matching_scale(logits: Tensor, confidence: float, rounds: int = 40) -> float:
    """The factor on logits (N, C) at which the mean largest probability is `confidence`, by bisection in 1/64 to 64."""
    low, high = -6.0, 6.0
    for _ in range(rounds):
        middle = (low + high) / 2
        reached = float((2**middle * logits.double()).softmax(1).amax(1).mean())
        low, high = (middle, high) if reached < confidence else (low, middle)
    return 2 ** ((low + high) / 2)


@dataclass(frozen=True)
class Measures:
    """How maps are measured, and on how many images.

    Attributes:
        curves: how insertion and deletion are taken.
        tolerance: of the pointing game with one, pixels.
        slow: methods that are measured on the first `slow_images` images of each kind alone.
        curve_images, slow_images: by an image's number in its split.
        smoothed: methods and controls that are measured under a blur too.
        sigmas: of that blur, pixels, to choose from.
    """

    curves: Curves = field(default_factory=Curves)
    tolerance: float = 15.0
    slow: Sequence[str] = ()
    curve_images: int = 2000
    slow_images: int = 2000
    smoothed: Sequence[str] = ()
    sigmas: Sequence[float] = (0.0,)


class Explain(StageModule):
    """The maps of one network, measured; nothing is trained.

    Batches have the columns boxes (B, R, 4), row (B,) and in_test (B,): 0 for images that thresholds, blurs and the
    factor on logits are chosen on, 1 for those that are measured on.

    Test metrics, in the mean over measured images that all networks get right:
    - for each method: pointing_, pointing_near_ (with a tolerance), wsl_ and energy_<method>, percent; and
      insertion_, deletion_<method>, in hundredths, of the first `curve_images` images alone;
    - insertion_matched_, deletion_matched_<method>: with the logits' factor `scale`, where `reference` is named;
    - pointing_smoothed_, sigma_<method> of those in `smoothed`: under the blur that points best on images to tune on;
    - the same for four controls that ask no network: `random`, noise, shows what chance gives, `input`, |x| summed
      over channels, what pixels far from the mean give, `edges` what outlines give, and `centre` the picture's middle;
    - insertion, deletion, insertion_matched, deletion_matched: in the mean over methods;
    - chance, chance_near: the boxes' share of the image, percent, which is what pointing anywhere scores;
    - confidence and confidence_matched: mean probability of the class, percent; images: how many they are;
      common: their share of the measured images, percent; top1 of this network on them all; n.

    Artifacts: test-pointing_<method>, 0 or 100 for each of these images, to resample where networks are fixed.

    Args:
        model: the stage whose network is explained.
        networks: the stages that are compared.
        methods: name -> method, or none to leave one out.
        measures: how maps are measured.
        reference: the stage whose network's confidence the logits are scaled to.
        only_common: images that some network gets wrong are left out.
        seed: of the random map.
    Raises:
        ValueError: a method that is called like a control, or a slow or smoothed one that there is not.
    """

    def __init__(
        self,
        model: Any,
        networks: Sequence[Any],
        methods: Mapping[str, Method],
        measures: Measures | None = None,
        reference: Any = None,
        only_common: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.methods = {name: method for name, method in methods.items() if method is not None}
        if taken := set(CONTROLS) & set(methods):
            raise ValueError(f"methods: {min(taken)!r}: expected another name; this one is a control's")
        measures = measures or Measures()
        if wrong := set(measures.slow) - set(methods):
            raise ValueError(f"slow: {min(wrong)!r}: expected names of methods: {', '.join(methods)}")
        if wrong := set(measures.smoothed) - {*methods, *CONTROLS}:
            expected = ", ".join((*methods, *CONTROLS))
            raise ValueError(f"smoothed: {min(wrong)!r}: expected names of methods or controls: {expected}")
        self.model = Frozen([model.network])
        self.others = Frozen([other.network for other in networks])
        self.reference = Frozen([reference.network]) if reference is not None else None
        self.measures = measures
        self.only_common = only_common
        self.seed = seed
        self.scale = 1.0

        names = (*self.methods, *CONTROLS)
        kinds = ("pointing", "near")
        self.pointing: Any = nn.ModuleDict(
            {f"{k}_{name}": PointingGame(overlaps=False) for k in kinds for name in names}
        )
        self.smoothed: Any = nn.ModuleDict(
            {name: SmoothedPointing(measures.sigmas) for name in names if name in measures.smoothed}
        )
        self.wsl: Any = nn.ModuleDict({name: Localisation() for name in names})
        matched = ("", "_matched") if reference is not None else ("",)
        means = [f"{kind}_{name}" for name in names for kind in ("energy", *self._areas(matched))]
        means += [f"confidence{end}" for end in matched] + ["common", "top1"]
        self.means: Any = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in means})
        self.matched = matched

        self.counted = 0
        self.outcomes: dict[str, list[Tensor]] = {}

    @staticmethod
    def _areas(matched: tuple[str, ...]) -> list[str]:
        return [f"{kind}{end}" for kind in ("insertion", "deletion") for end in matched]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes) of the network that is explained."""
        return self.network_on(x.device)(x)

    def network_on(self, device: torch.device) -> Any:
        with torch.inference_mode(False):  # weights that are moved within it could take part in no gradient
            return self.model.on(device)[0]

    def on_test_epoch_start(self) -> None:
        """The factor on logits is chosen before anything is measured, so on a pass of its own."""
        self.counted = 0
        self.outcomes = {}
        if self.reference is None:
            return
        own, other = [], []
        for batch in self.trainer.datamodule.test_dataloader():  # type: ignore[attr-defined]
            x, y = batch.x.to(self.device), batch.y.to(self.device)
            chosen = self.right(x, y) & ~batch.in_test.to(self.device).bool()
            own.append(self(x[chosen]))
            with torch.inference_mode(False):
                (network,) = self.reference.on(self.device)
            other.append(network(x[chosen]))
        confidence = float(torch.cat(other).double().softmax(1).amax(1).mean())
        nothing = math.isnan(confidence)  # no image that all networks get right
        self.scale = 1.0 if nothing else matching_scale(torch.cat(own), confidence)

    def right(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) bool: all networks predict the label."""
        with torch.inference_mode(False):  # see network_on: a network may be the one that is explained
            networks = self.others.on(x.device)
        verdicts = [network(x).argmax(1) == y for network in networks]
        return torch.stack(verdicts).all(0)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        network = self.network_on(batch.x.device)
        self.counted += len(batch.y)
        measured = batch.in_test.bool()
        right = self.right(batch.x, batch.y)
        predicted = self(batch.x).argmax(1)
        self._mean("top1", 100.0 * (predicted == batch.y)[measured])
        self._mean("common", 100.0 * right[measured])

        chosen = right if self.only_common else torch.ones_like(right)
        if not chosen.any():
            return
        some = type(batch)(*(column[chosen] for column in batch._replace(y=predicted)))
        p = [(scale * self(some.x)).float().softmax(1).gather(1, some.y[:, None])[:, 0] for scale in self.scales]
        for end, confidence in zip(self.matched, p, strict=True):
            self._mean(f"confidence{end}", 100 * confidence[some.in_test.bool()])

        self.measure(RANDOM, some, random_maps(some.row, (some.x.shape[2], some.x.shape[3]), self.seed))
        self.measure(INPUT, some, flat(some.x.float()))
        self.measure(EDGES, some, edges(some.x.float()))
        self.measure(CENTRE, some, central(some.x))
        for name, method in self.methods.items():
            few = some if name not in self.measures.slow else self._first(some, self.measures.slow_images)
            if len(few.y):
                self.measure(name, few, explain(method, network, few.x, few.y))

    @property
    def scales(self) -> tuple[float, ...]:
        return (1.0, self.scale)[: len(self.matched)]

    @staticmethod
    def _first(batch: Any, count: int) -> Any:
        """The images whose number is below a count."""
        return type(batch)(*(column[batch.row < count] for column in batch))

    def measure(self, name: str, batch: Any, maps: Tensor) -> None:
        """All measures of a method's maps (B, H, W)."""
        side = (maps.shape[1], maps.shape[2])
        each = torch.ones(len(maps), 1, batch.boxes.shape[1], dtype=torch.bool, device=maps.device)
        masks = box_masks(batch.boxes, each, side)  # (B, 1, H, W)
        self.wsl[name].update(maps, batch.boxes, batch.in_test)
        if name in self.smoothed:
            self.smoothed[name].update(maps, masks, batch.in_test)

        measured = batch.in_test.bool()
        batch, maps, masks = type(batch)(*(column[measured] for column in batch)), maps[measured], masks[measured]
        if not len(maps):
            return
        self.pointing[f"pointing_{name}"].update(maps[:, None], masks)
        self.outcomes.setdefault(name, []).append(100.0 * hits(maps[:, None], masks)[:, 0].cpu())
        self.pointing[f"near_{name}"].update(maps[:, None], dilated(masks, self.measures.tolerance))
        self._mean(f"energy_{name}", energy_inside(maps, masks[:, 0]))

        kept = batch.row < self.measures.curve_images
        few = type(batch)(*(column[kept] for column in batch))
        if not len(few.y):
            return
        network = self.network_on(maps.device)
        followed = self.measures.curves(network, few.x, few.y, maps[kept], self.scales)
        insertion, deletion = (100 * area(curve) for curve in followed)
        for number, end in enumerate(self.matched):
            self._mean(f"insertion{end}_{name}", insertion[:, number])
            self._mean(f"deletion{end}_{name}", deletion[:, number])

    def _mean(self, name: str, values: Tensor) -> None:
        if len(values):
            self.means[name].update(values)

    def on_test_epoch_end(self) -> None:
        values = {name: _mean_of(metric) for name, metric in self.means.items()}
        for kind in self._areas(self.matched):
            values[kind] = torch.stack([values[f"{kind}_{name}"] for name in self.methods]).mean()

        for name in (*self.methods, *CONTROLS):
            point, near = (compute_and_reset(self.pointing[f"{kind}_{name}"]) for kind in ("pointing", "near"))
            values |= {f"pointing_{name}": point["pointing"], f"pointing_near_{name}": near["pointing"]}
            values[f"wsl_{name}"] = compute_and_reset(self.wsl[name])["wsl"]
            if name in self.smoothed:
                smooth = compute_and_reset(self.smoothed[name])
                values |= {f"pointing_smoothed_{name}": smooth["pointing"], f"sigma_{name}": smooth["sigma"]}
            if name == RANDOM:
                values |= {"chance": point["chance"], "chance_near": near["chance"], "images": point["pairs"]}

        values |= {"n": torch.tensor(float(self.counted))}
        if self.reference is not None:
            values["scale"] = torch.tensor(self.scale)
        self.log_dict({f"test/{name}": value.float() for name, value in values.items()})

    def artifacts(self) -> dict[str, np.ndarray]:
        return {f"test-pointing_{name}": torch.cat(parts).double().numpy() for name, parts in self.outcomes.items()}


def _mean_of(metric: Any) -> Tensor:
    """0 where nothing was measured."""
    return compute_and_reset(metric) if metric.update_count else torch.zeros(())
