"""The module of task 0 after its training, once for each file of tests."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.module import NapaVQ
from tests.papers.napa_vq.helpers import build_data, build_module, fit


@pytest.fixture(scope="module")
def first() -> NapaVQ:
    torch.set_num_threads(1)
    module = build_module()
    fit(module, build_data(0))
    return module
