"""The autoencoder, the layer of prototypes and the classifier on their distances (arXiv 1710.04806)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.common.distances import squared_distances

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
LAYERS = ("prototypes", "dense")


class Encoder(nn.Sequential):
    """f: 3x3 convolutions of stride 2, each with a nonlinearity. (n, C, H, W) -> codes (n, d)."""

    def __init__(self, channels: int, widths: Sequence[int], act: type[nn.Module]) -> None:
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), act()]
        super().__init__(*layers, nn.Flatten())


class Decoder(nn.Sequential):
    """g: the encoder's mirror image with weights of its own, pixels in (0, 1). (n, d) -> (n, C, H, W).

    Args:
        sides: of the image and of the map after each convolution, e.g. 28, 14, 7, 4, 2.
    """

    def __init__(self, channels: int, widths: Sequence[int], sides: Sequence[int], act: type[nn.Module]) -> None:
        layers: list[nn.Module] = [nn.Unflatten(1, (widths[-1], sides[-1], sides[-1]))]
        outputs = [channels, *widths[:-1]]
        for number in reversed(range(len(widths))):
            odd = sides[number] - (2 * sides[number + 1] - 1)  # 0 or 1: which of the two sides that halve alike
            convolution = nn.ConvTranspose2d(widths[number], outputs[number], 3, 2, padding=1, output_padding=odd)
            layers += [convolution, act() if number else nn.Sigmoid()]
        super().__init__(*layers)


class PrototypeLayer(nn.Module):
    """m prototypes p_j in code space. Codes (n, d) -> squared distances D (n, m)."""

    def __init__(self, units: int, code: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.rand(units, code))

    def forward(self, codes: Tensor) -> Tensor:
        return squared_distances(codes, self.prototypes)


@dataclass(frozen=True)
class Convolutions:
    """What f and g are made of.

    Attributes:
        widths: channels; the published 32, 32, 32, 10 turn 28x28 into a code of 2x2x10.
        act: "relu" (released code) or "sigmoid" (paper); a fully connected layer of units has it too.
        decode: with g or without.
        initial_std: of their weights; None: torch's, for weights and biases.
    Raises:
        ValueError: no such nonlinearity.
    """

    widths: Sequence[int]
    act: str
    decode: bool = True
    initial_std: float | None = 0.01

    def __post_init__(self) -> None:
        if self.act not in ACTIVATIONS:
            raise ValueError(f"act={self.act!r}: expected one of {', '.join(ACTIVATIONS)}")

    @property
    def nonlinearity(self) -> type[nn.Module]:
        return ACTIVATIONS[self.act]

    def initialise(self, stack: nn.Sequential) -> nn.Sequential:
        """The same stack with its weights drawn anew and biases of 0, if there is an initial_std."""
        for layer in stack:
            if self.initial_std is not None and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=self.initial_std)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        return stack


class CaseBasedNetwork(nn.Module):
    """f, g, a layer of m units and W; as published 44,153 parameters.

    Initial weights: convolutions N(0, 0.01^2), biases 0, prototypes and W U[0, 1) as released, the fully connected
    layer as torch's nn.Linear. Convolutions of 0.01 leave it nearly without a signal, with some seeds for good. What
    all arms have is built first, a decoder that is not used included, so that networks built from the same random state
    start alike, but for the convolutions' initial_std.

    Args:
        channels, size: of the square input.
        classes: K.
        convolutions: of f and g.
        units: m.
        layer: "prototypes", or "dense" for the fully connected layer with the nonlinearity that the paper puts in
            their place.
    Raises:
        ValueError: no such layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        convolutions: Convolutions,
        units: int,
        layer: str = "prototypes",
    ) -> None:
        super().__init__()
        if layer not in LAYERS:
            raise ValueError(f"layer={layer!r}: expected one of {', '.join(LAYERS)}")
        widths, nonlinearity = convolutions.widths, convolutions.nonlinearity
        sides = [size]
        for _ in widths:
            sides.append(-(-sides[-1] // 2))
        code = widths[-1] * sides[-1] ** 2

        self.encoder = convolutions.initialise(Encoder(channels, widths, nonlinearity))
        self.weight = nn.Parameter(torch.rand(units, classes))  # W
        decoder = convolutions.initialise(Decoder(channels, widths, sides, nonlinearity))
        self.decoder = decoder if convolutions.decode else None
        self.units: nn.Module
        if layer == "prototypes":
            self.units = PrototypeLayer(units, code)
        else:
            self.units = nn.Sequential(nn.Linear(code, units), nonlinearity())

        self.register_buffer("mean", torch.zeros(channels, 1, 1))  # of the datamodule, see CaseBased.setup
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @property
    def prototypes(self) -> Tensor | None:
        """(m, d), or None with a fully connected layer."""
        return self.units.prototypes if isinstance(self.units, PrototypeLayer) else None

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images back in [0, 1]."""
        return x * self.std + self.mean

    def classify(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (n, d) -> the units' outputs (n, m), which are D for prototypes, and logits (n, K).

        In fp32 whatever the precision of the rest: logits are differences of large sums of distances.
        """
        with torch.autocast(codes.device.type, enabled=False):
            outputs = self.units(codes.float())
            return outputs, outputs @ self.weight

    def class_of_each_prototype(self) -> Tensor:
        """(m,) The class that closeness to each prototype speaks for: that of its most negative weight."""
        return self.weight.argmin(1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) as the datamodule serves them -> logits (n, K)."""
        _, logits = self.classify(self.encoder(self.pixels(x)))
        return logits
