"""Training of the generator, which is also the decoder of the denoising auto-encoder h -> G -> x -> E -> h.

    L_G = w_img |x - G(h)|^2 + w_h1 |E1(x) - E1(G(h))|^2 + w_h |E(x) - E(G(h))|^2 + w_gan CE(D(G(h), h), real)
    L_D = CE(D(x, h), real) + CE(D(G(h), h), generated)                                                (losses.py)

E is frozen and back-propagated through; D and G train, unless one of them is too far ahead (losses.Pause).

- Noiseless Joint PPGN-h, the main model: h = E(x), and w_h = 0.
- Joint PPGN-h: Gaussian noise on x, h1 and h on the way up, and w_h > 0; G decodes three denoising auto-encoders.
- DGN-AM samples with the same G and without a prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.distributed import shared_normal
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.players import Players, held
from modules.common.precision import at_least_single
from modules.common.schedules import Schedule
from modules.ppgn.codes import Codes
from modules.ppgn.losses import Pause, Weights, adversarial_loss, discriminator_loss
from modules.ppgn.networks import Encoder, encode
from modules.ppgn.pictures import draw_rows
from modules.ppgn.sums import Sums, percent

SHOWN = 16


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the Gaussian noise of Joint PPGN-h, in those of x, h1 and h over training images."""

    x: float = 0.0
    h1: float = 0.0
    h: float = 0.0


@dataclass(frozen=True)
class Pair:
    """Who plays.

    Attributes:
        generator: codes -> images at least as large as E's.
        side: of the images that E and D see, pixels: the middle of G's.
        discriminator: (images, codes) -> logits (B, 2); None trains without L_GAN.
    """

    generator: nn.Module
    side: int
    discriminator: nn.Module | None = None


@dataclass(frozen=True)
class Rules:
    """What is played for.

    Attributes:
        weights: of L_G.
        pause: who rests; None never pauses.
        noise: of Joint PPGN-h; None is noiseless.
    """

    weights: Weights
    pause: Pause | None = None
    noise: Noise | None = None


def crop(x: Tensor, side: int) -> Tensor:
    """The middle (B, C, side, side) of images at least as large."""
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    return x[..., top : top + side, left : left + side]


