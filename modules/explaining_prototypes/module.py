"""This Looks Like That, Because ... Explaining Prototypes for Interpretable Image Recognition (Nauta et al. 2021).

arXiv 2011.02863; the network it explains is ProtoPNet (Chen et al. 2019, arXiv 1806.10574). A prototype is a patch of a
training image, but its picture does not say in which respect another patch is similar. So every image is modified in
one characteristic i (contrast, saturation, hue, shape, texture), and the loss of similarity at the position l* where
the prototype j is found in the ORIGINAL image k is the characteristic's importance:

    phi_local(i, k, j)  = g_j(k, l*) - g_j(k_i, l*)
    phi_global(i, j)    = sum_k g_j(k) phi_local(i, k, j) / sum_k g_j(k)        over all images, of all classes

ProtoPNet, its loss and its phases are in modules/common/protopnet.py.

What deviates, and where paper and released code differ:
- the released code saves modified images as JPEG, at quality 75 or 95 by characteristic; here they stay in memory, so
  that no modification means no score (`jpeg_roundtrip` of the data is a switch).
- the untrained network that planted characteristics are compared with has batch statistics of the training images and
  the very patches of the trained network as its prototypes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from modules.common.protopnet import Phase, ProtoPNet


class Statistics(Phase):
    """Nothing is trained: batch statistics are averaged over one pass of the training images, every batch alike.

    The stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.
    """

    def __init__(self, classes: int, network: ProtoPNet) -> None:
        super().__init__(classes, {}, network)
        self.automatic_optimization = False
        for layer in self.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        with torch.no_grad():
            self.network.features(batch.x)
