"""Combating Mode Collapse in GANs via Manifold Entropy Estimation, "MaEM-GAN" (Liu et al., AAAI 2023).

arXiv 2208.12055. The discriminator D of MaF-GAN (arXiv 2109.08955) answers with K numbers. It is made an embedding that
keeps neighbours (DLLE) and straight lines (DIsoMap), so that an entropy of its codes says something of the images, and
both players raise that entropy: D on real codes, G on generated ones.

    L_D = L_MaF + L_DLLE(x_r) + L_DLLE(x_f) + L_DIsoMap + L_ent(D(x_r))
    L_G = -mean D(G(n))                                + L_ent(D(G(n)))                once in `critic_steps` steps of D

    L_MaF     = -mean D(x_r) + mean D(x_f)
    L_DLLE    = mean (D(x) - sg[D(aug(x))])^2
    L_DIsoMap = mean (D(a x_r + (1 - a) x_f) - sg[a D(x_r) + (1 - a) D(x_f) + N(0, 0.05^2)])^2,     a ~ N(0, 1)
    L_ent     = -w log(mean_i min_b (1/K) |z_i - b|^2),     b of a buffer of earlier codes (entropy.py)

MaF-GAN, the baseline, is L_MaF and L_DIsoMap. Where paper and released code (HaozheLiu-ST/MEE) differ:
- the released buffer shrinks to one row in 17 steps; the paper's, first in first out, is followed
  (`entropy.estimator=released` is the other).
- the released discriminator has a second linear layer that is evaluated and not used; it is left out.
- samples of one step go through D together: its spectral norms take two power iterations a step instead of five.
- the released code trains on CIFAR-10's test images too; here they stay out.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.distributed import shared_normal
from modules.common.metrics import compute_and_reset
from modules.common.module import OptimizerFactory, StageModule
from modules.common.players import Players, held
from modules.common.precision import at_least_single
from modules.common.schedules import Schedule
from modules.mee.evaluation import CodeSpread
from modules.mee.losses import critic_loss, disomap_loss, dlle_loss, generator_loss, mix, relative_pull
from modules.mee.networks import Embedding, resample
from modules.mee.pictures import draw_samples
from modules.mee.terms import Terms

SHOWN = 512  # generated samples that pictures are made of


class MaEMGAN(Players):
    """The generator and the discriminator against each other. All arms are this module with other terms.

    Training metrics, besides the terms: `entropy_pull` and `entropy_pull_generator`, how the entropy's gradient with
    respect to real and to generated codes compares with that of the other terms; 0 is an entropy that cannot act.
    `entropy_moves`: the same with respect to generated samples, which is what reaches the generator.

    Validation and test metrics: those of `evaluation`, of one generated sample for each sample of the split; `spread`,
    the share of the real codes' variance that comes of the images and not of the resampling, 0 for a discriminator that
    is dead.

    Args:
        generator: noise (B, code) -> samples; its attribute `code` says how many entries.
        embedding: D.
        evaluation: what is measured of generated samples.
        judge: a stage that `evaluation` measures with; None where it needs none.
        terms: what is added to the adversarial term; None adds nothing.
        critic_steps: steps of D for one of G, which reuses the noise of the last.
        optimizer: of either player.
        schedule: see StageModule.
    """

    def __init__(
        self,
        generator: nn.Module,
        embedding: Embedding,
        evaluation: Any,
        judge: StageModule | None = None,
        terms: Terms | None = None,
        critic_steps: int = 3,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        if critic_steps < 1:
            raise ValueError(f"critic_steps={critic_steps}: expected 1 or more")
        self.generator = generator
        self.embedding = embedding
        self.evaluation = evaluation
        terms = terms or Terms()
        self.neighbours = terms.neighbours
        self.mixing = terms.mixing
        self.entropy = terms.entropy
        self.critic_steps = critic_steps
        evaluation.start(judge)
        self.spread = CodeSpread(embedding.outcomes)

        self._pulls: dict[str, Tensor] = {}  # of the entropy, at each player's last step
        self._noise = torch.empty(0)  # of all samples that are measured
        self._measured = 0
        self._shown: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x
        critic_optimizer, generator_optimizer = self.steppers()

        noise = shared_normal(x, self.code)  # (B, code)
        with torch.no_grad():
            fake = self.generate(noise)

        terms = self.critic_terms(self.embedding.pack(x), self.embedding.pack(fake))
        loss = torch.stack([*terms.values()]).sum()
        self.minimise(loss, critic_optimizer)

        if batch_idx % self.critic_steps == 0:
            with held(self.embedding):
                self.minimise(self.generator_loss(noise), generator_optimizer)

        self.track(len(x), loss=loss, gap=-terms["maf"], **terms, **self._pulls)
        return loss.detach()

    def critic_terms(self, x: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """L_D's terms of real and generated samples, or packs of them (B, ...)."""
        mixed = []
        if self.mixing is not None:
            alpha = self.mixing.weigh(shared_normal(x))  # (B,)
            mixed = [mix(alpha, x, fake)]

        real_code, fake_code, *mixed_codes = self.codes(x, fake, *mixed)  # (B, K) each
        terms = {"maf": critic_loss(real_code, fake_code)}

        if self.mixing is not None:
            noise = self.mixing.noise * shared_normal(x, self.embedding.outcomes)
            terms["disomap"] = self.mixing.weight * disomap_loss(mixed_codes[0], real_code, fake_code, alpha, noise)

        if self.neighbours is not None:
            with torch.no_grad():
                near_real, near_fake = self.codes(self.neighbours(x), self.neighbours(fake))
            terms["dlle"] = dlle_loss(real_code, near_real) + dlle_loss(fake_code, near_fake)

        if self.entropy is not None:
            rest = torch.stack([*terms.values()]).sum()
            terms["entropy"] = self.entropy.loss(real_code, self.entropy.real, self.current_epoch)[0]
            self._pulls["entropy_pull"] = relative_pull(terms["entropy"], rest, real_code)
        return terms

    def generator_loss(self, noise: Tensor) -> Tensor:
        """L_G of noise (B, code)."""
        fake = self.embedding.pack(self.generate(noise))
        (code,) = self.codes(fake)
        loss = generator_loss(code)
        if self.entropy is not None:
            entropy = self.entropy.loss(code, self.entropy.fake, self.current_epoch)[0]
            self._pulls["entropy_pull_generator"] = relative_pull(entropy, loss, code)
            self._pulls["entropy_moves"] = relative_pull(entropy, loss, fake)
            loss = loss + entropy
        return loss

    @property
    def code(self) -> int:
        """Entries of the generator's noise."""
        return int(self.generator.code)  # type: ignore[arg-type]

    def generate(self, noise: Tensor) -> Tensor:
        """(B, code) -> samples, not in half precision."""
        return at_least_single(self.generator(noise))

    def codes(self, *samples: Tensor) -> tuple[Tensor, ...]:
        """Codes (B, K) of several batches of samples (B, ...), each with a resampling of its own."""
        mean, log_variance = self.embedding.distribution(torch.cat(samples))
        eps = torch.cat([shared_normal(part, self.embedding.outcomes) for part in samples])
        return resample(mean, log_variance, eps).split([len(part) for part in samples])

    def forward(self, noise: Tensor) -> Tensor:
        return self.generate(noise)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, self.code, device=self.device),)

    def players(self) -> list[list[nn.Module]]:
        return [[self.embedding], [self.generator]]

    # Evaluation and pictures

    def on_validation_epoch_start(self) -> None:
        self._start_measuring("val")

    def on_test_epoch_start(self) -> None:
        self._start_measuring("test")
        self._shown = []

    def _start_measuring(self, split: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.evaluation.prepare(data)
        size = data.spec.sizes[split]
        self._noise = torch.randn(size, self.code)  # the same on every process
        self._measured = 0

    def measure(self, x: Tensor) -> Tensor:
        """Count a batch of real samples and as many generated ones (B, ...), which are returned."""
        count = len(x)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        indices = rank + world * torch.arange(self._measured, self._measured + count)  # where these are in the split
        self._measured += count

        fake = self.generate(self._noise[indices].to(x))
        self.evaluation.update(x, fake, indices.to(self.device))
        self.spread.update(*self.embedding.distribution(self.embedding.pack(x)))
        return fake

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.measure(batch.x)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        fake = self.measure(batch.x)
        if len(self._shown) * len(fake) < SHOWN:
            self._shown.append(fake.cpu())

    def _log_measures(self, split: str) -> None:
        metrics = {**self.evaluation.compute(), "spread": compute_and_reset(self.spread)}
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})

    def on_validation_epoch_end(self) -> None:
        self._log_measures("val")

    def on_test_epoch_end(self) -> None:
        self._log_measures("test")

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated samples of the test."""
        if not self._shown:
            return {}
        return {"generated samples": draw_samples(torch.cat(self._shown)[:SHOWN])}
