"""For the tests of all papers."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _forked_ranks(forked_ranks: None) -> None:
    """Two processes compute what one does: how they begin is tested where it is written."""
