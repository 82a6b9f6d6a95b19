"""What ran, as a record holds it: stages with their numbers, and with which code and on what machine. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from experiments.evidence.part import MOST_ITEMS, MOST_SEEDS, Names, Part, Seeds, Values


class Code(Part):
    """Of one commit, or of several in one text; dirty where files differed from it, None where git did not say."""

    commit: str | None
    dirty: bool | None


class Hardware(Part):
    cpu: str
    cores: int
    system: str
    gpus: Names = []


class Provenance(Part):
    """When, with what code and on what machine the stages of an entry ran.

    Attributes:
        threads: of one stage.
        seconds: of all stages and seeds together, by the wall clock.
        cpu_seconds: likewise, of all their processes' CPU time; None where a stage's was not measured.
    """

    written: str
    code: Code
    versions: dict[str, str]
    hardware: Hardware
    threads: int | None = None
    seconds: float
    cpu_seconds: float | None = None


class Joined(Part):
    """Seeds that ran on another machine than the first ones.

    Attributes:
        place: as of an entry: the trainer and its devices that were asked for.
    """

    seeds: Seeds
    hardware: Hardware
    versions: dict[str, str]
    place: Names = []


class Confirmation(Part):
    """A recorded seed of one stage that later code gave anew, to the last bit.

    Attributes:
        fingerprint: of the stage with the later code.
        numbers: how many were compared.
        against: where the record's machine was another one, the commit whose code gave the numbers on this `cpu`.
    """

    fingerprint: str
    numbers: int
    seed: int
    commit: str | None
    at: str
    against: str | None = None
    cpu: str | None = None


class Dataset(Part):
    name: str
    source: str
    identity: str
    split: str
    sizes: dict[str, int]


class Curve(Part):
    """A logged metric by epoch, over seeds: lists of one length."""

    epoch: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    mean: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    low: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    high: Annotated[list[float], Field(max_length=MOST_ITEMS)]

    @model_validator(mode="after")
    def _fits(self) -> Curve:
        if len({len(self.epoch), len(self.mean), len(self.low), len(self.high)}) > 1:
            raise ValueError("epoch, mean, low and high: expected lists of one length")
        return self


class StageRecord(Part):
    """One stage over an entry's seeds.

    Attributes:
        fingerprints, seconds, cpu_seconds: one for each seed of the entry; None where the stage did not run or, of
            CPU time, where it was not measured.
        metrics: name -> one value for each seed; empty where a seed of the first look did not finish.
        failed: why a seed did not finish; may be empty.
        batch: global, devices and reference.
        peak_memory_mb: MiB.
        content: a hash of its data files; empty where it reads none.
        under: hashes of the registrations under which its seeds ran, as their manifests say, or `none` for a run
            without; empty where they ran before manifests said so.
    """

    about: str
    fit: bool
    needs: Names
    fingerprints: Annotated[list[str | None], Field(max_length=MOST_SEEDS)]
    metrics: Annotated[dict[str, Values], Field(max_length=MOST_ITEMS)]
    failed: str = ""
    seconds: Values
    cpu_seconds: Values = []
    epochs: int | None
    parameters: int | None
    precision: str | None
    batch: dict[str, int | None] | None
    learning_rates: list[float] | None
    peak_memory_mb: int | None
    switches: Names = []
    data: Dataset | None
    content: str = ""
    under: Names = []
    curves: dict[str, Curve]

    def total_seconds(self) -> float:
        """Of all seeds, by the wall clock."""
        return sum(value for value in self.seconds if value is not None)

    def total_cpu_seconds(self) -> float | None:
        """Of all seeds; None unless it was measured wherever the stage ran."""
        ran = [value is not None for value in self.seconds]
        measured = [value is not None for value in self.cpu_seconds] or [False] * len(ran)
        return sum(value for value in self.cpu_seconds if value is not None) if ran == measured else None
