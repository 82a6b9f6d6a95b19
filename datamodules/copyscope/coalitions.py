"""What workflows generated, as data: the images of all coalitions, and the tables of what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Fed, Spec, hashed
from datamodules.common.loader import Columns, Images, Loader


def arrays_of(export: Fed) -> Any:
    """What a stage made; in a dry run the module alone has it."""
    return export.arrays or export.module.artifacts()  # type: ignore[operator]


class CoalitionImages(DataModule):
    """Images (x (B, C, H, W) in [0, 1], set (B,), row (B,) in the set), one
    set after the other.

    The sets, by number in `sets`: "originals"; where there are any, "others", another artist's originals, and
    "reference", real images; then (game, coalition) for every game and each of its coalitions.

    Args:
        batch_size: the global batch, over all devices.
        games: stages that generated a game's coalitions, all of them or what `shared` lacks.
        names: of the games.
        shared: the stage that generated the coalitions which all games have; None where they share none.
        complete: whether a game must have all its coalitions.
        seed, generated: see DataModule.
    Raises:
        DataError: another number of names than games; a game without all its coalitions.
    """

    def __init__(
        self,
        batch_size: int,
        games: Sequence[Fed] | Fed,
        names: Sequence[str],
        shared: Fed | None = None,
        complete: bool = True,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.complete = complete
        exports = [games] if isinstance(games, Fed) else list(games)
        if len(names) != len(exports):
            raise DataError(f"{len(exports)} games, but names={list(names)}")
        self.names = list(names)
        self.exports = exports
        self.shared = shared
        self.sets: dict[Any, int] = {}
        self.where: dict[tuple[str, int], int] = {}  # (game, coalition) -> number of its set
        self.images = torch.empty(0)
        self.members = torch.empty(0)
        self.rows = torch.empty(0)
        self._identity = ""

    @property
    def players(self) -> int:
        """N."""
        return (max(c for _, c in self.where)).bit_length()

    @property
    def spec(self) -> Spec:
        shape = arrays_of(self.shared or self.exports[0])["originals"].shape[1:]
        return Spec(
            name=f"coalitions of {', '.join(self.names)}",
            shape=tuple(int(n) for n in shape),
            classes=("image",),
            sizes={"train": 0, "val": 0, "test": len(self.images)},
            mean=(0.0,) * int(shape[0]),
            std=(1.0,) * int(shape[0]),
            split="all images",
            source="generated" if self.generated else "real",
            where="stages of this suite",
            identity=self._identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.sets:
            return
        first = arrays_of(self.shared or self.exports[0])
        parts: list[np.ndarray] = []
        for name in ("originals", "others", "reference"):
            if name in first:
                self._add(name, first[name], parts)
        shared = {} if self.shared is None else self._coalitions(self.shared, "shared", parts)
        for name, export in zip(self.names, self.exports, strict=True):
            for coalition, number in {**shared, **self._coalitions(export, name, parts)}.items():
                self.where[name, coalition] = number
        for name in self.names:
            there = {c for game, c in self.where if game == name}
            if self.complete and there != set(range(1 << self.players)):
                raise DataError(f"{name}: {len(there)} coalitions, expected all {1 << self.players}")
        self.images = torch.cat([torch.from_numpy(np.array(part)) for part in parts])
        counts = [len(part) for part in parts]
        self.members = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts))
        self.rows = torch.cat([torch.arange(count) for count in counts])
        self._identity = hashed(self.images, self.members)

    def _coalitions(self, export: Fed, game: str, parts: list[np.ndarray]) -> dict[int, int]:
        """Adds a stage's images; coalition -> number of the set."""
        arrays = arrays_of(export)
        numbers = {}
        for coalition, images in zip(arrays["coalitions"].tolist(), arrays["images"], strict=True):
            self._add((game, coalition), images, parts)
            numbers[coalition] = self.sets[game, coalition]
        return numbers

    def _add(self, key: Any, images: np.ndarray, parts: list[np.ndarray]) -> None:
        self.sets[key] = len(parts)
        parts.append(images)

    def originals(self) -> Tensor:
        """(N, C, H, W) in [0, 1]."""
        return self.images[self.members == self.sets["originals"]].to(self.device) / 255

    def train_dataloader(self) -> list[Loader]:
        return []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        columns = Columns(self.device, x=self.images, set=self.members, row=self.rows)
        return Loader(self.batches(len(self.images), shuffle=False), Images(columns, self.spec))


class GameTables(DataModule):
    """Tables of games, (x (B, 2^N), game (B,), score (B,)): what each coalition is worth by each score.

    Args:
        batch_size: the global batch, over all devices.
        tables: the stage that made them: its arrays are `names`, `players` and u_<score> (games, 2^N).
        ablation: a stage with the `effects` (N,) of leaving out each player; None for none.
        seed, generated: see DataModule.
    """

    def __init__(
        self, batch_size: int, tables: Fed, ablation: Fed | None = None, seed: int = 0, generated: bool = False
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.export, self.ablation = tables, ablation

    @property
    def arrays(self) -> Any:
        return arrays_of(self.export)

    @property
    def scores(self) -> list[str]:
        return [name.removeprefix("u_") for name in self.arrays if name.startswith("u_")]

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.arrays["names"]]

    @property
    def players(self) -> list[str]:
        return [str(name) for name in self.arrays["players"]]

    def effects(self) -> Tensor | None:
        """Of leaving out each player, (N,)."""
        return None if self.ablation is None else torch.from_numpy(np.array(arrays_of(self.ablation)["effects"]))

    def table(self, name: str) -> Tensor:
        """One of the stage's arrays."""
        return torch.from_numpy(np.array(self.arrays[name]))

    @property
    def spec(self) -> Spec:
        count = len(self.scores) * len(self.names)
        return Spec(
            name=f"games {', '.join(self.names)}",
            shape=(1 << len(self.players),),
            classes=("game",),
            sizes={"train": 0, "val": 0, "test": count},
            mean=(0.0,),
            std=(1.0,),
            split="all games by all scores",
            source="generated" if self.generated else "real",
            where="stages of this suite",
            identity=hashed(*(self.table(f"u_{score}") for score in self.scores)),
        )

    def train_dataloader(self) -> list[Loader]:
        return []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        u = torch.stack([self.table(f"u_{score}") for score in self.scores])  # (scores, games, 2^N)
        score = torch.arange(u.shape[0]).repeat_interleave(u.shape[1])
        game = torch.arange(u.shape[1]).repeat(u.shape[0])
        columns = Columns(self.device, x=u.flatten(0, 1), game=game, score=score)
        return Loader(self.batches(len(game), shuffle=False), columns)
