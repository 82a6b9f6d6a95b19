"""How robust a shallow network is: what it certifies, and what attacks leave of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.common.attacks import l2_pgd
from modules.robust_pbn.networks import PixelNetwork

INSIDE = 0.999  # of a certified radius: what rounding may cost stays outside


@dataclass(frozen=True)
class Robustness:
    """What is measured of every test image, by name, for each length e of `lengths`:

    - robust_acc@e: right, and no attack of this L2 length within [0, 1] changes that.
    - certified_acc@e: right with a certified radius of e or more.
    - autoattack_acc@e: as robust_acc under the standard AutoAttack, where `autoattack` asks for it.
    - broken_certificates: an attack within the image's own certified radius succeeds. Must be 0.

    Args:
        lengths: of the attacks.
        steps, restarts: of the PGD attack, which raises the best wrong class's lead.
        autoattack: run AutoAttack too, of the package pyautoattack.
    Raises:
        ValueError: AutoAttack is asked for and not installed.
    """

    lengths: Sequence[float] = (0.5, 1.0, 1.58)
    steps: int = 40
    restarts: int = 1
    autoattack: bool = False

    def __post_init__(self) -> None:
        if self.autoattack and importlib.util.find_spec("pyautoattack") is None:
            raise ValueError("autoattack=true needs the package pyautoattack: pip install 'reprise-papers[attacks]'")

    def names(self, certified: bool) -> list[str]:
        """Of the metrics, for a network with or without certificates."""
        kinds = ["robust_acc", *(["certified_acc"] if certified else []), *(["autoattack_acc"] * self.autoattack)]
        return [f"{kind}@{e}" for e in self.lengths for kind in kinds] + ["broken_certificates"] * certified

    @property
    def first_name(self) -> str:
        """Of what `measure_first` gives."""
        return f"robust_acc@{self.lengths[0]}"

    def measure_first(self, network: PixelNetwork, pixels: Tensor, y: Tensor) -> dict[str, Tensor]:
        """robust_acc of the first length alone, (B,) in {0, 1}: what is chosen by on validation images."""
        with torch.inference_mode(False):
            pixels, y = pixels.clone(), y.clone()
            _, best = self._attack(network, pixels, y, self.lengths[0])
            return {self.first_name: best < 0}

    def measure(self, network: PixelNetwork, pixels: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Every name's (B,) in {0, 1}. Pixels (B, D) in [0, 1]."""
        with torch.inference_mode(False):
            pixels, y = pixels.clone(), y.clone()
            values: dict[str, Tensor] = {}
            for e in self.lengths:
                _, best = self._attack(network, pixels, y, e)
                values[f"robust_acc@{e}"] = best < 0
                if self.autoattack:
                    values[f"autoattack_acc@{e}"] = self.survivors(network, pixels, y, e)
            if network.certified:
                radius = network.certify(pixels, y)
                for e in self.lengths:
                    values[f"certified_acc@{e}"] = radius >= e
                _, best = self._attack(network, pixels, y, INSIDE * radius)
                values["broken_certificates"] = (radius > 0) & (best > 0)
            return values

    def _attack(
        self, network: PixelNetwork, pixels: Tensor, y: Tensor, length: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """PGD of one length, or one for each image, that raises the lead of the best wrong class over the right one."""

        def lead(x: Tensor) -> Tensor:
            scores = network.read(x).class_scores()
            own = scores.gather(1, y[:, None]).squeeze(1)
            return scores.scatter(1, y[:, None], -torch.inf).amax(1) - own

        return l2_pgd(lead, pixels, length, self.steps, restarts=self.restarts)

    def survivors(self, network: PixelNetwork, pixels: Tensor, y: Tensor, length: float) -> Tensor:
        """(B,) bool: right after the standard AutoAttack, which takes square images."""
        from pyautoattack import AutoAttack

        side = round(pixels.shape[1] ** 0.5)
        images = pixels.view(len(pixels), 1, side, side)

        def classify(x: Tensor) -> Tensor:
            return network.read(x.flatten(1)).class_scores()

        attack = AutoAttack(classify, norm="L2", eps=length, seed=0, device=pixels.device)
        with torch.random.fork_rng():  # it seeds the global generators
            attacked, _ = attack.run_standard_evaluation(images, y, batch_size=len(images))
        with torch.no_grad():
            return classify(attacked).argmax(1) == y
