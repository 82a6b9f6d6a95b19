"""What a chain is pulled towards: log p(y = c | x), of a class, a hidden unit or a caption.

A condition is called with images and targets and gives one number for each image, whose gradient is taken. The paper's
text has the exact gradient of log p; the released code lets only the target's logit through:

    exact      d log p_c / d logits = onehot(c) - p
    released   (1 - p_c) at c, 0 elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.common.precision import at_least_single
from modules.ppgn.networks import Encoder

GRADIENTS = ("exact", "released")


class Condition(Protocol):
    """Images (B, C, S, S) and a target for each -> (B,), of which the sampler takes the gradient."""

    def __call__(self, x: Tensor, target: Tensor) -> Tensor: ...


def check_gradient(gradient: str) -> None:
    """Raises ValueError for another name than those of GRADIENTS."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r}: expected one of {', '.join(GRADIENTS)}")


def pull(logits: Tensor, target: Tensor, gradient: str = "exact") -> Tensor:
    """A number for each row of logits (B, K) whose gradient is that of log p_target, or the released one; (B,)."""
    if gradient == "exact":
        return logits.log_softmax(1).gather(1, target[:, None]).squeeze(1)
    p = logits.detach().softmax(1).gather(1, target[:, None]).squeeze(1)
    return (1 - p) * logits.gather(1, target[:, None]).squeeze(1)


class ClassCondition:
    """A classifier's class, its index.

    Args:
        classifier: images -> logits (B, K).
        gradient: `exact` or `released`.
    """

    def __init__(self, classifier: Any, gradient: str = "exact") -> None:
        check_gradient(gradient)
        self.classifier = classifier
        self.gradient = gradient

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return pull(at_least_single(self.classifier(x)), target, self.gradient)


class UnitCondition:
    """A channel of a network's last convolution at one place, its number: a softmax over the channels there.

    Args:
        encoder: the network whose `maps` are looked at.
        place: row and column of the map.
        gradient: `exact` or `released`.
    """

    def __init__(self, encoder: Encoder, place: Sequence[int] = (6, 6), gradient: str = "exact") -> None:
        check_gradient(gradient)
        self.encoder = encoder
        self.row, self.column = place
        self.gradient = gradient

    def logits(self, x: Tensor) -> Tensor:
        """Images -> the channels' values at the place (B, K)."""
        maps = self.encoder.maps(x)
        if self.row >= maps.shape[2] or self.column >= maps.shape[3]:
            raise ValueError(f"place=({self.row}, {self.column}): expected one inside a map of {tuple(maps.shape[2:])}")
        return at_least_single(maps[:, :, self.row, self.column])

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return pull(self.logits(x), target, self.gradient)


class Captioner(Protocol):
    """A network that says how probable each next word of a caption is."""

    def word_log_probabilities(self, x: Tensor, words: Tensor) -> Tensor:
        """Images (B, C, S, S), captions of word numbers (B, L), -1 at the end -> log p of each word (B, L)."""


class CaptionCondition:
    """A caption: log p is the sum over its words of log p(word_k | words before it, image).

    Args:
        captioner: a Captioner. None comes with this suite: the paper's LRCN exists for Caffe alone.
    Raises:
        ValueError: there is none, or one that cannot say how probable words are.
    """

    def __init__(self, captioner: Any = None) -> None:
        if not hasattr(captioner, "word_log_probabilities"):
            raise ValueError(
                f"captioner={captioner!r:.80}: expected a network with word_log_probabilities(images, words); "
                "none comes with this suite, see modules.ppgn.conditions.Captioner"
            )
        self.captioner = captioner

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """target: captions of word numbers (B, L), padded with -1."""
        log_p = self.captioner.word_log_probabilities(x, target)
        return torch.where(target >= 0, log_p, torch.zeros_like(log_p)).sum(1)
