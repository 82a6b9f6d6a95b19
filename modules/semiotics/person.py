"""A person: an autoencoder that learns some images by heart. What becomes of others in it, and between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import SumMetric

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.semiotics.images import GreyPixels, Randomizer
from modules.semiotics.networks import Autoencoder
from modules.semiotics.perception import Perceived, Perception, communicate, repeat, spectral_radius
from modules.semiotics.pictures import draw_classes, draw_table

NEAR = 1 / 28  # root mean square of pixel differences: a distance of 1 between images of 28x28
SHOWN = (0, 1, 2, 3, 5, 10, 20)  # iterations


def reconstruction_loss(seen: Tensor, x: Tensor) -> Tensor:
    """mean (A(x + noise) - x)^2, over images and pixels."""
    return (seen - x).square().mean()


def rms(difference: Tensor) -> Tensor:
    """Root mean square over the pixels of each image, (B, ...) -> (B,)."""
    return difference.flatten(1).square().mean(1).sqrt()


def nearest(x: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Which of `stored` (N, ...) is nearest to each image, (B,), and the root mean square of their difference, (B,)."""
    index = torch.cdist(x.flatten(1), stored.to(x).flatten(1)).argmin(1)
    return index, rms(x - stored[index])


class Means(nn.Module):
    """Means over the images of a test, exact over several processes.

    Args:
        names: what is averaged.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.sums = {name: SumMetric(nan_strategy="disable") for name in (*names, "n")}
        for name, metric in self.sums.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(name, metric)

    def add(self, **values: Tensor) -> None:
        """A number for each image of a batch, (B,); true and false count as 100 and 0 percent."""
        for name, value in values.items():
            scale = 100.0 if value.dtype == torch.bool else 1.0
            self.sums[name].update(scale * value.float().sum())
        self.sums["n"].update(float(len(value)))

    def finish(self) -> dict[str, Tensor]:
        """The means since the last call, and `n`, how many images were counted."""
        sums = {name: metric.compute() for name, metric in self.sums.items()}
        for metric in self.sums.values():
            metric.reset()
        return {name: value if name == "n" else value / sums["n"] for name, value in sums.items()}


class Person(GreyPixels):
    """An autoencoder A, trained without labels on images that it is to see again.

    `test/` says of the training images how far they move, as root mean squares of pixels: `residual` in one iteration,
    `drift` in all; of some of them the mean spectral `radius` of A's Jacobian and the percentage below 1, `attracting`.
    Of the test images it gets percentages: `converged` to a fixed point; `cycling`; `captured`, ended near a training
    image (NEAR); `attractor_top1` and `nearest_top1`, whose label is that of the training image nearest to where they
    ended and to where they began. `steps` is the mean number of iterations.

    Args:
        network: A.
        noise: standard deviation of what is added to its input in training.
        perception: when an image counts as perceived.
        probed: training images at which the Jacobian is computed.
        optimizer, schedule: see StageModule.
    """

    known: Tensor
    labels: Tensor

    def __init__(
        self,
        network: Autoencoder,
        perception: Perception,
        noise: float = 0.3,
        probed: int = 8,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network, self.perception, self.probed = network, perception, probed
        self.randomizer = Randomizer(noise)
        self.means = Means(("converged", "cycling", "steps", "captured", "attractor_top1", "nearest_top1"))

    def forward(self, x: Tensor) -> Tensor:
        """Images as they are served (B, 1, H, W), seen once, in [0, 1] pixels."""
        return self.network(self.pixels(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = self.pixels(batch.x)
        seen = self.network(self.randomizer.fresh(x))
        loss = reconstruction_loss(seen, x)
        self.track(len(x), loss=loss)
        return loss

    def on_test_start(self) -> None:
        self.known, self.labels = training_images(self, self.trainer.datamodule)  # type: ignore[attr-defined]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x = self.pixels(batch.x)
        perceived = self.perception(self.network, x)
        attractor, distance = nearest(perceived.images, self.known)
        neighbour, _ = nearest(x, self.known)
        self.means.add(
            converged=perceived.period == 1,
            cycling=perceived.period > 1,
            steps=perceived.steps,
            captured=distance < NEAR,
            attractor_top1=self.labels[attractor] == batch.y,
            nearest_top1=self.labels[neighbour] == batch.y,
        )

    def on_test_epoch_end(self) -> None:
        states = repeat(self.network, self.known, self.perception.iterations)  # (T + 1, N, 1, H, W)
        with torch.inference_mode(False):  # the Jacobian needs a graph
            images = self.known[: self.probed].clone()
            radius = torch.stack([spectral_radius(self.network, image) for image in images])
        scores = {
            "residual": rms(states[1] - states[0]).mean(),
            "drift": rms(states[-1] - states[0]).mean(),
            "radius": radius.mean(),
            "attracting": 100 * (radius < 1).float().mean(),
        }
        self.log_dict({f"test/{name}": value for name, value in {**self.means.finish(), **scores}.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images on their way to what they are perceived as, and from which class to which the way leads."""
        images, labels = data.splits["test"]
        known, known_labels = training_images(self, data)
        x = self.stored(images, data)
        perceived = self.perception(self.network, x)
        attractor, _ = nearest(perceived.images, known)

        states = repeat(self.network, x[:6], max(SHOWN))[list(SHOWN)]  # (S, 6, 1, H, W)
        columns = torch.cat([states, perceived.images[None, :6], known[attractor[:6]][None]])
        titles = [*(f"after {t}" for t in SHOWN), "perceived", "nearest\ntraining image"]
        return {
            "perception": draw_table(columns, titles),
            "classes": draw_classes(labels, known_labels[attractor].cpu(), data.spec.classes),
        }


