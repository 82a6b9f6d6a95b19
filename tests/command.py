"""A command as a user types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from experiments.common.paths import ROOT
from tests.preloaded import server


def command(module: str, *arguments: str, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.<module>`, in the repository's folder or that of a copy."""
    return server().run([f"experiments.{module}", *arguments], root, {**os.environ, **environment})
