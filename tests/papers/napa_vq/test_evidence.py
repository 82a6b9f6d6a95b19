"""Edges among the most confused pairs, by hand."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.evidence import EdgeEvidence
from modules.napa_vq.module import NapaVQ
from tests.papers.napa_vq.helpers import build_module, copy_of


def test_evidence_counts_edges_among_the_most_confused(first: NapaVQ) -> None:
    with torch.no_grad():
        last = build_module(build_module(copy_of(first)))
    last.edges[::4, ::4] = torch.eye(8)
    for i, j in ((0, 6), (1, 4)):
        last.edges[4 * i, 4 * j] = last.edges[4 * j, 4 * i] = 0.5
    stage = EdgeEvidence(last, last, pairs=2)
    logged: dict[str, float] = {}
    stage.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign]
    truth = torch.tensor([0, 0, 6, 4, 4, 1])
    taken = torch.tensor([6, 6, 0, 7, 7, 0])  # 0-6 three times, 4-7 twice; 0 and 1 are of one task
    stage.confusion.update(taken, truth)
    stage.on_test_epoch_end()
    pairs = 4 * 2 + 6 * 2
    chance = (1 / 8 + 0 / 4) / 2  # tasks 0 and 2 have 8 pairs, one of them joined; tasks 1 and 2 have 4 and none
    expected = {"confused_joined": 0.5, "chance_joined": chance, "all_joined": 2 / pairs, "n": 6}
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.items()})