class GeneratorTraining(Players):
    """G against D, and towards the image and its features.

    Test metrics, of G(E(x)) against x: `image_mse` and `code_mse`, in the mean over entries; `judge_top1`, the share in
    percent that a classifier that nothing was trained with still gives the image's label.

    Args:
        encoder: the stage whose network is E.
        pair: G, D and the side of their images.
        rules: weights of the losses, pauses and noise.
        codes: the stage that knows the spread of x, h1 and h; needed with noise alone.
        judge: a classifier's stage; None leaves `judge_top1` out.
        optimizer: of either player.
        schedule: see StageModule.
    Raises:
        ValueError: an adversarial weight and no discriminator, or noise and nothing to measure it in.
    """

    def __init__(
        self,
        encoder: Any,
        pair: Pair,
        rules: Rules,
        codes: Codes | None = None,
        judge: StageModule | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        adversarial = rules.weights.adversarial
        if (adversarial > 0) != (pair.discriminator is not None):
            raise ValueError(f"adversarial={adversarial}: expected 0 without a discriminator, and more with one")
        if rules.noise is not None and codes is None:
            raise ValueError(f"noise={rules.noise}: expected a stage `codes`, whose spread it is measured in")
        self.encoder = Frozen([encoder.network])
        self.code = int(encoder.network.code)
        self.generator = pair.generator
        self.discriminator = pair.discriminator
        self.side = pair.side
        self.weights, self.pause, self.noise = rules.weights, rules.pause, rules.noise
        self.spread = codes.spread.tolist() if codes is not None else [1.0, 1.0, 1.0]
        self.judge = Frozen([judge]) if judge is not None else None
        self.sums = Sums("image_mse", "code_mse", *(["judge_top1"] if judge is not None else []))
        self._shown: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x  # (B, C, S, S)
        (encoder,) = self.encoder.on(x.device)
        with torch.no_grad():
            h1, h = encode(encoder, x)
            noisy_h = self.corrupt(encoder, x, h1, h)  # (B, code)

        fake = self.generate(noisy_h)  # (B, C, S, S)
        terms = self.reconstruction_terms(encoder, x, h1, h, fake)

        trains_d, trains_g = False, True
        if self.discriminator is not None:
            loss_d = discriminator_loss(self.discriminator(x, h), self.discriminator(fake.detach(), h))
            terms["adversarial"] = self.fool(fake, h)
            trains_d, trains_g = self.who_trains(loss_d, terms["adversarial"])

        loss_g = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
        optimizer_g, *others = self.steppers()
        if trains_g:
            self.minimise(loss_g, optimizer_g)
        if self.discriminator is not None:
            if trains_d:
                self.minimise(loss_d, *others)
            terms |= {"discriminator": loss_d, "d_trains": x.new_tensor(trains_d), "g_trains": x.new_tensor(trains_g)}

        self.track(len(x), loss=loss_g, **terms)
        return loss_g.detach()

    def corrupt(self, encoder: Encoder, x: Tensor, h1: Tensor, h: Tensor) -> Tensor:
        """What G decodes: h itself, or E(x) with noise on x, h1 and h."""
        if self.noise is None:
            return h
        std_x, std_h1, std_h = self.spread
        noisy_h1 = encoder.pooled(x + self.noise.x * std_x * shared_normal(x, *x.shape[1:]))
        noisy_h1 = noisy_h1 + self.noise.h1 * std_h1 * shared_normal(h1, *h1.shape[1:])
        return encoder.upper(noisy_h1) + self.noise.h * std_h * shared_normal(h, *h.shape[1:])

    def reconstruction_terms(
        self, encoder: Encoder, x: Tensor, h1: Tensor, h: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        """L_img, L_h1 and L_h before their weights, those that weigh something."""
        weights = self.weights
        terms = {}
        if weights.image:
            terms["image"] = weights.distance(x, fake)
        if weights.feature or weights.code:
            fake_h1 = encoder.pooled(fake)
            terms["feature"] = weights.distance(h1, fake_h1)
        if weights.code:
            terms["code"] = weights.distance(h, encoder.upper(fake_h1))
        return terms

    def fool(self, fake: Tensor, h: Tensor) -> Tensor:
        """L_GAN; D's gradient passes through, not in."""
        assert self.discriminator is not None
        with held(self.discriminator):
            return adversarial_loss(self.discriminator(fake, h))

    def who_trains(self, loss_d: Tensor, loss_gan: Tensor) -> tuple[bool, bool]:
        return (True, True) if self.pause is None else self.pause.trains(loss_d, loss_gan)

    def generate(self, h: Tensor) -> Tensor:
        """h (B, code) -> images (B, C, side, side)."""
        return crop(at_least_single(self.generator(h)), self.side)

    def forward(self, h: Tensor) -> Tensor:
        return self.generate(h)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, self.code, device=self.device),)

    def players(self) -> list[list[nn.Module]]:
        return [[self.generator], *([[self.discriminator]] if self.discriminator is not None else [])]

    # Evaluation and pictures

    def on_test_epoch_start(self) -> None:
        self._shown = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x = batch.x
        (encoder,) = self.encoder.on(x.device)
        h = encode(encoder, x)[1]
        fake = self.generate(h)

        self.sums.add(
            image_mse=(fake - x).square().flatten(1).mean(1),
            code_mse=(encode(encoder, fake)[1] - h).square().mean(1),
        )
        self.sums.count(len(x))
        if self.judge is not None:
            (judge,) = self.judge.on(x.device)
            self.sums.add(judge_top1=percent(judge(fake).argmax(1) == batch.y))
        if not self._shown:
            self._shown = [x[:SHOWN].cpu(), fake[:SHOWN].cpu()]

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.sums.means().items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images above their reconstructions G(E(x))."""
        if not self._shown:
            return {}
        return {"reconstructions": draw_rows([data.shown(part) for part in self._shown], ["x", "G(E(x))"])}
