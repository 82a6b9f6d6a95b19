"""Tests; a package, so that processes that a test starts find its module."""
