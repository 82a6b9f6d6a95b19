"""Where text becomes HTML: the one place that pages and figures share. Imports no torch."""

from __future__ import annotations

import html
from typing import Any

from experiments.common.text import visible


def escape(text: str) -> str:
    """A text as HTML shows it, also within an attribute's quotes."""
    return html.escape(visible(text))


def finalize(value: Any) -> Any:
    """What a template shows of a value, before it escapes it: no character acts; what is HTML already stays."""
    return visible(value) if type(value) is str else value
