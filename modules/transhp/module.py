"""TransHP: Image Classification with Hierarchical Prompting (Wang, Sun, Li & Yang, NeurIPS 2023).

arXiv 2304.06385. A vision transformer is told, half way, what coarse class it is probably looking at. A prompting block
B_l appends M learned prompt tokens P, one for each coarse class of a level of the hierarchy; attention decides how much
of which prompt is absorbed, and a loss on the prompts' own outputs makes prompt i stand for coarse class i:

    [x_cls^l, X^l, P_hat] = B_l([x_cls^(l-1), X^(l-1), P]),    S_i = P_hat_i . w_i,
    L_coarse^l = -log( exp(S_y) / sum_i exp(S_i) ),    L = L_fine + sum_l lambda_l L_coarse^l

P_hat is then dropped. W = (w_i) are learned prototypes. No prompt is ever chosen by a label, in training or in testing:
"selecting" is the softmax of attention, and what it selects is measured here as the absorption weight (Figure 3).

What deviates, and where paper and released code differ:
- the paper's coarse loss lacks the exponential in its numerator, a misprint; the code has cross-entropy.
- label smoothing on the coarse losses and one more class for "no ancestor at this level" are in the code alone; so they
  are here. Missing ancestors are common: 840 of ImageNet's 1000 classes have none at the
  fourth level.
- "no prompts", the comparison of Figure 4, is described in words only: a linear classifier of coarse classes on the
  class token after the same block, with the same weights. Here a LayerNorm stands before it, as before the fine one.
- the code keeps an average of the weights that it never tests, and reports the best epoch; here the raw weights of the
  last epoch are tested, because the best of many test results is too good.
- the code leaves out an epoch's last, smaller batch; here it is used: 143 images in 1.28 million.
- the code trains in fp16; here bf16 on GPUs, which needs no scaling of the loss.
- which blocks of ViT-L have prompts is not known; here blocks 0 to 10 of 24.
- classifying needs neither coarse scores nor P_hat: the prompts are then keys and values only. Of the last block, only
  the class token is computed. Neither changes a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from modules.common.classifier import ClassificationModule
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule
from modules.transhp.networks import ViT

PICTURED, SHOWN = 1000, 6  # test images behind a picture of means, and those shown


def coarse_loss(s: Tensor, coarse: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of scores (B, M) with coarse classes (B,), mean over the batch; smoothed over all M classes."""
    return F.cross_entropy(s, coarse, label_smoothing=smoothing)


