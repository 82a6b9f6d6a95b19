"""Is it the object? Where Grad-CAM's maps lie, and which decisions change when real pixels are put in."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import CatMetric

from modules.cifake.gradcam import SIGNS, energy_share, grad_cam, stretched
from modules.cifake.module import TopologyDetector
from modules.cifake.pictures import draw_maps
from modules.cifake.scores import FAKE
from modules.common.metrics import compute_and_reset
from modules.common.module import StageModule
from modules.common.sharpness import energy, threshold

SHOWN = 6  # pictures of each kind on the page


def central(x: Tensor) -> Tensor:
    """A square of half the side in the middle, where there is no mask: (B, C, H, W) -> (B, H, W) bool."""
    height, width = x.shape[2:]
    region = torch.zeros(len(x), height, width, dtype=torch.bool, device=x.device)
    region[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return region


def mean(values: Tensor) -> float:
    """0 where there is nothing."""
    return float(values.mean()) if len(values) else 0.0


class GradCAMs(StageModule):
    """Grad-CAM of a trained detector over the pictures that it gets right, both signs.

    Test metrics, percent: `<kind>_right`, pictures of a kind (fake, real) that are called so; of these,
    `energy_<kind>_<sign>`, the share of a map's energy on the object, for evidence of either sign; `area_<kind>`, the
    object's share of the picture; `blank_<kind>_<sign>`, maps that are 0 everywhere, which have no share. `energy` and
    `area` are those of generated pictures and evidence of "generated". Maps are stretched to [0, 1] before.

    Batches are x, y and, where objects are known, mask (B, H, W); the middle quarter of the picture stands in.

    Args:
        detector: the stage that was trained.
    """

    def __init__(self, detector: TopologyDetector) -> None:
        super().__init__()
        self.detector = detector
        self.rows = CatMetric(nan_strategy="error")
        self.shown: dict[str, dict[str, list[Tensor]]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x)

    def on_test_epoch_start(self) -> None:
        self.shown = {kind: {name: [] for name in ("image", "fake", "real", "mask")} for kind in SIGNS}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch.x, batch.y
        region = batch.mask.bool() if hasattr(batch, "mask") else central(x)
        right = (self.detector.logits(x) > 0) == (y == FAKE)
        maps = {name: stretched(grad_cam(self.detector.network, x, sign)) for name, sign in SIGNS.items()}

        columns = [(y == FAKE).double(), right.double(), 100 * region.double().mean((1, 2))]
        for name in SIGNS:
            columns += [part.double() for part in energy_share(maps[name], region)]
        self.rows.update(torch.stack(columns, 1))

        for kind, own in (("fake", y == FAKE), ("real", y != FAKE)):
            chosen = (own & right).nonzero().flatten()[: SHOWN - len(self.shown[kind]["image"])]
            for name, values in (("image", x), ("mask", region), *maps.items()):
                self.shown[kind][name] += list(values[chosen].cpu())

    def on_test_epoch_end(self) -> None:
        rows = compute_and_reset(self.rows).view(-1, 7)
        is_fake, right, area = rows[:, 0] > 0.5, rows[:, 1] > 0.5, rows[:, 2]
        values = {"n": float(len(rows))}
        for kind, own in (("fake", is_fake), ("real", ~is_fake)):
            values[f"{kind}_right"] = 100 * mean(right[own].double())
            chosen = own & right
            values[f"area_{kind}"] = mean(area[chosen])
            for number, name in enumerate(SIGNS):
                share, there = rows[:, 3 + 2 * number], rows[:, 4 + 2 * number] > 0.5
                values[f"energy_{kind}_{name}"] = mean(share[chosen & there])
                values[f"blank_{kind}_{name}"] = 100 * mean((~there)[chosen].double())
        values["energy"], values["area"] = values["energy_fake_fake"], values["area_fake"]
        self.log_dict({f"test/{name}": value for name, value in values.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Real and generated pictures that were called right, in the order of the test, not chosen."""
        groups: dict[str, dict[str, Tensor]] = {}
        outlines = {}
        for kind, parts in self.shown.items():
            if parts["image"]:
                groups[kind] = {name: torch.stack(parts[name]) for name in ("image", "fake", "real")}
                groups[kind]["image"] = data.shown(groups[kind]["image"])
                outlines[kind] = torch.stack(parts["mask"])
        return {"Grad-CAM": draw_maps(groups, outlines)} if groups else {}


class Swap(StageModule):
    """Generated pictures x' = AE(x) with real pixels of x put into one region: which decisions change to "real"?

    The regions are the object and a place of the same shape in the background. Test metrics, percent:

    - `detected`: generated pictures that are called so. The others are of these.
    - `flip_object`, `flip_background`: decisions that change; `flip_either` is the larger.
    - `flip_everything`: those that change where the whole picture is the real one.
    - `drop_object`, `drop_background`: mean fall of the logit, not in percent.
    - `number_detected`, `number_flip_object`, `number_flip_background`: the same for a detector of one number, the
      picture's log Laplacian energy. Its threshold and side are those that tell training pictures apart best;
      `number_acc` is its accuracy.
    - `error_object`, `error_background`: mean absolute difference from the real pixels there, grey levels.

    Batches are x (generated), object, background (with real pixels put in), real, mask and place (B, H, W). The data
    gives training pictures in `columns["train"]` as x uint8 and y.

    Args:
        detector: the stage that was trained.
    """

    def __init__(self, detector: TopologyDetector) -> None:
        super().__init__()
        self.detector = detector
        self.rows = CatMetric(nan_strategy="error")
        self.threshold = 0.0
        self.side = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x)

    def on_test_epoch_start(self) -> None:
        seen = self.trainer.datamodule.columns["train"]  # type: ignore[attr-defined]
        self.threshold, self.side = threshold(energy(seen["x"].float() / 255), (seen["y"] == FAKE).long())

    def number(self, x: Tensor) -> Tensor:
        """Above 0 where the detector of one number says "generated": (B,)."""
        return self.side * (energy(x) - self.threshold)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pictures = (batch.x, batch.object, batch.background, batch.real)
        logits = [self.detector.logits(x).double() for x in pictures]
        numbers = [self.number(x).double() for x in pictures]
        error = 255 * (batch.x - batch.real).double().abs().mean(1)  # (B, H, W)
        errors = [(error * part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1) for part in (batch.mask, batch.place)]
        self.rows.update(torch.stack([*logits, *numbers, *errors], 1))

    def on_test_epoch_end(self) -> None:
        rows = compute_and_reset(self.rows).view(-1, 10)
        values = {"n": float(len(rows))}
        detected = rows[:, 0] > 0
        values["detected"] = 100 * mean(detected.double())
        for column, name in enumerate(("object", "background", "everything"), start=1):
            values[f"flip_{name}"] = 100 * mean((rows[detected, column] <= 0).double())
            values[f"drop_{name}"] = mean(rows[detected, 0] - rows[detected, column])
        values["flip_either"] = max(values["flip_object"], values["flip_background"])
        by_number = rows[:, 4] > 0
        real_right = 100 * mean((rows[:, 7] <= 0).double())
        values["number_detected"] = 100 * mean(by_number.double())
        values["number_acc"] = (values["number_detected"] + real_right) / 2
        values["number_flip_object"] = 100 * mean((rows[by_number, 5] <= 0).double())
        values["number_flip_background"] = 100 * mean((rows[by_number, 6] <= 0).double())
        values["error_object"], values["error_background"] = mean(rows[:, 8]), mean(rows[:, 9])
        self.log_dict({f"test/{name}": value for name, value in values.items()})
