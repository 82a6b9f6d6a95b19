"""What came first, shown by the repository's history: a registration, then the looks that rest on it.

A registration is a file that is named by its own hash and written once. It is found by its content wherever it was
added, so that a rebase and parallel branches keep the proof; a squash, which puts registration and result into one
commit, does not. Dates are no proof and are not read. Nobody can exclude a private rehearsal. Imports no torch.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class History:
    """The commits of a checkout."""

    root: Path

    def git(self, *words: str) -> str | None:
        """What a git command prints; None where it fails or there is no git."""
        try:
            done = subprocess.run(["git", *words], cwd=self.root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def unknown(self) -> str:
        """Why order cannot be told here; empty if it can."""
        if self.git("rev-parse", "HEAD") is None:
            return "not a git checkout"
        if self.git("rev-parse", "--is-shallow-repository") == "true":
            return "a shallow clone; git fetch --unshallow brings the rest"
        return ""

    def exists(self, commit: str) -> bool:
        return self.git("cat-file", "-e", f"{commit}^{{commit}}") is not None

    def is_before(self, first: str, second: str) -> bool:
        """Whether a commit is a strict ancestor of another."""
        return first != second and self.git("merge-base", "--is-ancestor", first, second) is not None

    def versions(self, path: str) -> list[str]:
        """The commits that changed a file, the newest first; on every branch that led here, merges left out."""
        listed = self.git("log", "--full-history", "--no-merges", "--format=%H", "--", path)
        return listed.split() if listed else []

    def mentions(self, text: str, path: str) -> list[str]:
        """The commits in which a file began or ceased to hold a text so many times, the newest first."""
        listed = self.git("log", "--full-history", "--no-merges", "--format=%H", f"-S{text}", "--", path)
        return listed.split() if listed else []

    def read(self, commit: str, path: str) -> str | None:
        return self.git("show", f"{commit}:{path}")


def problems(history: History, registered: str, record: str, digest: str, title: str) -> Iterator[str]:
    """What is wrong with the order of a registration and its looks; nothing if it is right.

    Args:
        history: of the checkout.
        registered: path of the registration's file in the repository.
        record: path of the paper's record.
        digest: the registration's hash.
        title: the entry that was recorded under it.
    """
    changes = history.versions(registered)
    if not changes:
        yield f"{registered} is in no commit"
        return
    added = changes[-1]
    if len(changes) > 1:
        yield f"{registered} was changed in {changes[0][:8]} after it was written; a registration is written once"
    looks = [c for c in history.mentions(digest, record) if _holds_look(history.read(c, record), title, digest)]
    if not looks and _holds_look(history.read("HEAD", record), title, digest):
        yield f"{record}: {title}: its results came with a merge alone; no commit says when"
    for look in looks:
        if look == added:
            yield f"{record}: {title}: commit {look[:8]} holds registration and results alike, as after a squash"
        elif not history.is_before(added, look):
            yield f"{record}: {title}: its results of {look[:8]} do not follow the registration of {added[:8]}"


def _holds_look(text: str | None, title: str, digest: str) -> bool:
    """Whether a record held results of an entry under a registration."""
    try:
        entry: Any = json.loads(text or "{}").get("entries", {}).get(title) or {}
    except json.JSONDecodeError:
        return False
    return bool(entry.get("seeds")) and entry.get("registered", {}).get("hash") == digest
