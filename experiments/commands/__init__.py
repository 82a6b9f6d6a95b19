"""One file for each command that a user types; each says in HELP what it is for.

Door: nothing: commands are started, not imported, but by tests and by the entry points beside these rooms.
"""

from __future__ import annotations

import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while libraries are still being imported ends in one line, as it does later (see cli.main)."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted; nothing had begun", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end
