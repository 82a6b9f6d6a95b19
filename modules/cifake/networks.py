"""The 36 topologies: 12 feature extractors, then 24 dense heads on the best of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

FILTERS = (16, 32, 64, 128)
UNITS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DEPTHS = (1, 2, 3)  # of either part
PADDINGS = ("same", "valid")


@dataclass(frozen=True)
class Topology:
    """What the paper varies.

    Args:
        filters: of every convolution.
        convolutions: layers, each with ReLU and 2x2 max pooling.
        units: of every dense layer; not used without one.
        dense: layers between the flattened maps and the output; 0 reads them by the output alone.
    Raises:
        ValueError: less than a layer, or layers without units.
    """

    filters: int
    convolutions: int
    units: int = 0
    dense: int = 0

    def __post_init__(self) -> None:
        if min(self.filters, self.convolutions) < 1 or self.dense < 0 or bool(self.units > 0) != bool(self.dense > 0):
            raise ValueError(f"{self}: expected filters and convolutions from 1, and units exactly with dense layers")

    def __str__(self) -> str:
        head = f" + {self.dense} x {self.units}" if self.dense else ""
        return f"{self.convolutions} x {self.filters}{head}"


def extractors() -> list[Topology]:
    """The first 12: no dense layer."""
    return [Topology(filters, convolutions) for filters in FILTERS for convolutions in DEPTHS]


def heads(extractor: Topology) -> list[Topology]:
    """The other 24, on one extractor."""
    return [replace(extractor, units=units, dense=dense) for units in UNITS for dense in DEPTHS]


def grid(best: Topology) -> list[Topology]:
    """All 36, with the dense heads on the extractor that was chosen."""
    return [*extractors(), *heads(best)]


def sides(side: int, convolutions: int, padding: str) -> list[int]:
    """Side of the maps after each layer.

    Raises:
        ValueError: another padding, or maps that vanish.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}: expected one of {', '.join(PADDINGS)}")
    made = []
    for _ in range(convolutions):
        side = (side if padding == "same" else side - 2) // 2
        if side < 1:
            raise ValueError(f"{convolutions} layers with padding={padding!r}: nothing is left of the maps")
        made.append(side)
    return made


class CNN(nn.Module):
    """Images (B, 3, S, S) to one logit each, (B, 1), the log odds of "generated".

    The paper's output is sigmoid(logit); its cross-entropy is computed from the logit.

    Args:
        topology: see Topology.
        padding: "same" or "valid", of the 3x3 convolutions of stride 1.
        side: S.
    """

    def __init__(self, topology: Topology, padding: str = "same", side: int = 32) -> None:
        super().__init__()
        last = sides(side, topology.convolutions, padding)[-1]
        inputs = 3
        layers: list[nn.Module] = []
        for _ in range(topology.convolutions):
            if layers:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(inputs, topology.filters, 3, padding=int(padding == "same")), nn.ReLU()]
            inputs = topology.filters
        self.features = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(2)

        width = topology.filters * last**2
        dense: list[nn.Module] = []
        for _ in range(topology.dense):
            dense += [nn.Linear(width, topology.units), nn.ReLU()]
            width = topology.units
        self.head = nn.Sequential(*dense, nn.Linear(width, 1))
        self.apply(initialise)

    def maps(self, x: Tensor) -> Tensor:
        """The last convolution's maps after ReLU and before pooling, which Grad-CAM weighs: (B, filters, s, s)."""
        return self.features(x)

    def read(self, maps: Tensor) -> Tensor:
        """The rest of the network: (B, filters, s, s) -> (B, 1)."""
        return self.head(self.pool(maps).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.maps(x))


def initialise(layer: nn.Module) -> None:
    """Keras' defaults, which the paper was trained with: Glorot's uniform weights, no bias."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def best_of(candidates: Iterable[tuple[Topology, float]]) -> Topology:
    """The topology with the highest score, the first of several.

    Raises:
        ValueError: no candidate.
    """
    listed = list(candidates)
    if not listed:
        raise ValueError("candidates: expected one stage or more to choose from")
    return max(listed, key=lambda pair: pair[1])[0]
