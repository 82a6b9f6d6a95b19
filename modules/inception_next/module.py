"""InceptionNeXt: When Inception Meets ConvNeXt (Yu, Zhou, Yan & Wang, CVPR 2024).

arXiv 2303.16900. ConvNeXt's depthwise 7x7 convolution is cheap in FLOPs and slow on a clock. It is replaced by an
Inception depthwise convolution: most channels pass, three small groups of g = r_g C are convolved (algorithm 1).

    block            y = x + gamma * MLP(Norm(TokenMixer(x)))            one shortcut, not two as in MetaFormer
    TokenMixer(x)    = concat(x_id, DW_{k_s x k_s}(x_hw), DW_{1 x k_b}(x_w), DW_{k_b x 1}(x_h))
    of k = k_b       (2k + 9) C / 8 weights at r_g = 1/8, k_s = 3; a depthwise k x k has k^2 C

All networks of the paper are one class, MetaNeXt: InceptionNeXt (batch norm, MLP head, ratio 3 in the last stage),
ConvNeXt (layer norm, linear head, ratio 4) with any kernel on any share of the channels, isotropic ones, and
self-attention as the mixer.

Where paper, released code and this file differ in the networks, and what is not known:
- channel order: algorithm 1 splits (hw, w, h, id), the code and its weights (id, hw, w, h). The code's is the default;
  `identity_first=False` gives the other. Weights do not carry over without permuting channels.
- widths of the atto size: the paper's table prints 90, 180 in the middle, which has 4.55M parameters instead of 4.2M;
  the code's 80, 160 are right.
- "bands in sequence" (table 8) is taken as 1 x k, then k x 1 on one group of g channels: as many weights.
- the isotropic networks are not in the released code. Here: linear head, ratio 4, 18 blocks; 12 with attention, which
  is what fits the published 22M parameters. No norm after the stem and no gamma, as in ConvNeXt's own isotropic code,
  for all of them, so that mixers are compared. MetaNeXt-Attn has layer norm, as the transformers whose mixer it takes.
- MLPs are matrix products where channels lie last in memory: the same numbers, faster, in every network compared.
- mini: four blocks of other widths, and gamma starts at 0.1, since 1e-6 needs the published number of steps.

And in the recipe (conf/paper/inception_next.yaml lists each with its reason): bf16 on GPUs where the paper has TF32;
batch statistics and mixing draws over a device's part of the batch, not over the 128 images of an accumulation step;
images mixed with a random partner, not with the one mirrored in the batch; ConvNeXt of the A size, and of the B size at
384, trained as InceptionNeXt is; the last epoch is reported, not the best on the validation set; fine-tuning and the
epochs of the A size as printed, not as in the scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.inception_next.networks import MetaNeXt, depthwise, one_of, receptive_field
from modules.inception_next.pictures import receptive_field_picture

PICTURED = 16  # images in the picture of the receptive field


class InceptionDWConv(nn.Module):
    """Inception depthwise convolution: identity and small depthwise convolutions side by side, nothing in between.

    Args:
        channels: C.
        square_kernel: k_s, odd.
        band_kernel: k_b, odd.
        ratio: r_g; each branch has g = floor(r_g C) channels, what is left passes.
        branches: in the order of their channels: "hw" (k_s x k_s), "w" (1 x k_b), "h" (k_b x 1), or "wh" (the two bands
            in sequence). A branch that is left out leaves its channels to the identity.
        identity_first: the identity's channels come first (released code) or last (algorithm 1).
    Raises:
        ValueError: an even kernel, an unknown branch, or more channels than there are.
    """

    def __init__(
        self,
        channels: int,
        square_kernel: int = 3,
        band_kernel: int = 11,
        ratio: float = 0.125,
        branches: Sequence[str] = ("hw", "w", "h"),
        identity_first: bool = True,
    ) -> None:
        super().__init__()
        if square_kernel % 2 == 0 or band_kernel % 2 == 0:
            raise ValueError(f"square_kernel={square_kernel}, band_kernel={band_kernel}: expected odd numbers")
        group = int(channels * ratio)  # g
        rest = channels - group * len(branches)
        if rest < 0:
            raise ValueError(f"ratio={ratio}: {len(branches)} branches of {group} do not fit into {channels} channels")

        square = (square_kernel, square_kernel)
        wide = (1, band_kernel)
        tall = (band_kernel, 1)
        kernels = {"hw": (square,), "w": (wide,), "h": (tall,), "wh": (wide, tall)}
        self.dwconv = nn.ModuleDict()
        for name in branches if group else ():
            convolutions = [depthwise(group, *kernel) for kernel in kernels[one_of("branches", name, kernels)]]
            self.dwconv[name] = convolutions[0] if len(convolutions) == 1 else nn.Sequential(*convolutions)

        groups = [group] * len(self.dwconv)
        self.identity_first = identity_first
        self.sizes = [rest, *groups] if identity_first else [*groups, rest]

    def forward(self, x: Tensor) -> Tensor:
        groups = x.split(self.sizes, 1)  # each (B, g or C - 3g, H, W)
        identity = groups[0] if self.identity_first else groups[-1]
        convolved = groups[1:] if self.identity_first else groups[:-1]
        branches = [layer(group) for layer, group in zip(self.dwconv.values(), convolved, strict=True)]
        return torch.cat([identity, *branches] if self.identity_first else [*branches, identity], 1)


class MetaNeXtClassifier(MixedClassifier):
    """A MetaNeXt trained by the paper's recipe (see MixedClassifier), or fine-tuned from another stage.

    Args:
        classes: number of classes.
        network: what to train; not needed with `start`.
        start: a stage whose network is trained on, e.g. at a larger input; its averaged weights where it has them.
        drop_path, head_dropout: new rates for the network; None keeps its own.
        label_smoothing, mixup, cutmix, switch, ema, optimizer, schedule: see MixedClassifier.
    Raises:
        ValueError: neither or both of network and start, or a number outside its range.
    """

    def __init__(
        self,
        classes: int,
        network: MetaNeXt | None = None,
        start: MetaNeXtClassifier | None = None,
        drop_path: float | None = None,
        head_dropout: float | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch: float = 0.5,
        ema: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        trained = network if start is None else start.final()
        if not isinstance(trained, MetaNeXt) or (start is not None and network is not None):
            raise ValueError("expected either network, or start from needs: {start: <stage>}")
        if drop_path is not None:
            trained.set_drop_path(drop_path)
        if head_dropout is not None:
            trained.head.drop.p = head_dropout
        trained.requires_grad_(True)
        super().__init__(trained, classes, label_smoothing, mixup, cutmix, switch, ema, optimizer, schedule)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """How far the network sees."""
        network = self.final()
        assert isinstance(network, MetaNeXt)
        images = next(iter(data.test_dataloader()))[0][:PICTURED].to(self.device)
        return {"effective receptive field": receptive_field_picture(receptive_field(network, images))}
