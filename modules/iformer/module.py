"""Inception Transformer (iFormer; Si, Yu, Zhou, Zhou, Wang & Yan, NeurIPS 2022).

arXiv 2205.12956. Self-attention averages over the whole map and keeps low frequencies. The Inception token mixer (ITM)
therefore splits the C channels of a token: C_h = C - C_l go to max-pooling and to depthwise convolution, C_l = d a to
attention with a heads of size d, and the share C_l / C grows with depth (the frequency ramp).

    X <- X + ITM(LN(X)),    X <- X + FFN(LN(X)),    FFN = Linear(4C) GELU Linear
    Y_c = [ GELU dw(1x1(X_1)),  GELU 1x1(maxpool(X_2)),  upsample(attention(avgpool(X_l))) ]        C_l + 2 C_h channels
    ITM(X) = 1x1(Y_c + dw(Y_c))

Where paper and released code differ, the code is followed, since the published weights were trained with it: GELUs in
the high mixer, the convolution takes the first half of C_h, LayerScale in stages 3 and 4 alone, the final norm before
the mean over tokens, decayed position embeddings. timm's `iformer_*` are another paper's networks (arXiv 2501.15369).

What deviates from the code:
- Maps of odd side are pooled with smaller windows at the far edge; the code's 2x2 pooling needs even sides.
- 1 is added to the middle of dw in full precision, LayerScale goes into the weights: the same sums in fewer passes.
- MixUp and CutMix are torchvision's on a shuffled batch, drawn from torch's random state, so that a resumed run
  repeats its draws; timm mixes with the reversed batch.
- The last, smaller batch of an epoch is trained on; timm drops it.
- `initial_std=None` starts small networks at 1 / sqrt(fan-in): with the code's 0.02, made for widths of hundreds, the
  mixers of a narrow network give next to nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.common.frozen import Frozen
from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.iformer.networks import HIGH, IFormer, InceptionMixer, branch_outputs
from modules.iformer.spectra import Maps, averaged, deviation_figure, high_frequency, radial, spectra_figure

SMALLEST = 7  # side of the smallest map whose spectrum is measured: below it, the last radii are a few frequencies
BASES = {"": 0, "_from_1": 1}  # suffix of a metric's name -> radius that the highest is compared with


class IFormerClassifier(MixedClassifier):
    """iFormer on hard labels with MixUp and CutMix; all arms of the comparison are this module with other networks.

    The test also reports for each branch, as means over test images and blocks:

    - `<branch>_high`: log-amplitude of its output at the highest radius of the spectrum minus that at radius 0;
    - `<branch>_high_from_1`: the same minus that at radius 1, for the mean of a map (radius 0) follows its bias too;
    - `..._initial`: both of the same network before training, where no `start` is given. Its batch norms use the
      statistics of the batch, as in the first step.

    Where attention is pooled it is constant on its cells; all branches of the block are then averaged over the same
    cells. Maps under 7x7 are left out.

    Args:
        network: the backbone.
        classes, label_smoothing, mixup, cutmix: see MixedClassifier; each batch gets one of the two, drawn evenly.
        start: a trained classifier to fine-tune, maybe at another input size; `network` gets its weights.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: IFormer,
        classes: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        start: IFormerClassifier | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, label_smoothing, mixup, cutmix, optimizer=optimizer, schedule=schedule)
        self.initial = Frozen([copy.deepcopy(network)] if start is None else [])
        for each in self.initial.networks:
            for module in each.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()
        if start is not None:
            network.load_resized(start.network.state_dict())
        names = sorted({name for _, _, mixer in network.mixers() for name in mixer.branches})
        whens = ("", "_initial") if len(self.initial) else ("",)
        keys = [f"{name}_high{base}{when}" for name in names for base in BASES for when in whens]
        self.spectra = nn.ModuleDict({key: MeanMetric(nan_strategy="disable") for key in keys})

    @property
    def iformer(self) -> IFormer:
        assert isinstance(self.network, IFormer)
        return self.network

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with branch_outputs(self.iformer) as outputs:
            super().test_step(batch, batch_idx)
        self._measure(self._comparable(outputs), "")
        self._measure(self._initial_outputs(batch[0]), "_initial")

    def _initial_outputs(self, x: Tensor) -> Maps:
        """Of the network before training; nothing where it is not kept."""
        if not len(self.initial):
            return {}
        network = self.initial.networks[0]
        assert isinstance(network, IFormer)
        with branch_outputs(network) as outputs:
            self.initial.logits(x)
        return self._comparable(outputs)

    def _comparable(self, outputs: Maps) -> Maps:
        """The branches' maps on the cells of attention in their block, without those under 7x7."""
        cells = {(s, b): _cell(mixer) for s, b, mixer in self.iformer.mixers()}
        maps = {key: averaged(y.detach().float(), cells[key[:2]]) for key, y in outputs.items()}
        return {key: y for key, y in maps.items() if min(y.shape[1:3]) >= SMALLEST}

    def _measure(self, maps: Maps, when: str) -> None:
        for (_, _, name), y in maps.items():
            rings = radial(y)
            for suffix, base in BASES.items():
                metric = self.spectra[f"{name}_high{suffix}{when}"]
                assert isinstance(metric, MeanMetric)
                metric.update(high_frequency(rings, base))

    def on_test_epoch_end(self) -> None:
        for key, metric in self.spectra.items():
            assert isinstance(metric, MeanMetric)
            if metric.update_called:  # a branch whose maps are all under 7x7 has nothing to report
                self.log(f"test/{key}", metric.compute())
                metric.reset()
        super().on_test_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Spectra of the branches of each stage's last block (the paper's Figure 4), and their maps of one image."""
        x = next(iter(data.test_dataloader()))[0][:64].to(self.device)
        with branch_outputs(self.iformer) as outputs:
            self(x)
        last = {s: b for s, b, _ in self.iformer.mixers()}
        trained, before = (
            {(s, name): y.cpu() for (s, b, name), y in maps.items() if last[s] == b}
            for maps in (self._comparable(outputs), self._initial_outputs(x))
        )
        names = [name for name in (*HIGH, "attention") if any(key[1] == name for key in trained)]
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        image = (x[0].cpu() * std + mean).clamp(0, 1).permute(1, 2, 0)
        return {
            "feature spectra": spectra_figure(trained, before, names),
            "branch outputs": deviation_figure({key: y[0] for key, y in trained.items()}, names, image),
        }


def _cell(mixer: InceptionMixer) -> int:
    """Side of the cells on which the mixer's attention is constant."""
    return int(getattr(mixer.branches["attention"], "pool", 1)) if "attention" in mixer.branches else 1
