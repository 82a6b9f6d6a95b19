"""Which trials there are, group by group; each group can be run by itself."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from experiments.config import compose
from experiments.evidence import results
from experiments.running.plan import Plan
from tests.reliability.soak import bench, data, disturb, hostile, machine, records, shell, workers
from tests.reliability.soak.bench import Bench, Trial

SECOND = "ntk_optimality"  # a paper beside the one that is disturbed


@dataclass
class Schedule:
    """Everything, in turn.

    Args:
        paper: whose smoke run is disturbed.
        kills: how often to SIGKILL.
        seed: of the moments and of the damaged bits.
        seconds: nothing that takes long is begun after this.
        jobs: of each of two sweeps.
        folder: where everything is written.
    """

    paper: str
    kills: int
    seed: int
    seconds: float
    jobs: int
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def trials(self, groups: Sequence[str]) -> Iterator[Trial]:
        for group in groups:
            yield from getattr(self, group)()

    @property
    def late(self) -> bool:
        return time.monotonic() - self.began > self.seconds

    def draws(self, what: str) -> random.Random:
        """Random numbers of one purpose."""
        return random.Random(f"{self.seed} {what}")

    @property
    def lines(self) -> list[str]:
        return [f"paper={self.paper}", *bench.LINES]

    @cached_property
    def whole(self) -> Plan:
        return bench.make([*self.lines, f"runs_dir={self.folder / 'planned'}"])

    @cached_property
    def full(self) -> Bench:
        """The whole run."""
        return bench.Bench(self.whole, self.folder / "whole")

    @cached_property
    def small(self) -> tuple[str, str | None]:
        return disturb.small(self.whole)

    @cached_property
    def part(self) -> Bench:
        """The smallest part of a run in which one trained stage needs another."""
        victim, dependent = self.small
        return bench.Bench(bench.portion(self.whole, dependent or victim), self.folder / "part")

    def runs(self) -> Iterator[Trial]:
        """Runs that are killed, again and again."""
        yield disturb.by_command(self.full, self.lines)
        half = self.began + 0.5 * self.seconds
        yield from disturb.kills(self.full, self.kills, self.draws("moments"), half)

    def files(self) -> Iterator[Trial]:
        """Damaged files of runs."""
        (victim, dependent), bits = self.small, self.draws("bits")
        for state in disturb.states(self.part, victim, dependent):
            for file, how in disturb.damages(bits, flips=6):
                if not self.late:
                    yield disturb.corruption(self.part, state, victim, file, how)

    def input(self) -> Iterator[Trial]:
        """Hostile configurations, archives, folders of data, words for a shell."""
        victim, _ = self.small
        for name, problem in hostile.refusals(self.part.undisturbed, self.lines, victim, self.folder / "hostile"):
            yield Trial("refusal", name, problem)
        for name, problem in itertools.chain(
            data.poisoned(self.folder / "poisoned"),
            data.damaged(self.folder / "fallen bits", self.draws("files"), 1),
            data.damaged_pictures(self.folder / "pictures", self.draws("pictures"), 15),
        ):
            yield Trial("folder", name, problem)
        for name, problem in shell.attempts(self.folder / "shell"):
            yield Trial("shell", name, problem)

    def records(self) -> Iterator[Trial]:
        """Records of results that are damaged, altered, written by two, or whose writer is killed."""
        if not (results.RESULTS / f"{self.paper}.json").exists():
            return
        yield from records.damaged(self.paper, self.folder / "records")
        yield from records.altered(self.paper, self.folder / "altered")
        yield from records.raced(self.paper, self.folder / "raced")
        yield from machine.killed_writers(self.paper, self.folder / "killed", self.draws("writers"), 20)
        yield machine.read_only_results(self.paper, self.folder / "unwritable" / "results")

    def shares(self) -> Iterator[Trial]:
        """Batches of two processes, of every paper."""
        for paper in compose.papers():
            if not self.late:
                yield workers.shares(paper, self.folder / "shares")

    def processes(self) -> Iterator[Trial]:
        """Several processes, papers or machines on one run."""
        victim, _ = self.small
        if Path("/proc/self/cmdline").exists():
            pair = bench.make([*self.lines, "trainer=ddp_cpu", f"stages.{victim}.trainer.max_epochs=40"])
            several = bench.Bench(bench.portion(pair, victim), self.folder / "ranks")
            yield from disturb.ranks(several, victim, self.draws("ranks"), 3)
        yield disturb.concurrent(self.full)
        for _ in range(3):
            yield workers.two_machines(self.part)
        if not self.late:
            yield machine.two_papers([self.paper, SECOND], self.folder / "two")

    def machine(self) -> Iterator[Trial]:
        """Room, memory, locks, folders, clocks and libraries."""
        part, draws = self.part, self.draws("machine")
        sizes = [f.stat().st_size for f in bench.root(part.undisturbed).rglob("*") if f.is_file()]
        for share in (0.01, 0.3, 0.9):
            yield machine.no_room_for_a_file(part, max(3_000, int(share * max(sizes))))
        for more in (1, 16, 64):
            yield machine.no_memory(part, more)
        yield workers.reading_worker(self.folder / "reading")
        if not self.late:
            yield from (workers.pool_worker(part, what) for what in ("killed", "starved"))
        if (trial := machine.no_shared_memory(self.folder / "shared")) is not None:
            yield trial
        yield machine.no_locks(part)
        yield from (machine.no_folder(part, number) for number in range(len(part.plan.stages)))
        yield machine.clock_back(part)
        yield machine.other_library(part)
        yield from (disturb.clock_jump(part, draws.randrange(1000)) for _ in range(2))
        yield disturb.read_only(part)
        for share in range(1, 9):
            if not self.late and (trial := disturb.full_disk(part, sum(sizes) * share // 8)) is not None:
                yield trial
        for number in itertools.count():
            if self.late or (trial := disturb.full_at(part, number)) is None:
                break
            yield trial

    def interrupts(self) -> Iterator[Trial]:
        """Ctrl-C and SIGTERM, from the first import to the end."""
        part, full, draws = self.part, self.full, self.draws("interrupts")
        for times in (1, 2):
            yield disturb.interrupt(part, times)
        yield disturb.interrupt(part, 1, number=signal.SIGTERM)
        for times in (1, 2) * 4:
            if not self.late:
                yield disturb.interrupt(full, times, draws.uniform(0, full.seconds))
                yield disturb.interrupt(full, 1, draws.uniform(0, full.seconds), signal.SIGTERM)
        for pressed in machine.foreground(full, self.lines, self.draws("foreground"), 20):
            yield pressed
            if self.late:
                break

    def sweeps(self) -> Iterator[Trial]:
        """Two sweeps over the same runs."""
        if self.jobs:
            yield from disturb.sweeps(self.part, self.lines, self.jobs)
