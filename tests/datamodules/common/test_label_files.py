"""Tables of several labels for an image."""

from __future__ import annotations

from datamodules.common.label_files import padded


def test_padding() -> None:
    assert padded([[3], [], [1, 2]]).tolist() == [[3, -1], [-1, -1], [1, 2]]
    assert padded([[], []]).tolist() == [[-1], [-1]]
