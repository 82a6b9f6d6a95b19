"""Networks that are counted or timed without a run, as a paper's file describes them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from experiments.config.written import CLOSED, Closed, Flag, Node, Text, Whole


@dataclass(frozen=True, config=CLOSED)
class Counted(Closed):
    """How large a network is by the paper's table; judged by building it, without a run."""

    network: Text
    """Where the full recipe describes it: stages.<stage>.module.network."""
    source: Text
    """Table, page or file."""
    parameters: Text | Whole | None = None
    """As printed: 5.3M, 334851."""
    mult_adds: Text | Whole | None = None
    """Of one image, as printed: 564M, 23.8G."""
    input: Sequence[Whole] = ()
    """(C, H, W) of that image."""
    norms: Flag = False
    """Whether norms count as mult-adds, as in the tool that the paper counted with (fvcore)."""
    less: Text | None = None
    """A network whose parameters are taken off."""
    set: Node = field(default_factory=dict)
    """Merged over what is said there, such as a head that the table leaves out."""
    variant: Text | None = None
    """The variant of the full recipe; nothing: the main setting."""
    note: Text = ""
    """What a reader should know of a difference."""

    @model_validator(mode="after")
    def _counts_something(self) -> Counted:
        if self.parameters is None and self.mult_adds is None:
            raise ValueError("expected parameters or mult_adds")
        if self.mult_adds is not None and len(self.input) < 2:
            raise ValueError("mult_adds: expected input as well, such as [3, 224, 224]")
        return self


@dataclass(frozen=True, config=CLOSED)
class Pair(Closed):
    """A network of ours beside an independent one, on the same random input; `make bench` times them."""

    name: Text
    """What the table calls it."""
    ours: Node
    """A `_target_` with its arguments; what it builds takes a batch of images."""
    theirs: Node
    """The same of the independent one."""
    input: Sequence[Whole]
    """(C, H, W)."""
    batch: Whole = 4
    """Images per call."""
