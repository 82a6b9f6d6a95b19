"""An exception that ends a stage or a command: one line for people, and its whole trace in a file."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from experiments.common import errors, files

NAME = "failure.txt"  # in a stage's folder, until the stage is done


def explain(error: BaseException, path: Path) -> tuple[str, int]:
    """errors.explain(), the trace written to `path`; the line says so where the trace tells more than the line."""
    reason, code = errors.explain(error)
    try:
        files.write_text(path, "".join(traceback.format_exception(error)))
    except OSError:  # on a full disk there is no room for the trace either; the reason is shown
        return reason, code
    where = "" if errors.is_foreseen(error) else f"; whole trace: {os.path.relpath(path)}"
    return reason + where, code
