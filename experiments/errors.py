"""The two ways a command ends badly, and the suggestion that goes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """The request cannot be run: a wrong name, value, path or file. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """A correct request failed while it ran: a NaN loss, a full disk, an exception in a stage. Exit code 1."""

    exit_code = 1


def unknown(what: str, name: str, options: Iterable[str]) -> InputError:
    """One line that names the wrong name, the nearest valid one and (when short) all of them."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    ending = f"; did you mean {close[0]!r}?" if close else "."
    listed = ", ".join(options) if options else "none"
    if len(listed) > 300:
        listed = listed[:300] + " ..."
    return InputError(f"{what} {name!r} does not exist{ending} Valid: {listed}")
