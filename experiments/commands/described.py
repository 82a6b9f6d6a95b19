"""What the catalog tells of a paper and of its recorded settings: the keys of `make papers --json`. No torch."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class Published(TypedDict):
    """What the paper reports of its main claim."""

    difference: float
    source: str


class Compared(TypedDict):
    """A comparison with a rival, or one of several outcomes."""

    name: str
    verdict: str
    difference: float | None
    interval: list[float] | None
    unit: str


class Main(Compared):
    """A main claim as it was judged; `rows` where it has rivals or several outcomes."""

    reason: str
    published: Published | None
    margin: float
    worth: float | None
    within: float | None
    rows: NotRequired[list[Compared]]


class Setting(TypedDict):
    """A recorded setting."""

    scope: str
    main: Main | None
    verdicts: dict[str, str]  # by claim
    published: dict[str, str]  # <stage>/<metric> -> verdict
    seeds: int  # of the main claim
    ran: int
    seconds: float
    cpu_seconds: float | None
    metrics: list[str]
    registered: str | None
    seen: bool
    stale: list[str]  # the main claim's stages that changed since
    stale_beside: list[str]  # other stages that changed since, or were not run
    replication: str | None
    kept: bool | None  # beside the other papers' verdicts; None where that is not asked


class Variant(TypedDict):
    """A variant that the paper's file names."""

    scale: str
    about: str


class Configured(TypedDict):
    """What a paper's configuration says of it."""

    key: str
    title: str
    arxiv: str | None
    about: str
    main: str | None
    claims: list[str]
    stages: list[str]
    variants: dict[str, Variant]


class Covered(TypedDict):
    """A table, figure or claim of the paper, by which scales it is asked, and whether that was run."""

    what: str
    run: dict[str, bool]
    why: str
    told: str


class Paper(Configured):
    """All that is told of a paper."""

    finding: str
    covers: list[Covered]
    covered: str
    entries: dict[str, Setting]
