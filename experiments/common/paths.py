"""Where the project's folders lie. Imports nothing, so that every room may ask."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
