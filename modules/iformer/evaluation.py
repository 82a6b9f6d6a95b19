"""What the branches of the mixers give in a test: which frequencies are left in their maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.iformer.networks import IFormer
from modules.iformer.spectra import averaged, high_frequency, radial

Key = TypeVar("Key")
Maps = Mapping[tuple[int, int, str], Tensor]  # (stage, block, branch) -> (B, H, W, C)
SMALLEST = 5  # side of the smallest map whose spectrum is measured: below it, the last radii are a few frequencies
BASES = {"": 0, "_from_1": 1}  # suffix of a metric's name -> radius that the highest is compared with


@contextmanager
def outputs_of(modules: Mapping[Key, nn.Module]) -> Iterator[dict[Key, Tensor]]:
    """Collects under the same keys what the modules give in forward passes inside; the last pass counts."""
    outputs: dict[Key, Tensor] = {}
    handles = []
    for key, module in modules.items():

        def keep(_: nn.Module, __: Any, y: Tensor, key: Key = key) -> None:
            outputs[key] = y

        handles.append(module.register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def branch_outputs(network: IFormer) -> AbstractContextManager[dict[tuple[int, int, str], Tensor]]:
    """Collects what every branch of every mixer gives, by (stage, block, branch), in forward passes inside."""
    return outputs_of(
        {(s, b, name): branch for s, b, mixer in network.mixers() for name, branch in mixer.branches.items()}
    )


def comparable(outputs: Maps, network: IFormer) -> Maps:
    """The branches' maps on the cells of attention in their block, without those under 5x5.

    Where attention is pooled it is constant on its cells; all branches of the block are averaged over the same cells.
    """
    cells = {(s, b): mixer.cell for s, b, mixer in network.mixers()}
    maps = {key: averaged(y.detach().float(), cells[key[:2]]) for key, y in outputs.items()}
    return {key: y for key, y in maps.items() if min(y.shape[1:3]) >= SMALLEST}


class BranchSpectra(nn.Module):
    """High frequencies of each branch's output, means over test images and blocks:

    - `<branch>_high`: log-amplitude at the highest radius of the spectrum minus that at radius 0;
    - `<branch>_high_from_1`: the same minus that at radius 1, for the mean of a map (radius 0) follows its bias too;
    - `..._initial`: both of the network before training, where these maps are given.

    Args:
        branches: names.
        initial: whether there will be maps of the network before training.
    """

    def __init__(self, branches: Sequence[str], initial: bool) -> None:
        super().__init__()
        whens = ("", "_initial") if initial else ("",)
        names = [f"{branch}_high{base}{when}" for branch in branches for base in BASES for when in whens]
        self.means: Any = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})

    def update(self, maps: Maps, when: str = "") -> None:
        """Add the maps of a batch, those of the network before training with when="_initial"."""
        for (_, _, branch), y in maps.items():
            rings = radial(y)
            for suffix, base in BASES.items():
                self.means[f"{branch}_high{suffix}{when}"].update(high_frequency(rings, base))

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; a branch whose maps are all under 5x5 has none."""
        return {name: mean.compute() for name, mean in self.means.items() if mean.update_called}

    def reset(self) -> None:
        for mean in self.means.values():
            mean.reset()
