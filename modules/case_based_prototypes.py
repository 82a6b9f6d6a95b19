"""Deep Learning for Case-Based Reasoning through Prototypes (Li, Liu, Chen & Rudin, AAAI 2018).

arXiv 1710.04806. An autoencoder f, g and m vectors p_j in its code space; the classifier sees nothing but the squared
distances of a code to the p_j, and g(p_j) is the picture of what it compares with.

    D_ij = ||f(x_i) - p_j||^2,    logits = D W,    L = 20 E + R + R1 + R2
    E    = mean_i CE(softmax(D_i W), y_i)             R    = mean_i ||g(f(x_i)) - x_i||^2, a sum over pixels
    R1   = mean_j min_i D_ij  (a prototype is near some image of the batch)
    R2   = mean_i min_j D_ij  (an image is near some prototype)

W has no bias and is free: no prototype belongs to a class beforehand. Everything is trained together from the first
step, and nothing is moved onto a training image; the picture of a prototype comes from the decoder.

Where paper and released code differ, or ours differs from both:
- the paper speaks of logistic sigmoids throughout, the code has ReLU after every layer, the code's layer included, and
  a sigmoid at the decoder's output alone. The code is followed; `act="sigmoid"` is the paper's.
- TensorFlow's "SAME" pads an even side at the bottom and right only, torch's padding=1 is used at the top and left
  only: the same network, seen by an image turned by 180 degrees.
- under several processes R1's minimum runs over the global batch, as one process would see it.
- pixels are in [0, 1] here as there: what the datamodule normalised is undone first.
- the code computes D from |f|^2 + |p|^2 - 2 f p, which may come out below 0; here differences are squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import SumMetric

from modules.common.classifier import ClassificationModule
from modules.common.distances import squared_distances
from modules.common.distributed import summed, world_size
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
CHUNK = 1000  # training images compared with the prototypes at a time


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
        self.prototypes = nn.Parameter(torch.empty(units, code))

    def forward(self, codes: Tensor) -> Tensor:
        return squared_distances(codes, self.prototypes)


class CaseBasedNetwork(nn.Module):
    """f, g, a layer of m units and W; as published 44,153 parameters.

    Every part draws its initial weights in the same order whatever the switches, so that networks with the same seed
    start alike where they are alike: convolutions N(0, 0.01^2), biases 0, prototypes and W U[0, 1) as released, the
    fully connected layer as torch's nn.Linear.

    Args:
        channels, size: of the square input.
        classes: K.
        widths: channels of the convolutions; the published 32, 32, 32, 10 turn 28x28 into a code of 2x2x10.
        units: m.
        layer: "prototypes", or "dense" for the fully connected layer with the nonlinearity that the paper puts in
            their place.
        act: "relu" (released code) or "sigmoid" (paper).
        decode: with g or without.
        seed: of the initial weights.
    Raises:
        ValueError: a switch has no such value.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        widths: Sequence[int],
        units: int,
        act: str,
        seed: int,
        layer: str = "prototypes",
        decode: bool = True,
    ) -> None:
        super().__init__()
        for name, value, valid in (("layer", layer, ("prototypes", "dense")), ("act", act, tuple(ACTIVATIONS))):
            if value not in valid:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        sides = [size]
        for _ in widths:
            sides.append(-(-sides[-1] // 2))
        nonlinearity, code = ACTIVATIONS[act], widths[-1] * sides[-1] ** 2
        source = torch.Generator().manual_seed(seed)
        self.encoder = _initialised(Encoder(channels, widths, nonlinearity), source)
        self.weight = nn.Parameter(torch.rand(units, classes, generator=source))  # W
        decoder = _initialised(Decoder(channels, widths, sides, nonlinearity), source)
        self.decoder = decoder if decode else None
        self.units: nn.Module
        if layer == "prototypes":
            self.units = PrototypeLayer(units, code)
            nn.init.uniform_(self.units.prototypes, generator=source)
        else:
            dense = nn.Linear(code, units)
            for parameter in dense.parameters():
                nn.init.uniform_(parameter, -(code**-0.5), code**-0.5, generator=source)
            self.units = nn.Sequential(dense, nonlinearity())
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

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) as the datamodule serves them -> logits (n, K)."""
        return self.classify(self.encoder(self.pixels(x)))[1]


def _initialised(part: nn.Module, source: torch.Generator) -> nn.Module:
    for layer in part:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.01, generator=source)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return part


def reconstruction_error(decoded: Tensor, x: Tensor) -> Tensor:
    """R: squared differences, summed over the pixels of an image and averaged over the batch."""
    return (decoded - x).square().flatten(1).sum(1).mean()


def prototype_error(distances: Tensor) -> Tensor:
    """R1 of D (n, m): the mean over prototypes of the distance to the nearest code of the batch.

    Of the global batch under several processes. Each then has the same value, whose gradient reaches the process with
    the nearest code once for each of them: what the average over processes makes right.
    """
    nearest = distances.amin(0)  # (m,)
    if world_size() > 1:
        own = F.one_hot(torch.tensor(dist.get_rank(), device=nearest.device), world_size())
        nearest = summed(own[:, None] * nearest).amin(0)  # (processes, m) -> (m,)
    return nearest.mean()


def code_error(distances: Tensor) -> Tensor:
    """R2 of D (n, m): the mean over the batch of the distance to the nearest prototype."""
    return distances.amin(1).mean()


def nearest_of(queries: Tensor, items: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each of (m, d): the smallest squared distance to the rows of (N, d), and which row that is; (m,) each.

    The distance to a row is divided by the row's `unit` (N,) where units are given.
    """
    best = torch.full((len(queries),), torch.inf, device=queries.device)
    which = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    units = torch.ones(len(items)) if unit is None else unit
    for start, (part, scale) in enumerate(zip(items.split(CHUNK), units.split(CHUNK), strict=True)):
        value, index = (squared_distances(queries, part.to(queries)) / scale.to(queries)).min(1)
        which = torch.where(value < best, index + start * CHUNK, which)
        best = torch.minimum(best, value)
    return best, which


def contrast(images: Tensor) -> Tensor:
    """(N, d) -> (N,): squared differences from an image's own mean, summed over its pixels."""
    return (images - images.mean(1, keepdim=True)).square().sum(1)


class CaseBased(ClassificationModule):
    """Training and test of the published model and of its comparisons.

    Args:
        network: what is trained.
        classes: K.
        lambda_class, lambda_ae, lambda_1, lambda_2: weights of E, R, R1 and R2; the published ones by default. The
            last three have no effect where the network lacks a decoder or prototypes.
        judge: a classifier trained on its own on the same data, asked what the decoded prototypes show.
        optimizer, schedule: see StageModule.
    """

    network: CaseBasedNetwork

    def __init__(
        self,
        network: CaseBasedNetwork,
        classes: int,
        lambda_class: float = 20.0,
        lambda_ae: float = 1.0,
        lambda_1: float = 1.0,
        lambda_2: float = 1.0,
        judge: ClassificationModule | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.lambda_class, self.lambda_ae, self.lambda_1, self.lambda_2 = lambda_class, lambda_ae, lambda_1, lambda_2
        self.judge = Frozen([] if judge is None else [judge.network])
        self.squared_errors = SumMetric(nan_strategy="disable")

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        for buffer, values in ((self.network.mean, spec.mean), (self.network.std, spec.std)):
            buffer.copy_(torch.tensor(values).view(-1, 1, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        net, x, y = self.network, self.network.pixels(batch[0]), batch[1]
        codes = net.encoder(x)  # (n, d)
        outputs, logits = net.classify(codes)  # D (n, m), (n, K)
        parts = {"e": F.cross_entropy(logits, y)}
        loss = self.lambda_class * parts["e"]
        if net.decoder is not None:
            parts["r"] = reconstruction_error(net.decoder(codes), x)
            loss = loss + self.lambda_ae * parts["r"]
        if net.prototypes is not None:
            parts["r1"], parts["r2"] = prototype_error(outputs), code_error(outputs)
            loss = loss + self.lambda_1 * parts["r1"] + self.lambda_2 * parts["r2"]
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean(), **parts)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        net, x = self.network, self.network.pixels(batch[0])
        codes = net.encoder(x)
        self.test_metrics.update(net.classify(codes)[1], batch[1])
        if net.decoder is not None:
            self.squared_errors.update(len(x) * reconstruction_error(net.decoder(codes), x))

    def on_test_epoch_end(self) -> None:
        """Beside the classification metrics, `test/` gets:

        - reconstruction: R over the test set.
        - train_top1: accuracy on the training images, not augmented, percent.
        - latent_realism: mean_j min_i ||p_j - f(x_i)||^2 over the training images, in units of their codes' total
          variance. Better when lower.
        - pixel_realism: mean_j min_i ||g(p_j) - x_i||^2 / contrast(x_i), 0 for a copy of a training image and 1 or more
          for a picture without any shape. Better when lower. Without the unit a black picture would pass for more real
          than most real images: it is close to the darkest of them.
        - classes_covered: how many labels the training images have whose codes are nearest to the prototypes.
        - agreement: in how many percent of the prototypes the judge gives g(p_j) the class of their most negative
          weight.
        """
        if self.network.decoder is not None:
            self.log("test/reconstruction", self.squared_errors.compute() / self.test_metrics.parts["n"].compute())
            self.squared_errors.reset()
        super().on_test_epoch_end()
        images, labels = self.trainer.datamodule.splits["train"]  # type: ignore[attr-defined]
        measured = self.compared(self.trainer.datamodule.normalised, images, labels)  # type: ignore[attr-defined]
        self.log_dict({f"test/{name}": value for name, value in measured.items()})

    @torch.inference_mode()
    def compared(self, normalised: Any, images: Tensor, labels: Tensor) -> dict[str, float]:
        """What is measured against the whole training set, the same on every process.

        Args:
            normalised: from stored images to what the network sees.
            images: (N, C, H, W), as stored.
            labels: (N,)
        """
        net, labels = self.network, labels.to(self.device)
        parts = [net.pixels(normalised(part.cpu()).to(self.device)) for part in images.split(CHUNK)]
        codes = torch.cat([net.encoder(part) for part in parts])  # (N, d)
        right = sum(
            (net.classify(part)[1].argmax(-1) == y).sum()
            for part, y in zip(codes.split(CHUNK), labels.split(CHUNK), strict=True)
        )
        found = {"train_top1": 100 * float(right) / len(labels)}
        if net.prototypes is None:
            return found
        distance, nearest = nearest_of(net.prototypes, codes)
        found["latent_realism"] = float(distance.mean() / codes.var(0, correction=0).sum())
        found["classes_covered"] = float(len(labels[nearest].unique()))
        if net.decoder is not None:
            decoded = net.decoder(net.prototypes)
            pixels = torch.cat(parts).flatten(1)
            found["pixel_realism"] = float(nearest_of(decoded.flatten(1), pixels, contrast(pixels))[0].mean())
            if self.judge:
                seen = self.judge.logits((decoded - net.mean) / net.std)[0].argmax(-1)  # (m,)
                found["agreement"] = 100 * float((seen == self.spoken_for()).float().mean())
        return found

    def spoken_for(self) -> Tensor:
        """(m,) The class that closeness to each prototype speaks for: that of its most negative weight."""
        return self.network.weight.argmin(1)

    @torch.inference_mode()
    def pictures(self, data: Any) -> dict[str, Figure]:
        """The decoded prototypes, one prediction explained by them, and W."""
        net = self.network
        if net.prototypes is None or net.decoder is None:
            return {}
        names = data.spec.classes
        decoded = net.decoder(net.prototypes).cpu()
        classes = [names[c] for c in self.spoken_for().tolist()]
        columns = -(-len(decoded) // 2)
        gallery = Figure(figsize=(9, 3), layout="constrained")
        for place, axis in enumerate(gallery.subplots(2, columns, squeeze=False).flat):
            axis.axis("off")
            if place < len(decoded):
                _show(axis, decoded[place], f"{place}: {classes[place]}")

        images, labels = data.splits["test"]
        x = net.pixels(data.normalised(images[:1].cpu()).to(self.device))
        codes = net.encoder(x)
        distances, logits = (value[0].cpu() for value in net.classify(codes))
        order = distances.argsort()[:5].tolist()
        case = Figure(figsize=(9, 2), layout="constrained")
        axes = case.subplots(1, 2 + len(order))
        _show(axes[0], x[0].cpu(), f"labelled {names[int(labels[0])]}\nseen as {names[int(logits.argmax())]}")
        _show(axes[1], net.decoder(codes)[0].cpu(), "its reconstruction\n")
        for axis, place in zip(axes[2:], order, strict=True):
            _show(axis, decoded[place], f"{place}: {classes[place]}\ndistance {float(distances[place]):.2f}")

        weights = net.weight.T.cpu()  # (K, m)
        bound = float(weights.abs().max())
        heat = Figure(figsize=(9, 3.4), layout="constrained")
        axis = heat.subplots()
        drawn = axis.imshow(weights, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        axis.plot(range(len(decoded)), self.spoken_for().cpu(), "k.")
        axis.set(xlabel="prototype", xticks=range(len(decoded)), yticks=range(len(names)))
        axis.set_yticklabels(names, fontsize=7)
        heat.colorbar(drawn, label="W (dot: most negative)")
        return {"decoded prototypes": gallery, "one prediction": case, "weights": heat}


def _show(axis: Any, image: Tensor, title: str) -> None:
    axis.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=8)
    axis.axis("off")