class Communication(GreyPixels):
    """Two persons see a test image by turns. Not trained.

    `test/` gets percentages: exchanges that become `periodic` and those whose period is 1 (`agreed`: each repeats one
    image), exchanges whose two images are nearest to the same training image (`same_image`), and the mean number of
    `exchanges` until then.

    Args:
        persons: two of them, trained on the same images.
        perception: when an exchange has settled.
        internal: iterations of each person in a turn.
    Raises:
        ValueError: there are not two persons.
    """

    known: Tensor

    def __init__(self, persons: Sequence[Person], perception: Perception, internal: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        if len(persons) != 2:
            raise ValueError(f"{len(persons)} persons: expected two")
        self.persons = Frozen(person.network for person in persons)
        self.perception, self.internal = perception, internal
        self.means = Means(("periodic", "agreed", "same_image", "exchanges"))

    def forward(self, x: Tensor) -> Tensor:
        """The second person's answer to the first turn, (B, 1, H, W)."""
        first, second = self.persons.on(x.device)
        said = repeat(first, self.pixels(x), self.internal[0])[-1]
        return repeat(second, said, self.internal[1])[-1]

    def exchange(self, x: Tensor) -> tuple[Tensor, Perceived]:
        first, second = self.persons.on(x.device)
        return communicate(first, second, x.float(), self.internal, self.perception)

    def on_test_start(self) -> None:
        self.known, _ = training_images(self, self.trainer.datamodule)  # type: ignore[attr-defined]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        said, answers = self.exchange(self.pixels(batch.x))
        self.means.add(
            periodic=answers.period > 0,
            agreed=answers.period == 1,
            same_image=nearest(said, self.known)[0] == nearest(answers.images, self.known)[0],
            exchanges=answers.steps,
        )

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.means.finish().items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first turns of an exchange, and where it ends."""
        x = self.stored(data.splits["test"][0][:6], data)
        first, second = self.persons.on(x.device)
        turns = [x]
        for _ in range(3):
            turns.append(repeat(first, turns[-1], self.internal[0])[-1])
            turns.append(repeat(second, turns[-1], self.internal[1])[-1])
        said, answers = self.exchange(x)
        titles = ["image", *(f"{who}, turn {turn}" for turn in (1, 2, 3) for who in ("first", "second"))]
        columns = torch.stack([*turns, said, answers.images])
        return {"exchange": draw_table(columns, [*titles, "first,\nat the end", "second,\nat the end"])}


def training_images(module: GreyPixels, data: Any) -> tuple[Tensor, Tensor]:
    """The images that a datamodule trains on, (N, 1, H, W) in [0, 1], and their labels (N,)."""
    images, labels = data.splits["train"]
    return module.stored(images, data), labels.to(module.device)
