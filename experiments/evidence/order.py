"""What came first, shown by the repository's history: a registration, then the looks that rest on it.

A registration is a file that is named by its own hash and written once. It is found by its content wherever it was
added, so that a rebase and parallel branches keep the proof; a squash, which puts registration and result into one
commit, does not. Dates are no proof and are not read. Nobody can exclude a private rehearsal. Imports no torch.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
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
        if self.git("rev-list", "--count", "HEAD") == "1":
            return "a history of one commit, as of a copy"
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


def losses(history: History, record: str) -> Iterator[str]:
    """What a record once held and later did not: settings, what stays of earlier registrations, recorded differences.

    Every committed version of the file is compared with the one before it, and the file with the last of them, from
    the first version of format 2 on: this rule is as old as that.

    Args:
        history: of the checkout.
        record: path of the paper's record.
    """
    before: dict[str, Any] = {}
    for commit in [*reversed(history.versions(record)), ""]:
        text = history.read(commit, record) if commit else _read(history.root / record)
        after = _entries(text)
        where = f"{record} of {commit[:8]}" if commit else record
        for title, entry in before.items():
            if title not in after:
                yield f"{where}: {title}: its record is gone"
                continue
            kept = [_mark(item) for item in after[title].get("history", [])]
            lost = [mark[0] for mark in map(_mark, entry.get("history", [])) if mark not in kept]
            replaced = _mark(entry)[:2]
            if replaced not in (_mark(after[title])[:2], *(mark[:2] for mark in kept)):
                lost.append(replaced[0])
            yield from (f"{where}: {title}: registration {mark} is gone from its history" for mark in lost)
            yield from (f"{where}: {title}: {line}" for line in _moved(entry, after[title]))
        before = after


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _entries(text: str | None) -> dict[str, Any]:
    """The settings of a record that have a finished look; none of one of an older format."""
    try:
        record: dict[str, Any] = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    entries = record.get("entries", {}) if record.get("format", 1) > 1 else {}
    return {title: entry for title, entry in entries.items() if entry.get("seeds")}


def _mark(item: Mapping[str, Any]) -> tuple[str, int, int]:
    """What tells an item of a history apart: registration, stream, and how many seeds it had."""
    registered = item.get("registered") or {}
    return str(registered.get("hash")), int(registered.get("stream") or 0), len(item["seeds"])


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Differences of the main claim that are others now, while registration and history stayed."""
    same = _mark({**before, "seeds": []}) == _mark({**after, "seeds": []})
    if not same or len(before.get("history", [])) != len(after.get("history", [])):
        return
    then, now = (next((claim for claim in entry["claims"] if claim.get("main")), None) for entry in (before, after))
    if then is None or now is None:
        return
    there = dict(zip(now.get("seeds", []), now["per_seed"], strict=False))
    for seed, value in zip(then.get("seeds", []), then["per_seed"], strict=False):
        if seed not in there or not math.isclose(there[seed], value, rel_tol=1e-9, abs_tol=1e-9):
            yield f"the recorded difference of seed {seed} was {value}, and is {there.get(seed)}"