def total_loss(fine: Tensor, coarse: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """L = L_fine + sum_l lambda_l L_coarse^l; raises ValueError unless there are as many losses as weights."""
    return fine + sum(weight * loss for weight, loss in zip(weights, coarse, strict=True))


def selectivity(absorbed: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Absorption weight of each image's own prompt, and R(T:N), its ratio to the largest other one (Figure 3).

    Args:
        absorbed: (B, M) share of attention that goes to each prompt.
        coarse: (B,) coarse class.
    """
    target = absorbed.gather(1, coarse[:, None]).squeeze(1)
    other = absorbed.scatter(1, coarse[:, None], -math.inf).amax(1)
    return target, target / other


def deit_cosine(
    position: Position, base: float = 1e-3, final: float = 1e-5, warmup: float = 1e-6, warmup_epochs: int = 5
) -> float:
    """The rate of the released recipe as a factor on `base`: constant within an epoch, as timm 0.4.12 has it.

    Linear from `warmup` over `warmup_epochs`, then half a cosine to `final` that began at epoch 0. The training loop
    sets an epoch's rate from the number of the epoch before. It stops before the ten epochs of cool-down.
    """
    t = max(0, position.epoch - 1)
    if t < warmup_epochs:
        return (warmup + t * (base - warmup) / warmup_epochs) / base
    return (final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / position.max_epochs))) / base


class Levels(Metric):
    """What each level of the hierarchy did, mean over images, exact over several processes.

    `compute` gives `coarse_top1`, percent, and with prompts `absorption`, the mean absorption weight of each image's
    own prompt, and `ratio`, the mean R(T:N), all of the finest level. Where there are several, each is there by its
    number, `ratio_<l>`, coarsest 0, as well.

    Args:
        levels: L.
        prompted: there are absorption weights.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, levels: int, prompted: bool) -> None:
        super().__init__()
        self.names = ("coarse_top1", "absorption", "ratio") if prompted else ("coarse_top1",)
        self.add_state("sums", torch.zeros(len(self.names), levels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Sequence[Tensor], absorbed: Sequence[Tensor], coarse: Tensor) -> None:
        """Scores and absorption weights (B, M) of each level; coarse classes (B, L)."""
        self.images += len(coarse)
        for level, s in enumerate(scores):
            self.sums[0, level] += 100 * (s.argmax(-1) == coarse[:, level]).sum()
            if absorbed:
                for row, values in enumerate(selectivity(absorbed[level], coarse[:, level]), 1):
                    self.sums[row, level] += values.sum()

    def compute(self) -> dict[str, Tensor]:
        means = dict(zip(self.names, (self.sums / self.images).float(), strict=True))
        found = {name: row[-1] for name, row in means.items()}
        if len(self.sums[0]) > 1:
            found |= {f"{name}_{level}": value for name, row in means.items() for level, value in enumerate(row)}
        return found


class TransHP(ClassificationModule):
    """Fine classification with coarse losses on the way. All arms are this module with other networks and weights.

    Batches are (images, fine class (B,), coarse classes (B, L), coarsest level first); see datamodules.hierarchies.
    Tests report what Levels does as well.

    Args:
        network: a ViT.
        classes: fine classes.
        weights: lambda for each of the network's levels; 0 for "no coarse labels".
        label_smoothing: of the fine and all coarse losses.
        optimizer, schedule: see StageModule. Biases, norms, class token and positions have no weight decay.
    Raises:
        ValueError: not one weight for each level.
    """

    network: ViT

    def __init__(
        self,
        network: ViT,
        classes: int,
        weights: Sequence[float] = (),
        label_smoothing: float = 0.1,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        if len(weights) != len(network.levels):
            raise ValueError(f"weights has {len(weights)} numbers for the {len(network.levels)} levels of the network")
        self.weights, self.label_smoothing = list(weights), label_smoothing
        self.level_metrics = Levels(len(weights), network.coarse == "prompts") if weights else None

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, coarse = batch
        z, scores = self.network.scored(x)  # (B, classes), L times (B, M)
        fine = F.cross_entropy(z, y, label_smoothing=self.label_smoothing)
        losses = [coarse_loss(s, coarse[:, level], self.label_smoothing) for level, s in enumerate(scores)]
        loss = total_loss(fine, losses, self.weights)
        parts = {f"coarse_{level}": value for level, value in enumerate(losses)}
        self.track(len(y), loss=loss, fine=fine, top1=100 * (z.argmax(-1) == y).float().mean(), **parts)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        x, y, coarse = batch
        absorbed: list[Tensor] = []
        z, scores = self.network.scored(x, absorbed)
        self.test_metrics.update(z, y)
        if self.level_metrics is not None:
            self.level_metrics.update(scores, absorbed, coarse)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.level_metrics is not None:
            self.log_dict({f"test/{name}": value for name, value in self.level_metrics.compute().items()})
            self.level_metrics.reset()

    def on_fit_start(self) -> None:
        """Raises ValueError if the data's levels are not the network's."""
        data = getattr(self.trainer, "datamodule", None)
        prompts, own = getattr(data, "prompts", None), [m for _, m in self.network.levels]
        if own and prompts is not None and list(prompts) != own:
            raise ValueError(f"the data has levels of {list(prompts)} coarse classes, the network of {own}")

    def trained(self) -> list[dict[str, Any]]:
        """DeiT's groups: weight decay on matrices, the prompts and prototypes among them, and on nothing else."""
        plain = [p for n, p in self.named_parameters() if p.ndim < 2 or n.endswith(("cls_token", "pos_embed"))]
        apart = {id(p) for p in plain}
        decayed = [p for p in self.parameters() if id(p) not in apart]
        return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Who absorbs which prompt at the finest level: mean over test images by coarse class, and a few images."""
        if self.network.coarse != "prompts":
            return {}
        m = self.network.levels[-1][1]
        enough, counts = math.ceil(PICTURED / m), torch.zeros(m, dtype=torch.long)  # images of each coarse class
        kept: list[tuple[Tensor, ...]] = []
        for x, _, coarse in data.test_dataloader():
            c = coarse[:, -1].cpu()
            one_hot = F.one_hot(c, m)
            taken = (one_hot.cumsum(0) + counts)[torch.arange(len(c)), c] <= enough
            counts += one_hot.sum(0)
            if taken.any():
                absorbed: list[Tensor] = []
                x, c = x[taken.to(x.device)], c[taken]
                _, s = self.network.scored(x.to(self.device), absorbed)
                kept.append((x.cpu(), c, absorbed[-1].cpu(), s[-1].float().softmax(-1).cpu()))
            if int(counts.min()) >= enough:
                break
        x, c, share, p = (torch.cat(parts) for parts in zip(*kept, strict=True))
        first = [int((c == i).nonzero()[0]) for i in c.unique().tolist()]
        shown = first[:: math.ceil(len(first) / SHOWN)]  # of different coarse classes
        names = data.names[-1] if len(data.names[-1]) == m else [*data.names[-1], "no ancestor"]
        tokens = self.network.pos_embed.shape[1] + m
        mean = torch.stack([share[c == i].mean(0) for i in range(m)]) * tokens  # (M, M), NaN where no image is
        by_class = Figure(figsize=(7, 5.5), layout="constrained")
        ax = by_class.subplots()
        drawn = ax.imshow(mean, cmap="viridis")
        by_class.colorbar(drawn, label=f"attention to the prompt, 1 = equal shares of {tokens} tokens")
        ax.set(xlabel="prompt", ylabel="coarse class of the images", title=f"{len(c):,} test images")
        if m <= 25:
            ax.set_xticks(range(m), names, rotation=60, ha="right", fontsize=8)
            ax.set_yticks(range(m), names, fontsize=8)
        few = Figure(figsize=(1.7 * len(shown), 4.2), layout="constrained")
        axes = few.subplots(3, len(shown), squeeze=False)
        mean_, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        for column, i in enumerate(shown):
            axes[0, column].imshow((x[i] * std + mean_).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            axes[0, column].set_title(str(names[int(c[i])]), fontsize=8)
            axes[0, column].axis("off")
            top = share[i].topk(min(m, 6)).indices.sort().values
            for row, values in ((1, share[i][top] * tokens), (2, p[i][top])):
                colours = ["C1" if k == int(c[i]) else "C0" for k in top.tolist()]
                axes[row, column].bar(range(len(top)), values, color=colours)
                axes[row, column].set_xticks(range(len(top)), top.tolist(), fontsize=7)
                axes[row, column].tick_params(axis="y", labelsize=6)
            axes[2, column].set_ylim(0, 1)
        axes[1, 0].set_ylabel("attention to\nthe prompt", fontsize=8)
        axes[2, 0].set_ylabel("coarse\nprobability", fontsize=8)
        return {"attention to the prompts by coarse class": by_class, "prompts of a few images": few}
