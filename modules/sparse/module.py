"""SPARSE: few-shot semi-supervised learning by translating images into classes (Manni et al. 2026).

arXiv 2508.06429. A generator G (an attention U-Net with a class tail), a critic D with a class head, a classifier C.

Supervised, on labelled batches (losses.py), for the class outputs of G, D and C alike:

    L_sup = L_proto + alpha L_mut + beta L_ent + gamma L_mix

Unsupervised, on all unlabelled images u after every mu-th pass of the labelled ones: D and C give pseudo-labels y'
(pseudo_labels.py) and the images they are surest of are kept. With z uniform classes and fake = G(u, z):

    L_D = -E[D(u)] + E[D(fake)] + lambda_gp E[(|grad D(u')| - 1)^2] + lambda_cls L_cls(D(u), y')
    L_G = -E[D(fake)] + L_cls(D(fake), z) + L_cls(G(fake), z) + lambda_rec |G(fake, y') - u|_1
    L_C = L_cls(C(G(u, z)), z),     G's gradient cut

SPARSE is softmax(C); SPARSE_ens the mean of softmax(C) and softmax(D).

What the released code does otherwise, all of which the rules can be set to:
- its mutual loss gets probabilities without a gradient, its votes have no history, its selection keeps all images, its
  votes are divided by 2, its class losses are sums of binary ones, and D and C have one more of them when supervised;
- its pseudo-labels are drawn in training mode; here in evaluation mode.
Here D and G see the same fake of a step; the one that C learns from is made anew with the new G, of the same z. The
code makes one more for G, of the same weights and z: the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.classifier import Classifier
from modules.common.distributed import gather, place_in_batch, shared_draw, world_size
from modules.common.frozen import Frozen
from modules.common.inference import inference
from modules.common.module import OptimizerFactory
from modules.common.players import Players, held
from modules.common.precision import at_least_single
from modules.common.schedules import Schedule
from modules.sparse.adversarial import (
    between,
    critic_loss,
    generator_loss,
    gradient_penalty,
    shared_mean,
)
from modules.sparse.evaluation import Accuracies, Best, Translation, asked_classes
from modules.sparse.losses import CLASS_LOSSES, Supervision, class_loss, supervised_terms
from modules.sparse.networks import Networks
from modules.sparse.pictures import draw_translations
from modules.sparse.pseudo_labels import History, Voting, above_quantile, vote

MEMBERS = ("", "ens", "critic", "tail")
SHOWN = 8  # test images whose translations are drawn
NOISES = 61  # different noises of a test; a prime, so that classes and noises do not go together


@dataclass(frozen=True)
class Translating:
    """The unsupervised phase; the defaults are the paper's.

    Args:
        rec: lambda_rec, of the way back to u.
        cls: lambda_cls, of D's class head on pseudo-labelled images.
        gp: lambda_gp.
        from_noise: G gets uniform noise in u's place, so that it generates; there is no way back then.
    """

    rec: float = 10.0
    cls: float = 1.0
    gp: float = 10.0
    from_noise: bool = False


@dataclass(frozen=True)
class Rules:
    """What the three networks learn by; the defaults are the paper's.

    Args:
        supervision: on labelled images.
        voting: how the others get pseudo-labels.
        translating: on these.
        class_loss: "softmax" (paper) or "binary" (code).
    Raises:
        ValueError: no such class loss.
    """

    supervision: Supervision = field(default_factory=Supervision)
    voting: Voting = field(default_factory=Voting)
    translating: Translating = field(default_factory=Translating)
    class_loss: str = "softmax"

    def __post_init__(self) -> None:
        if self.class_loss not in CLASS_LOSSES:
            raise ValueError(f"class_loss={self.class_loss!r}: expected one of {', '.join(CLASS_LOSSES)}")


@dataclass(frozen=True)
class Kept:
    """The pseudo-labelled images of a batch: this process's part of `count` kept ones.

    u (b, C, H, W); labels, asked, truth (b,): y', z, and the true class, which is only looked at.
    """

    u: Tensor
    labels: Tensor
    asked: Tensor
    truth: Tensor
    count: int


class Sparse(Players):
    """SPARSE; without unlabelled batches, its supervised part alone.

    Labelled batches are those whose labels are not -1. Test metrics: `top1`, `balanced` and `f1` of C, with `_ens` of
    the mean of C and D, with `_critic` of D, with `_tail` of G; with a judge those of Translation.

    Args:
        networks: G, D, C.
        classes: K.
        judge: a stage that sees which class a translation shows; None looks at no translations.
        rules: what they learn by.
        select: test each network with the weights that were most accurate on the validation images.
        optimizer: of G and D.
        classifier_optimizer: of C; None takes `optimizer`.
        schedule: see StageModule.
    """

    def __init__(
        self,
        networks: Networks,
        classes: int,
        judge: Classifier | None = None,
        rules: Rules | None = None,
        select: bool = False,
        optimizer: OptimizerFactory | None = None,
        classifier_optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.generator = networks.generator
        self.discriminator = networks.discriminator
        self.classifier = networks.classifier
        self.classes = classes
        self.judge = None if judge is None else Frozen([judge])
        self.rules = rules or Rules()
        self.classifier_optimizer = classifier_optimizer
        self.val_metrics = Accuracies(classes, MEMBERS)
        self.test_metrics = Accuracies(classes, MEMBERS)
        self.translation = Translation(classes)
        self.best = nn.ModuleDict({name: Best(network) for name, network in self.networks.items()} if select else {})
        self.history: History | None = None
        self._shown: list[Tensor] = []
        self._noise = torch.empty(0)  # that tested images are generated from

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "classifier": self.classifier}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if bool(batch.y[0] >= 0):
            return self.supervised_step(batch)
        return self.unsupervised_step(batch)

    def supervised_step(self, batch: Any) -> Tensor:
        """One step of all three networks on labelled images."""
        supervision = self.rules.supervision
        x = batch.x  # (b, C, H, W)
        y = gather(batch.y)  # (B,)

        order = torch.randperm(len(y)).to(x.device)
        weight = torch.distributions.Beta(supervision.mixup, supervision.mixup).sample().to(x.device)
        mixed = weight * x + (1 - weight) * self.partners(x, order)

        clean = self.class_logits(x)
        terms = supervised_terms(clean, self.class_logits(mixed), y, order, weight, supervision)
        if supervision.classification:
            both = [class_loss(clean[name], y, self.rules.class_loss).mean() for name in ("critic", "classifier")]
            terms["classification"] = torch.stack(both).sum()
        loss = torch.stack([*terms.values()]).sum()
        self.minimise(loss, *self.steppers())

        self.follow(len(x), loss=loss, **terms)
        return loss.detach()

    def class_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Each network's logits (B, K) of the global batch."""
        return {
            "tail": gather(self.generator.classify(x)),
            "critic": gather(self.discriminator.classify(x)),
            "classifier": gather(self.classifier(x)),
        }

    @staticmethod
    def partners(x: Tensor, order: Tensor) -> Tensor:
        """What each of this process's images is mixed with: row order[i] of the global batch. (b, C, H, W)."""
        _, start = place_in_batch(x)
        return gather(x)[order[start : start + len(x)]]

    def unsupervised_step(self, batch: Any) -> Tensor | None:
        """D, then G, then C, each alone, on the unlabelled images that D and C are surest of."""
        generator_optimizer, critic_optimizer, classifier_optimizer = self.steppers()
        kept = self.pseudo_labelled(batch)
        if kept.count < world_size():
            return None
        source = self.source(kept.u)

        fake = self.generator(source, kept.asked)  # (b, C, H, W)
        critic = self.critic_terms(kept, fake.detach())
        critic_total = torch.stack([*critic.values()]).sum()
        self.minimise(critic_total, critic_optimizer)

        with held(self.discriminator):
            translation = self.translation_terms(kept, fake)
            self.minimise(torch.stack([*translation.values()]).sum(), generator_optimizer)

        with torch.no_grad():
            fresh = self.generator(source, kept.asked)
        logits = self.classifier(fresh)
        loss = self.mean_class_loss(logits, kept.asked, kept.count)
        self.minimise(loss, classifier_optimizer)

        right = 100 * shared_mean((kept.labels == kept.truth).float(), kept.count)
        values = {"classifier_loss": loss, "pseudo_top1": right, **critic, **translation}
        self.follow(kept.count, **values)  # the same weight on every process, which have their shares of each mean
        return critic_total.detach()

    def pseudo_labelled(self, batch: Any) -> Kept:
        """The images of a batch that get a pseudo-label, and which class they are to become; dealt to the processes."""
        p = self.pseudo_probabilities(batch)  # (B, K), the same on every process
        chosen = above_quantile(p, self.rules.voting.quantile)
        if not self.rules.voting.selected:
            chosen = chosen.any().expand(len(chosen))
        rows = chosen.nonzero().flatten()

        rank, world = (self.global_rank, world_size()) if world_size() > 1 else (0, 1)
        mine = rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]
        u = gather(batch.x)[mine]
        asked = torch.randint(self.classes, (len(p),)).to(u.device)[mine]  # drawn for all, the same on every process
        return Kept(u, p[mine].argmax(1), asked, gather(batch.truth)[mine], len(rows))

    def pseudo_probabilities(self, batch: Any) -> Tensor:
        """p_ens (B, K) of the global batch."""
        assert self.history is not None
        if self.rules.voting.training_mode:
            with torch.no_grad():
                logits = [gather(self.discriminator.classify(batch.x)), gather(self.classifier(batch.x))]
        else:
            with inference(self.discriminator), inference(self.classifier):
                logits = [gather(self.discriminator.classify(batch.x)), gather(self.classifier(batch.x))]
        p_w = vote(logits, self.rules.voting.temperature, self.rules.voting.normalised)
        return self.history.follow(gather(batch.row), p_w, self.rules.voting)

    def source(self, u: Tensor) -> Tensor:
        """What G starts from: the images, or noise of their shape."""
        if not self.rules.translating.from_noise:
            return u
        return shared_draw(u, lambda count: torch.rand(count, *u.shape[1:]))

    def critic_terms(self, kept: Kept, fake: Tensor) -> dict[str, Tensor]:
        """L_D's terms; fake (b, C, H, W) has no gradient."""
        weights = self.rules.translating
        real_scores, logits = self.discriminator(kept.u)
        fake_scores = self.discriminator.scores(fake)

        epsilon = shared_draw(kept.u, torch.rand)
        penalty = gradient_penalty(self.discriminator.scores, between(kept.u, at_least_single(fake), epsilon))
        return {
            "critic": critic_loss(real_scores, fake_scores, kept.count),
            "penalty": weights.gp * shared_mean(penalty, kept.count),
            "critic_class": weights.cls * self.mean_class_loss(logits, kept.labels, kept.count),
        }

    def translation_terms(self, kept: Kept, fake: Tensor) -> dict[str, Tensor]:
        """L_G's terms of translations (b, C, H, W) with their gradient; D is frozen."""
        scores, logits = self.discriminator(fake)
        terms = {
            "generator": generator_loss(scores, kept.count),
            "generator_class": self.mean_class_loss(logits, kept.asked, kept.count),
            "generator_tail": self.mean_class_loss(self.generator.classify(fake), kept.asked, kept.count),
        }
        if self.rules.translating.rec and not self.rules.translating.from_noise:
            back = self.generator(fake, kept.labels)
            distance = (back - kept.u).abs().flatten(1).mean(1)  # (b,)
            terms["reconstruction"] = self.rules.translating.rec * shared_mean(distance, kept.count)
        return terms

    def mean_class_loss(self, logits: Tensor, y: Tensor, count: int) -> Tensor:
        return shared_mean(class_loss(logits, y, self.rules.class_loss), count)

    def forward(self, x: Tensor) -> Tensor:
        """C's logits (B, K)."""
        return self.classifier(x)

    # Optimisers, in the order of `networks`, and what a resumed run needs

    def players(self) -> list[list[nn.Module]]:
        return [[network] for network in self.networks.values()]

    def factories(self) -> list[OptimizerFactory]:
        made = super().factories()
        return [*made[:2], self.classifier_optimizer or made[2]]

    def on_fit_start(self) -> None:
        if self.history is None:
            images = self.trainer.datamodule.spec.sizes["train"]  # type: ignore[attr-defined]
            self.history = History(images, self.classes)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.history is not None:
            checkpoint["history"] = self.history.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "history" in checkpoint:
            self.history = History(0, self.classes)
            self.history.restore(checkpoint["history"])

    # Training means: each phase's over its own images

    def follow(self, count: int, **values: Tensor) -> None:
        """As `track`, for values that not every batch has."""
        ones = {f"{name}#": torch.ones((), device=self.device) for name in values}
        self.track(count, **values, **ones)

    def on_train_epoch_end(self) -> None:
        names = [name for name in self._sums if not name.endswith("#")]
        if names:
            sums = torch.stack([self._sums[name] for name in names] + [self._sums[f"{name}#"] for name in names])
            values, counts = self.trainer.strategy.reduce(sums, reduce_op="sum").chunk(2)
            self.log_dict({f"train/{name}": v for name, v in zip(names, values / counts, strict=True)})
        self._sums = {}
        super().on_train_epoch_end()

    # Evaluation and pictures

    def evaluate(self, x: Tensor, y: Tensor, measures: Accuracies) -> None:
        p_c = self.classifier(x).float().softmax(1)
        p_d = self.discriminator.classify(x).float().softmax(1)
        p_g = self.generator.classify(x).float().softmax(1)
        measures.update(y, plain=p_c, ens=(p_c + p_d) / 2, critic=p_d, tail=p_g)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch.x, batch.y, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        values = self.val_metrics.compute()
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        metric = {"generator": "top1_tail", "discriminator": "top1_critic", "classifier": "top1"}
        for name, best in self.best.items():
            best.look(self.networks[name], values[metric[name]])  # type: ignore[operator]

    def on_test_start(self) -> None:
        for name, best in self.best.items():
            best.restore(self.networks[name])  # type: ignore[operator]
        self._shown = []
        self._noise = torch.empty(0)

    def tested_source(self, u: Tensor, rows: Tensor) -> Tensor:
        """As `source`, but an image's noise depends on its row alone: processes need not agree on it."""
        if not self.rules.translating.from_noise:
            return u
        if not len(self._noise):
            self._noise = torch.rand(NOISES, *u.shape[1:], generator=torch.Generator().manual_seed(0))
        return self._noise[rows.cpu() % NOISES].to(u)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch.x, batch.y, self.test_metrics)
        if self.judge is None:
            return
        z = asked_classes(batch.y, batch.row, self.classes)
        fake = self.generator(self.tested_source(batch.x, batch.row), z).float()
        judged = self.judge.logits(fake)[0].argmax(1)
        self.translation.update(judged, batch.y, z, batch.x, fake)
        if not self._shown:
            self._shown = [batch.x[:SHOWN].cpu()]

    def on_test_epoch_end(self) -> None:
        values = self.test_metrics.compute()
        if self.judge is not None:
            values |= self.translation.compute()
        self.log_dict({f"test/{name}": value for name, value in values.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Some test images, each translated into every class."""
        if not self._shown:
            return {}
        x = self._shown[0].to(self.device)
        n, k = len(x), self.classes
        images = x.repeat_interleave(k, 0)  # (n K, C, H, W)
        asked = torch.arange(k, device=x.device).repeat(n)
        rows = torch.arange(n, device=x.device).repeat_interleave(k)
        fakes = self.generator(self.tested_source(images, rows), asked).view(n, k, *x.shape[1:])
        return {"translations": draw_translations(data.shown(x), data.shown(fakes), data.spec.classes)}
