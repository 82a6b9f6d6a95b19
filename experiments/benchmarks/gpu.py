"""`make gpu`: what this suite takes on the card at hand, in pieces of minutes, into results/hardware/<card>.json."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiments.benchmarks import asked
from experiments.benchmarks.asked import PARTS, Item
from experiments.commands import cli
from experiments.common import failure
from experiments.common.errors import InputError, unknown
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence import hardware
from experiments.evidence.hardware import Card, Failed, Found, Row
from experiments.evidence.ran import Code
from experiments.identity import provenance
from experiments.pages import console
from experiments.pages import hardware as pages
from experiments.running.processes import end_with_parent, how_it_ended

HELP = """\
Measure what this suite takes on the graphics card at hand, and write it to results/hardware/<card>.json.

  python -m experiments.benchmarks.gpu                     ten minutes of it; the same command goes on
  python -m experiments.benchmarks.gpu paper=meal_v2,zpe   of some papers
  python -m experiments.benchmarks.gpu parts=smoke,steps   of some parts
  python -m experiments.benchmarks.gpu accelerator=cpu     tried on the processor, into runs/hardware; no record

In this order:
  refusal   two processes on one card: is that refused, and with which reason
  smoke     each paper's smoke run in fp32 and bf16 beside the processor's numbers
  steps     stages of full recipes in fp32 and bf16, at the published batch or the largest that fits
  beside    networks beside those of timm and torchvision (`bench` in the papers' files)
  switch    channels_last, fused, matmul_precision and compile, each beside off

  minutes=10         of one call
  total=40           minutes of all calls; what is then left is said, and a larger number goes on
  stages=1           of each full recipe, those that the main claim compares first
  anew=true          also what was measured before

What fails is written with its reason, and measured again once its code is another. The rest stays as it was measured.

"""
LIMIT = 240.0  # seconds for one thing
TAKES = {"paper": "", "parts": "", "minutes": "10", "total": "40", "stages": "1", "anew": "false", "accelerator": "gpu"}
Work = Callable[[Item, str], Found]


def main(argv: list[str]) -> int:
    options, others = cli.take(argv, tuple(TAKES))
    if others:
        raise unknown("option", others[0].partition("=")[0], TAKES)
    said = {**TAKES, **options}
    if said["accelerator"] not in ("gpu", "cpu"):
        raise InputError(f"accelerator={said['accelerator']}: expected gpu or cpu")
    if said["anew"] not in ("true", "false"):
        raise InputError(f"anew={said['anew']}: expected true or false")
    parts = [part for part in said["parts"].split(",") if part] or list(PARTS)
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    papers = cli.papers_named([said["paper"]]) if said["paper"] else list(compose.papers())
    minutes, total = _number(said, "minutes"), _number(said, "total")
    items = list(asked.items(papers, parts, round(_number(said, "stages"))))

    from experiments.benchmarks import card as work

    accelerator = said["accelerator"]
    name, memory = work.describe(accelerator)
    place = hardware.path(name, None if accelerator == "gpu" else ROOT / "runs" / "hardware")
    card = hardware.read(place) or Card(name=name, memory=memory, cpu="", versions={}, asked=0)
    facts = provenance.hardware()
    card.cpu = f"{facts['cpu']}, {facts['cores']} cores"
    card.versions = provenance.versions()
    left = items if said["anew"] == "true" else unmeasured(items, card)
    card.asked = len(items)
    seconds = min(60 * minutes, 60 * total - (0 if said["anew"] == "true" else card.seconds))
    measure(card, left, place, seconds, work.measure, accelerator)
    _tell(card, items, place, total)
    return 0


def _number(said: dict[str, str], key: str) -> float:
    """Raises InputError for what is no number above 0."""
    try:
        value = float(said[key])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise InputError(f"{key}={said[key]}: expected a number above 0")
    return value


def unmeasured(items: Sequence[Item], card: Card) -> list[Item]:
    """What has no row yet, or failed with other code."""
    code = _code()
    done = {row.key for row in card.rows if not isinstance(row.found, Failed) or row.code == code}
    return [item for item in items if item.key not in done]


def _code() -> Code:
    return Code(**provenance.code_version())


def measure(card: Card, items: Sequence[Item], place: Path, seconds: float, work: Work, accelerator: str) -> None:
    """Measure one thing after another for so many seconds; each is written once it is there."""
    for item, spent, found in results(items, time.monotonic() + seconds, work, accelerator):
        at = datetime.now(UTC).isoformat(timespec="seconds")
        part, paper, what, how = item.key
        row = {"part": part, "paper": paper, "what": what, "how": how, "at": at, "code": _code().model_dump()}
        card.put(Row.model_validate({**row, "seconds": round(spent, 1), "found": found.model_dump()}))
        hardware.write(card, place)
        console.say(f"{item}: {pages.in_words(found)} ({spent:.0f} s)")


def results(
    items: Sequence[Item], until: float, work: Work, accelerator: str, limit: float = LIMIT
) -> Iterator[tuple[Item, float, Found]]:
    """What came of each item, with its seconds, until a moment of time.monotonic(). What still runs then is dropped.

    A process of its own measures, so that one that is killed, or whose card is in no state to go on, costs one item; it
    is replaced after every failure.
    """
    worker: Worker | None = None
    try:
        for item in items:
            began = time.monotonic()
            if began >= until:
                return
            worker = worker or Worker(work, accelerator)
            found = worker.ask(item, min(limit, until - began))
            spent = time.monotonic() - began
            if found is None and spent < limit:
                return
            if found is None:
                found = Failed(reason=f"given up after {limit:.0f} s")
            yield item, spent, found
            if isinstance(found, Failed):
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()


class Worker:
    """A process that measures what it is asked."""

    def __init__(self, work: Work, accelerator: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, work, accelerator), daemon=False)
        self._process.start()
        theirs.close()

    def ask(self, item: Item, seconds: float) -> Found | None:
        """What came of an item; None if it takes longer than this."""
        try:
            self._pipe.send(item)
            if not self._pipe.poll(seconds):
                return None
            found: Found = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(60)  # its interpreter may still be ending
            return Failed(reason=how_it_ended(self._process.exitcode or 0))
        return found

    def end(self) -> None:
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, work: Work, accelerator: str) -> None:
    """Answer items until the other end is gone."""
    end_with_parent()
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            found = work(item, accelerator)
        except Exception as error:  # noqa: BLE001 - whatever breaks is the answer about this item
            found = Failed(reason=failure.explain(error, ROOT / "runs" / failure.NAME)[0][:500])
        pipe.send(found)


def _tell(card: Card, items: Sequence[Item], place: Path, total: float) -> None:
    """The tables, and what is left."""
    for table in pages.tables(card):
        console.out.print(table, "")
    left = unmeasured(items, card)
    shown = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place
    console.say(
        f"{card.name}: {len(items) - len(left)} of {len(items)} measured in {card.seconds / 60:.0f} min: {shown}"
    )
    if left and card.seconds >= 60 * total:
        console.say(f"{total:g} minutes are spent; total={2 * total:g} goes on with {left[0]}")
    elif left:
        console.say(f"The same command goes on with {left[0]}")


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input"))
