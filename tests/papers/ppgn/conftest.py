"""Small stages, untrained: E, C, J, codes and G."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modules.common.classifier import Classifier
from modules.common.judge import Judge
from modules.common.networks import ConvNet
from modules.ppgn.codes import Codes
from modules.ppgn.generator import GeneratorTraining, Pair, Rules
from modules.ppgn.losses import Weights
from modules.ppgn.networks import SmallDiscriminator, SmallEncoder, SmallGenerator, SmallJudge


@pytest.fixture
def stages() -> Any:
    """`encoder`, `condition`, `judge`, `codes` and `generator`, the same weights each time."""
    torch.manual_seed(0)
    encoder = Classifier(SmallEncoder(), 10)
    made = SimpleNamespace(
        encoder=encoder,
        condition=Classifier(ConvNet(1, 28, [8], [2], 10), 10),
        judge=Judge(SmallJudge(), 10),
        codes=Codes(encoder),
    )
    made.generator = train_generator(encoder)
    return made


def train_generator(encoder: Any, **options: Any) -> GeneratorTraining:
    """G in front of its training, with an optimiser."""
    torch.manual_seed(1)
    weights = options.pop("weights", Weights(image=1.0, feature=0.3, adversarial=0.05, form="mean"))
    rules = Rules(weights, options.pop("pause", None), options.pop("noise", None))
    discriminator = options.pop("discriminator", SmallDiscriminator())
    pair = Pair(SmallGenerator(), 28, discriminator)
    return GeneratorTraining(encoder, pair, rules, optimizer=torch.optim.Adam, **options)
