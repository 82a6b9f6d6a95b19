"""One loader for everything: named columns, several views, exact under several processes, resumable."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from datamodules.common.augment import RandomCrop
from datamodules.common.base import Batches, DataError, stream
from datamodules.common.digits import Digits
from datamodules.common.loader import Columns, Images, Loader, WorkerLoader
from experiments.common.paths import ROOT

CPU = torch.device("cpu")


def digits(**options: object) -> Digits:
    data = Digits(32, train_size=100, test_size=50, **options)  # type: ignore[arg-type]
    data.setup()
    return data


def test_columns_are_served_by_name_and_row() -> None:
    columns = Columns(CPU, x=torch.arange(10) * 10, mask=torch.arange(10) % 2 == 0, row=None)
    served = list(Loader(Batches(10, 4, shuffle=True, seed=3), columns))
    assert served[0]._fields == ("x", "mask", "row")
    rows = torch.cat([batch.row for batch in served])
    assert sorted(rows.tolist()) == list(range(10))
    assert torch.equal(torch.cat([batch.x for batch in served]), rows * 10)
    assert torch.equal(torch.cat([batch.mask for batch in served]), rows % 2 == 0)


def test_two_views_are_two_augmentations_of_the_same_image() -> None:
    once = next(iter(digits(augment=[RandomCrop(2)]).train_dataloader()))
    twice = next(iter(digits(augment=[RandomCrop(2)], views=2, rows=True).train_dataloader()))
    assert twice._fields == ("x", "y", "row", "x2")
    assert torch.equal(twice.x, once.x)  # the first view is what one view would be
    assert torch.equal(twice.y, once.y)
    assert not torch.equal(twice.x, twice.x2)
    plain = next(iter(digits(views=2).train_dataloader()))
    assert torch.equal(plain.x, plain.x2)  # without augmentation nothing is left to differ
    assert next(iter(digits(views=2).test_dataloader()))._fields == ("x", "y")


def test_a_view_is_at_least_one() -> None:
    with pytest.raises(DataError, match="views=0"):
        digits(views=0)


def test_views_are_the_same_however_a_batch_is_shared_out() -> None:
    data = digits()
    images, labels = data.splits["train"]
    columns = Columns(CPU, x=images, y=labels)

    def served(rank: int, world: int) -> list[torch.Tensor]:
        fetch = Images(columns, data.spec, 16, [RandomCrop(2)], views=2)
        batches = Batches(100, 32, shuffle=True, seed=1, rank=rank, world=world)
        return [torch.stack([batch.x, batch.x2]) for batch in Loader(batches, fetch)]

    whole, parts = served(0, 1), [served(0, 2), served(1, 2)]
    assert all(torch.equal(a, torch.cat([b, c], 1)) for a, b, c in zip(whole, *parts, strict=True))


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_continues_where_it_was_left(workers: int) -> None:
    """Workers run ahead of what was served; the state counts what was served."""

    def loader() -> WorkerLoader:
        return WorkerLoader(Numbers(), Batches(20, 4, shuffle=True), columns=("epoch", "row"), num_workers=workers)

    whole = [batch.row.tolist() for batch in loader()]
    first, again = loader(), loader()
    begun = iter(first)
    served = [next(begun).row.tolist() for _ in range(2)]
    again.load_state_dict(first.state_dict())
    assert served + [batch.row.tolist() for batch in again] == whole
    assert again.state_dict() == {"position": 0}


def literal_purposes() -> list[tuple[str, str]]:
    """(purpose, where) of every random stream in the code; a purpose that is no literal is an error."""
    purposes = []
    for folder in ("datamodules", "modules", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if not any(f"{name}(" in text for name in ("stream", "generator", "seed_all")):
                continue  # parsing all files took a minute
            for node in ast.walk(ast.parse(text)):
                called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                if called in ("stream", "generator", "seed_all") and path.name != "base.py":
                    first = node.args[0]  # type: ignore[union-attr]
                    if not isinstance(first, ast.Constant):
                        assert (path.name, called) == ("training.py", "stream"), f"{path}: a purpose is a literal text"
                        continue
                    purposes.append((str(first.value), path.relative_to(ROOT).as_posix()))
    return purposes


def test_no_two_purposes_share_a_stream() -> None:
    """Split, subset and noise once had the seeds of the orders of epochs 1 to 3."""
    named = {purpose for purpose, _ in literal_purposes()} | {"order", "augmentation"}
    assert len(named) > 15
    numbers = [(s,) for s in range(20)] + [(s, e) for s in range(20) for e in range(20)]
    seeds = {stream(purpose, *several) for purpose in named for several in numbers}
    assert len(seeds) == len(named) * len(numbers)


def test_nothing_seeds_a_generator_without_a_purpose() -> None:
    for path in Path(ROOT / "datamodules").rglob("*.py"):
        if path.name != "base.py":
            text = path.read_text(encoding="utf-8")
            assert "manual_seed(self.seed" not in text, path
