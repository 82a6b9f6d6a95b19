"""The released notebook's learning rate."""

from __future__ import annotations

from modules.common.schedules import Position


def floored(position: Position, decay: float = 0.75, every: int = 50, floor: float = 0.01) -> float:
    """`decay` to the number of whole `every` epochs, at least `floor`.

    Both are factors on the rate. The notebook prints rates from 0.1 to 0.0056 over 500 epochs, which meet no floor.
    """
    return float(max(floor, decay ** (position.epoch // every)))
