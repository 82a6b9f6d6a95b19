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
  are here. Missing ancestors are common: 734 of ImageNet's 1000 classes have none at the fifth level, 340 at the last.
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

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.transhp.levels import Levels
from modules.transhp.networks import Absorbed, ViT
from modules.transhp.pictures import collect_absorption, draw_absorption_by_class, draw_few_images


def coarse_loss(s: Tensor, coarse: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of scores (B, M) with coarse classes (B,), mean over the batch; smoothed over all M classes."""
    return F.cross_entropy(s, coarse, label_smoothing=smoothing)


def total_loss(fine: Tensor, coarse: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """L = L_fine + sum_l lambda_l L_coarse^l; raises ValueError unless there are as many losses as weights."""
    return fine + sum(weight * loss for weight, loss in zip(weights, coarse, strict=True))


class TransHP(ClassificationModule):
    """Fine classification with coarse losses on the way. All arms are this module with other networks and weights.

    Batches are (images, fine class (B,), coarse classes (B, L), coarsest level first); see datamodules.hierarchies.
    Tests report what Levels does as well, and `masked_top1`: the accuracy, percent, of the same weights with every
    prompt masked as a key. What prompting itself does for accuracy is gone then; what the coarse losses taught stays.

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
        self.weights = list(weights)
        self.label_smoothing = label_smoothing
        prompted = network.coarse == "prompts"
        self.level_metrics = Levels([m for _, m in network.levels], prompted) if weights else None
        self.masked_metrics = Classification(classes, ("top1",)) if prompted else None

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, coarse = batch
        z, scores = self.network.score(x)  # (B, classes), L times (B, M)

        fine = F.cross_entropy(z, y, label_smoothing=self.label_smoothing)
        losses = [coarse_loss(s, coarse[:, level], self.label_smoothing) for level, s in enumerate(scores)]
        loss = total_loss(fine, losses, self.weights)

        by_level = {f"coarse_{level}": value for level, value in enumerate(losses)}
        self.track(len(y), loss=loss, fine=fine, top1=100 * (z.argmax(-1) == y).float().mean(), **by_level)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        x, y, coarse = batch
        absorbed: list[Absorbed] = []
        z, scores = self.network.score(x, absorbed)
        self.test_metrics.update(z, y)
        if self.masked_metrics is not None:
            self.masked_metrics.update(self.network.forward_masked(x), y)
        if self.level_metrics is not None:
            self.level_metrics.update(scores, absorbed, coarse)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.masked_metrics is not None:
            self.log("test/masked_top1", self.masked_metrics.compute()["top1"])
            self.masked_metrics.reset()
        if self.level_metrics is not None:
            self.log_dict({f"test/{name}": value for name, value in self.level_metrics.compute().items()})
            self.level_metrics.reset()

    def on_fit_start(self) -> None:
        """Raises ValueError if the data's levels are not the network's."""
        data = getattr(self.trainer, "datamodule", None)
        prompts = getattr(data, "prompts", None)
        own = [m for _, m in self.network.levels]
        if own and prompts is not None and list(prompts) != own:
            raise ValueError(f"the data has levels of {list(prompts)} coarse classes, the network of {own}")

    def trained(self) -> list[dict[str, Any]]:
        """DeiT's groups: weight decay on matrices, the prompts and prototypes among them, and on nothing else."""
        plain = [p for n, p in self.named_parameters() if p.ndim < 2 or n.endswith(("cls_token", "pos_embed"))]
        without_decay = {id(p) for p in plain}
        decayed = [p for p in self.parameters() if id(p) not in without_decay]
        return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Who absorbs which prompt at the finest level: mean over test images by coarse class, and a few images."""
        if self.network.coarse != "prompts":
            return {}
        m = self.network.levels[-1][1]
        tokens = self.network.pos_embed.shape[1] + m
        names = data.names[-1] if len(data.names[-1]) == m else [*data.names[-1], "no ancestor"]
        absorption = collect_absorption(self.network, data.test_dataloader(), self.device)
        return {
            "attention to the prompts by coarse class": draw_absorption_by_class(absorption, tokens, names),
            "prompts of a few images": draw_few_images(absorption, tokens, names, data.shown),
        }
