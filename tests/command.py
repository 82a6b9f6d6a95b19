"""A command as a user types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from experiments.common.paths import ROOT


def command(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.<module>`, in the repository's folder."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
