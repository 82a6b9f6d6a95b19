"""Semiotics Networks Representing Perceptual Inference (Kupeev & Nitzany).

arXiv 2310.05212. A person is an autoencoder A = D E: an image x is observed, E(x), and seen, D(E(x)). Perception
repeats this until the image settles, and a classifier with a perceptual layer (CONN, "conscious neural network") is
trained and tested on what the image has become:

    x_0 = x,    x_{t+1} = A(x_t),    Pi(x) = x* with A(x*) = x*, or a member of the cycle that x_t has entered

    baseline     softmax B(x)
    vanilla      softmax B(Pi(x))
    stochastic   1/J sum_j softmax B(Pi(x^(j))),    x^(j) random versions of x
    assembled    1/(T+1) sum_t softmax B(x_t)

A is trained first, without labels, on the images that B is trained on afterwards: L_A = mean (A(x + noise) - x)^2,
see person.py. It has more weights than they have pixels, and the noise makes them attractors (Radhakrishnan, Belkin &
Uhler, arXiv 1909.12362): A's Jacobian has a spectral radius below 1 there. A low error alone does not make them so. A
is then frozen, and no gradient passes B's input: L_B = CE(B(.), y).

No code was released, and of the paper no more than abstract, opening of the supplement and a summary were at hand: the
sizes of A and B, noise, stop rule and random versions are this suite's (see the paper's deviations).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.semiotics.images import GreyPixels, Randomizer
from modules.semiotics.perception import Perception, repeat
from modules.semiotics.person import Person
from modules.semiotics.pictures import draw_votes


def mean_prediction(logits: Tensor) -> Tensor:
    """(M, B, C) -> log of the mean softmax (B, C); logits that stand alone stay as they are."""
    if len(logits) == 1:
        return logits[0]
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class CONN(GreyPixels, ClassificationModule):
    """A classifier behind a perceptual layer. All arms of the comparison are this module with other switches.

    Args:
        network: B, grey pixels (B, 1, H, W) to logits (B, classes).
        classes: their number.
        person: whose A perceives; None: B sees the images themselves.
        perception: when an image counts as perceived; needed with a person.
        assembled: B sees all states x_0 to x_T, T = perception.iterations, instead of the last one.
        randomizer: makes versions, a new one of each image at every training step and its J at test, the same for all
            arms that start alike; None makes none.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a person without perception or the reverse, or assembled without a person.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        person: Person | None = None,
        perception: Perception | None = None,
        assembled: bool = False,
        randomizer: Randomizer | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        if (person is None) != (perception is None):
            raise ValueError("a perceptual layer takes both: needs: {person: <stage>} and perception")
        if assembled and person is None:
            raise ValueError("assembled=true: states come from a person: needs: {person: <stage>}")
        self.person = None if person is None else Frozen([person.network])
        self.perception, self.assembled = perception, assembled
        self.randomizer = randomizer
        self.versions_seed = int(torch.randint(2**62, ()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = self.pixels(batch[0]), batch[1]
        if self.randomizer is not None:
            x = self.randomizer.fresh(x)

        perceived = self.perceive(x)  # (S, B, 1, H, W)
        logits = self.network(perceived.flatten(0, 1))  # (S B, classes)
        y = y.repeat(len(perceived))
        loss = F.cross_entropy(logits, y)

        self.track(len(x), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> log of the mean probability over versions and states, (B, classes)."""
        return mean_prediction(self.votes(self.pixels(x))[1])

    def votes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of each image, J versions in S states, (S J, B, 1, H, W), and B's logits (S J, B, classes)."""
        versions = x[None]
        if self.randomizer is not None:
            versions = self.randomizer.fixed(x, self.versions_seed)  # (J, B, 1, H, W)
        perceived = self.perceive(versions.flatten(0, 1))  # (S, J B, 1, H, W)

        logits = self.network(perceived.flatten(0, 1))  # (S J B, classes)
        return perceived.reshape(-1, *x.shape), logits.view(-1, len(x), self.classes)

    def perceive(self, x: Tensor) -> Tensor:
        """Pi(x), (1, B, 1, H, W), or all states (T + 1, B, 1, H, W); no gradient reaches the person."""
        if self.person is None or self.perception is None:
            return x[None]
        (see,) = self.person.on(x.device)
        with torch.inference_mode():
            image = x.float()  # a person keeps its own precision
            if self.assembled:
                seen = repeat(see, image, self.perception.iterations)
            else:
                seen = self.perception(see, image).images[None]
        return seen.to(x).clone()  # an inference tensor cannot take part in a loss; this copy can

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images, the wrongly classified ones first, with what the classifier sees instead and says to it."""
        if self.person is None:
            return {}
        images, labels = data.splits["test"]
        x = self.stored(images[:200], data)
        seen, logits = self.votes(x)
        right = mean_prediction(logits).argmax(-1).cpu() == labels[:200]
        rows = right.int().argsort(stable=True)[:6]
        votes = logits[:, rows].argmax(-1).cpu()  # (M, 6)
        return {"votes": draw_votes(x[rows].cpu(), labels[rows], seen[:8, rows].cpu(), votes[:8], data.spec.classes)}
