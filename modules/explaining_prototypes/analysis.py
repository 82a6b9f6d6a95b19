"""The stage that explains a trained ProtoPNet's prototypes; nothing is trained and the last layer plays no part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.common.protopnet import ProtoPNet, Push
from modules.explaining_prototypes.pictures import draw_explanations, draw_groups
from modules.explaining_prototypes.scores import (
    GlobalScores,
    correlation,
    local_scores,
    look_alikes,
    normalise,
    permuted_correlation,
    permuted_share,
    share_apart,
    share_of_planted,
)

TRAIN, TEST = 0, 1


class Explain(StageModule):
    """Scores of each characteristic for each prototype, over the training images and over the test images.

    Test metrics, each in the mean over characteristics or groups:

    - agreement: Pearson's r over prototypes of the scores on training and on test images; agreement_permuted: the same
      with prototypes permuted within their group (by what they show where that is known, else by their class).
    - agreement_unweighted: of the unweighted means; relocated_gap: how much smaller scores are if the prototype is
      looked for anew in the modified image, as a share of their size.
    - <characteristic>: mean score on test images.

    Where the data knows which characteristic the class decides in a patch (`planted`), also

    - planted_first: percent of prototypes whose largest normalised score, on test images, is the planted one's, in the
      mean over what is planted; <characteristic>_first of these alone; planted_first_raw without normalising;
      planted_first_permuted and planted_first_raw_permuted with prototypes permuted: what comes of how often each
      characteristic is on top.
    - apart: percent of pairs that look alike and show different things whose largest normalised scores differ.
    - planted_prototypes: how many prototypes show something.

    Args:
        start: the pushed network.
        modifications: M, as many as the data's.
    """

    def __init__(self, start: Push, modifications: int = 5) -> None:
        super().__init__()
        self.frozen = Frozen([start.network])
        self.scores = GlobalScores(2, modifications, len(start.network.prototypes))
        self.result: dict[str, Tensor] = {}

    def network(self) -> ProtoPNet:
        (network,) = self.frozen.on(self.device)
        return network

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> similarity maps (B, P, H, W)."""
        net = self.network()
        return net.prototypes(net.features(x))

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images with their modified versions (B, 1 + M, 3, S, S) -> see local_scores."""
        original = self(x[:, 0])
        modified = torch.stack([self(version) for version in x[:, 1:].unbind(1)])  # (M, B, P, H, W)
        return local_scores(original, modified)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.scores.update(*self.explain(batch.x), batch.in_test)

    def on_test_epoch_end(self) -> None:
        self.result = {name: value.cpu() for name, value in self.scores.compute().items()}
        self.scores.reset()
        self.log_dict({f"test/{name}": value for name, value in self.evaluate(self.result).items()})

    def evaluate(self, result: dict[str, Tensor]) -> dict[str, float]:
        """The metrics above, from global scores (2, M, P)."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        layer = self.network().prototypes
        planted, pixels = self.patches(data)
        groups = planted if bool((planted >= 0).any()) else layer.owner.cpu()
        scores = result["global"].nan_to_num()  # a dry run sees no training images, or no test images
        train, test = scores[TRAIN], scores[TEST]

        values = {
            "n": float(result["images"].sum()),
            "agreement": float(correlation(train, test).mean()),
            "agreement_permuted": float(permuted_correlation(train, test, groups).mean()),
            "agreement_unweighted": float(correlation(*result["unweighted"].nan_to_num()).mean()),
            "relocated_gap": float((test - result["relocated"][TEST].nan_to_num()).mean() / test.abs().mean()),
        }
        values |= {name: float(test[m].mean()) for m, name in enumerate(data.names)}
        if pixels is None:
            return values

        shares = share_of_planted(normalise(test), planted)
        raw = share_of_planted(test, planted)
        values |= {f"{data.names[m]}_first": share for m, share in shares.items()}
        values["planted_first"] = float(np.mean([*shares.values()])) if shares else 0.0
        values["planted_first_permuted"] = permuted_share(normalise(test), planted)
        values["planted_first_raw"] = float(np.mean([*raw.values()])) if raw else 0.0
        values["planted_first_raw_permuted"] = permuted_share(test, planted)
        values["apart"] = share_apart(normalise(test), look_alikes(pixels, planted)) if len(shares) > 1 else 0.0
        values["planted_prototypes"] = float((planted >= 0).sum())
        return values

    def patches(self, data: Any) -> tuple[Tensor, Tensor | None]:
        """Which characteristic each prototype's class is about (P,), -1 if not known; and the patches' pixels."""
        layer = self.network().prototypes
        row, place, owner = layer.row.cpu(), layer.place.cpu(), layer.owner.cpu()
        if not hasattr(data, "planted") or bool((row < 0).any()):
            return torch.full_like(row, -1), None
        with torch.inference_mode():
            height, width = self(torch.zeros(1, *data.spec.shape, device=self.device)).shape[-2:]
        return data.planted()[owner], data.patches(row, place, (height, width))

    def artifacts(self) -> dict[str, np.ndarray]:
        return {name: self.result[name].float().numpy() for name in ("global", "unweighted", "relocated")}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Prototypes beside their scores, and the scores of all by what they show."""
        planted, pixels = self.patches(data)
        scores = normalise(self.result["global"][TEST].nan_to_num())
        if pixels is None:
            return {}
        names = [*data.names]
        return {
            "scores by what a prototype shows": draw_groups(scores, planted, names),
            "explained prototypes": draw_explanations(pixels, scores, planted, names),
        }
