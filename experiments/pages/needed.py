"""What a recipe needs that does not come with the install, as a table: how much, where it lies, is it there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from experiments.pages import console
from experiments.running.needs import size_on_disk

if TYPE_CHECKING:
    from datamodules.common.needs import Need

COLUMNS = ("what", "size", "files", "there?", "where to get it")
MIB = 2**20


def table(title: str, needs: Iterable[Need]) -> Table:
    """A row for each thing, once for all stages that read the same files."""
    rows = console.table(title, COLUMNS)
    groups: dict[tuple[str, str], list[Need]] = {}
    for need in needs:
        groups.setdefault((need.name, need.files), []).append(need)
    for (name, files), alike in groups.items():
        need = next((need for need in alike if need.look()), alike[0])
        problem = need.look()
        there = Text("no", style="red") if problem else Text("yes", style="green")
        rows.add_row(name, how_much(need), files, there, _to_do(need, problem))
    return rows


def how_much(need: Need) -> str:
    """Images by part, or the size of a file."""
    if need.count:
        parts = [f"{count:,}" if part == "*" else f"{count:,} {part}" for part, count in need.count.items()]
        return " + ".join(parts)
    size = size_on_disk(need) or need.size
    return f"{size / MIB:,.0f} MiB" if size else ""


def _to_do(need: Need, problem: str) -> str:
    """What is wrong and where to get it; of what is fetched by itself, from where and how that is checked."""
    if problem and need.fetch is None:
        return problem
    checked = f" ({need.checksum})" if need.checksum else ""
    return f"{'fetched by the run: ' if problem else ''}{need.source}{checked}"
