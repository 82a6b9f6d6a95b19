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

from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.frozen import Frozen
from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.iformer.evaluation import BranchSpectra, Maps, branch_outputs, comparable
from modules.iformer.mixer import HIGH
from modules.iformer.networks import IFormer
from modules.iformer.pictures import draw_deviations, draw_spectra


class IFormerClassifier(MixedClassifier):
    """iFormer on hard labels with MixUp and CutMix; all arms of the comparison are this module with other networks.

    The test also reports the `BranchSpectra` of the trained network and, where no `start` is given, of the same network
    before training. Its batch norms use the statistics of the batch, as in the first step.

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
        for untrained in self.initial.networks:
            for module in untrained.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()
        if start is not None:
            network.load_resized(start.network.state_dict())
        branches = sorted({name for _, _, mixer in network.mixers() for name in mixer.branches})
        self.spectra = BranchSpectra(branches, initial=len(self.initial) > 0)

    @property
    def iformer(self) -> IFormer:
        assert isinstance(self.network, IFormer)
        return self.network

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with branch_outputs(self.iformer) as outputs:
            super().test_step(batch, batch_idx)
        self.spectra.update(comparable(outputs, self.iformer))
        self.spectra.update(self._initial_maps(batch[0]), when="_initial")

    def _initial_maps(self, x: Tensor) -> Maps:
        """Of the network before training; nothing where it is not kept."""
        if not len(self.initial):
            return {}
        network = self.initial.networks[0]
        assert isinstance(network, IFormer)
        with branch_outputs(network) as outputs:
            self.initial.logits(x)
        return comparable(outputs, network)

    def on_test_epoch_end(self) -> None:
        for name, value in self.spectra.compute().items():
            self.log(f"test/{name}", value)
        self.spectra.reset()
        super().on_test_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Spectra of the branches of each stage's last block (the paper's Figure 4), and their maps of one image."""
        x = next(iter(data.test_dataloader()))[0][:64].to(self.device)
        with branch_outputs(self.iformer) as outputs:
            self(x)
        trained = self._last_blocks(comparable(outputs, self.iformer))
        untrained = self._last_blocks(self._initial_maps(x))
        drawn = {name for _, name in trained}
        names = [name for name in (*HIGH, "attention") if name in drawn]
        image = data.shown(x[0]).permute(1, 2, 0)
        return {
            "feature spectra": draw_spectra(trained, untrained, names),
            "branch outputs": draw_deviations({key: y[0] for key, y in trained.items()}, names, image),
        }

    def _last_blocks(self, maps: Maps) -> dict[tuple[int, str], Tensor]:
        """(stage, branch) -> (B, H, W, C) of each stage's last block."""
        last = {stage: block for stage, block, _ in self.iformer.mixers()}
        return {(stage, name): y.cpu() for (stage, block, name), y in maps.items() if block == last[stage]}
