"""Wrong values are refused by name, whichever part takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from modules.inception_next.module import InceptionDWConv, MetaNeXtClassifier
from modules.inception_next.networks import Attention, DWConv
from modules.inception_next.sizes import inception_next
from modules.inception_next.timing import Throughput, Timing
from modules.inception_next.trade_off import TradeOff
from tests.papers.inception_next.helpers import small


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: InceptionDWConv(16, band_kernel=10), "expected odd"),
        (lambda: InceptionDWConv(16, ratio=0.5), "do not fit"),
        (lambda: InceptionDWConv(16, branches=("hw", "x")), "branches='x': expected one of hw, w, h, wh"),
        (lambda: DWConv(16, 4), "odd"),
        (lambda: DWConv(16, 3, 0.01), "1 to 16"),
        (lambda: Attention(100), "divisor"),
        (lambda: small(norm="group"), "norm='group': expected one of batch, layer"),
        (lambda: small(head="none"), "head='none': expected one of mlp, linear"),
        (lambda: small(mlp_ratios=(4, 4, 4)), "as many"),
        (lambda: inception_next("huge"), "size='huge': expected one of atto"),
        (lambda: MetaNeXtClassifier(10), "either network"),
        (lambda: MetaNeXtClassifier(10, small(), mixup=-1.0), "mixup=-1.0"),
        (lambda: Throughput({"a": nn.Identity()}, Timing()), "two candidates"),
        (lambda: Timing(layouts=["nhwc"]), "channels_first"),
        (lambda: TradeOff([MetaNeXtClassifier(10, small())], ["a", "b"], Timing()), "one for each of 1 arms"),
    ],
)
def test_wrong_values_are_refused_by_name(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
