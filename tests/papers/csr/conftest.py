"""A small concept model and its maps, 3 concepts and 4 classes, as later stages see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from datamodules.common.base import Fed
from datamodules.common.loader import batch_type
from datamodules.common.species import Shortcut, Species
from datamodules.csr.encoded import ConceptVectors, Encoded
from datamodules.csr.findings import SpeciesFindings
from modules.csr.module import ConceptModel, Encode
from modules.csr.networks import ConceptNetwork, small_encoder


def findings(everything: bool = False, shortcut: bool = True, validation: int = 0) -> SpeciesFindings:
    """80 training and 40 test pictures, and 40 times `validation`."""
    bar = Shortcut("texture level", 0.9, 0.5) if shortcut else None
    return SpeciesFindings(Species(40, 2, 1, validation, shortcut=bar, seed=3), 40, everything=everything)


@pytest.fixture(scope="session")
def model() -> ConceptModel:
    torch.manual_seed(0)
    return ConceptModel(ConceptNetwork(small_encoder((8, 8), (4, 2), (5, 3)), 8, 11))


def encoded_by(model: ConceptModel, validation: int = 0) -> Encode:
    """The stage after its test."""
    stage = Encode(model)
    data = findings(everything=True, validation=validation)
    data.setup()
    stage.on_test_epoch_start()
    with torch.inference_mode():
        for number, batch in enumerate(data.test_dataloader()):
            stage.test_step(batch, number)
    return stage


@pytest.fixture(scope="session")
def encode(model: ConceptModel) -> Encode:
    return encoded_by(model)


@pytest.fixture
def encoded(encode: Encode) -> Encoded:
    data = Encoded(findings(), Fed(encode, encode.artifacts()), 40)
    data.setup()
    return data


@pytest.fixture
def vectors(encode: Encode) -> ConceptVectors:
    data = ConceptVectors(findings(), Fed(encode, encode.artifacts()), 40)
    data.setup()
    return data


@dataclass
class Trainer:
    """What a module asks a trainer for in its test."""

    datamodule: Any
    global_step: int = 0


@pytest.fixture
def trainer_of() -> type[Trainer]:
    return Trainer


@pytest.fixture
def small_batch() -> Any:
    """Two images of 4x4 pixels, maps of 2x2 cells, 2 concepts, 3 classes."""
    columns = ("x", "y", "concepts", "boxes", "shows", "row", "elsewhere", "dealt")
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]]]).expand(2, 2, 4)
    concepts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    shows = torch.tensor([[0, 2], [1, -1]])
    moved = boxes + torch.tensor([0.0, 2.0, 0.0, 2.0])
    x = torch.randn(2, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    return batch_type(columns)(
        x, torch.tensor([0, 2]), concepts, boxes, shows, torch.arange(2), moved, concepts.flip(1)
    )
