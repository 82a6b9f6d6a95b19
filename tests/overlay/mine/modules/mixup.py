"""mixup: Beyond Empirical Risk Minimization (Zhang, Cisse, Dauphin & Lopez-Paz, ICLR 2018).

arXiv 1710.09412. A network is trained on convex combinations of pairs of images and of their labels:

    x~ = lam x_i + (1 - lam) x_j,    y~ = lam y_i + (1 - lam) y_j,    lam ~ Beta(alpha, alpha)

As in the released code, a batch is mixed with itself in another order, with one lam for all its pairs, and the loss is
the same combination of two cross-entropies, which equals the cross-entropy with y~. As alpha goes to 0, lam goes to 0
or 1 and mixup to empirical risk minimisation (ERM).

The network of the released code, below, is a pre-activation ResNet-18 for 32x32 images (He et al. 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule


def draw_lam(alpha: float) -> float:
    """lam ~ Beta(alpha, alpha), in [0, 1]."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def mix(x: Tensor, order: Tensor, lam: float) -> Tensor:
    """x~: images (B, C, H, W) with those of the batch in another order (B,)."""
    return lam * x + (1 - lam) * x[order]


def mixup_loss(z: Tensor, y: Tensor, order: Tensor, lam: float) -> Tensor:
    """L = lam CE(z, y_i) + (1 - lam) CE(z, y_j), the mean over the batch.

    Args:
        z: logits of the mixed images (B, classes).
        y: labels (B,).
        order: of the images that were mixed in, (B,).
        lam: share of the first image.
    """
    return lam * F.cross_entropy(z, y) + (1 - lam) * F.cross_entropy(z, y[order])


class Mixup(ClassificationModule):
    """A classifier trained on mixed images and labels, tested on images as they are.

    Args:
        network, classes: see ClassificationModule.
        alpha: of Beta(alpha, alpha), above 0; 1 draws lam evenly, as in the paper's CIFAR experiments.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: alpha is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        alpha: float,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if alpha <= 0:
            raise ValueError(f"alpha={alpha}: expected more than 0; without mixup it is a Classifier")
        super().__init__(network, classes, optimizer, schedule)
        self.alpha = alpha

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        lam = draw_lam(self.alpha)
        order = torch.randperm(len(x)).to(x.device)

        z = self(mix(x, order, lam))  # (B, classes)
        loss = mixup_loss(z, y, order, lam)

        lesser = loss.new_tensor(min(lam, 1 - lam))  # share of the image that there is less of: 0 without mixup
        self.track(len(y), loss=loss, lesser=lesser)
        return loss


class PreActBlock(nn.Module):
    """Norm, ReLU and a 3x3 convolution, twice; a 1x1 convolution of the first norm's output where sizes differ."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        differs = stride != 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if differs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        skipped = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)  # (B, width, H / stride, W / stride)
        out = self.conv2(F.relu(self.norm2(out)))
        return out + skipped


def preact_resnet18(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """(B, in_channels, 32, 32) -> logits (B, classes): 64 channels, four stages of two blocks, a linear layer.

    As in the released code, no norm and no ReLU follow the last block.
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)]
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [PreActBlock(channels, width, stride), PreActBlock(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
