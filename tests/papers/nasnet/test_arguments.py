"""Wrong arguments are refused by name, whichever part takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modules.nasnet import operations as cell_operations
from modules.nasnet.cells import Block, Graph
from modules.nasnet.classifier import Growth, NASNet
from modules.nasnet.module import Choice, Search
from modules.nasnet.networks import DropPath, Stem
from modules.nasnet.space import Space
from modules.nasnet.table import RewardTable
from tests.papers.nasnet.helpers import (
    TINY,
    children,
    norm,
    small,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph((Block(0, 2, "sep3", "sep3"),), (2,)), "does not exist yet"),
        (lambda: Graph((Block(0, 1, "sep4", "sep3"),), (2,)), "'sep4': expected one of identity"),
        (lambda: Graph((Block(0, 1, "sep3", "sep3", "mul"),), (2,)), "'mul': expected one of add"),
        (lambda: Graph((Block(0, 1, "sep3", "sep3"),), (5,)), "outputs"),
        (lambda: cell_operations.operation("wrong", 1, 1, 1, norm), "expected one of identity"),
        (lambda: small(stem=Stem("wrong")), "stem='wrong': expected one of cifar, imagenet"),
        (lambda: small(penultimate=96), "expected one of them"),
        (lambda: small(drop_path=DropPath(0.0)), "keep"),
        (lambda: small(filters=6, stem=Stem("imagenet", in_channels=1), input_size=33), "multiple of 4"),
        (lambda: small(auxiliary=True, input_size=8), "too small"),
        (lambda: Growth("wrong"), "drop_path='wrong': expected one of scheduled"),
        (lambda: NASNet(10, small), "network"),
        (lambda: Choice("wrong"), "finds='wrong': expected one of best, frequent"),
        (lambda: Search(TINY, 4), "expected children to train or a table"),
        (lambda: RewardTable(Space(), children()), "too many for a table"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
