"""What came first, shown by the repository's history: a registration, then the looks that rest on it.

A registration is a file that is named by its own hash and written once. It is found by its content wherever it was
added, so that a rebase and parallel branches keep the proof; a squash, which puts registration and result into one
commit, does not. Dates are no proof and are not read. Nobody can exclude a private rehearsal. Imports no torch.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from experiments.common.plain import Plain

SAID = ("at", "commit", "dirty", "why", "seen", "by_hand", "filed")  # of a registration, besides hash and stream
FACTS = ("hardware", "versions", "threads", "code")  # of an entry's provenance: they change with what ran alone


@dataclass(frozen=True)
class History:
    """The commits of a checkout. What is looked up for many files is looked up once: see `of`."""

    root: Path

    def git(self, *words: str, told: str = "") -> str | None:
        """What a git command prints that is told something; None where it fails or there is no git."""
        try:
            done = subprocess.run(
                ["git", *words], cwd=self.root, input=told, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    @cached_property
    def unknown(self) -> str:
        """Why order cannot be told here; empty if it can."""
        if self.git("rev-parse", "HEAD") is None:
            return "not a git checkout"
        if self.git("rev-parse", "--show-prefix"):
            return "a folder inside of another repository"
        if self.git("rev-parse", "--is-shallow-repository") == "true":
            return "a shallow clone; git fetch --unshallow brings the rest"
        if self.git("rev-list", "--count", "HEAD") == "1":
            return "a history of one commit, as of a copy"
        return ""

    def missing(self, commits: Sequence[str]) -> set[str]:
        """Of these, what did not lead here: full hashes alone count, since a short one or a branch may come to be.

        A commit of a branch that was made anew may still lie about in this checkout; no other clone has it.
        """
        return set(commits) - self._commits

    @cached_property
    def _commits(self) -> set[str]:
        return set((self.git("rev-list", "HEAD") or "").split())

    def differs(self, first: str, second: str) -> bool:
        """Whether two commits have other files, those below results/ left out."""
        return self.git("diff", "--quiet", first, second, "--", ".", ":(exclude)results") is None

    def is_before(self, first: str, second: str) -> bool:
        """Whether a commit is a strict ancestor of another."""
        return first != second and self.git("merge-base", "--is-ancestor", first, second) is not None

    def versions(self, path: str) -> list[str]:
        """The commits that changed a file below results/, the newest first; on every branch that led here, merges left
        out."""
        return self._changes.get(path, [])

    @cached_property
    def _changes(self) -> dict[str, list[str]]:
        """The commits that changed each file below results/."""
        listed = self.git(
            *("-c", "core.quotePath=false", "log", "--full-history", "--no-merges", "--no-renames", "--name-only"),
            *("--format=commit %H", "--", "results"),
        )
        changes: dict[str, list[str]] = defaultdict(list)
        commit = ""
        for line in (listed or "").splitlines():
            if line.startswith("commit "):
                commit = line.removeprefix("commit ")
            elif line:
                changes[line].append(commit)
        return dict(changes)

    def mentions(self, text: str, path: str) -> list[str]:
        """The commits in which a file began or ceased to hold a text so many times, the newest first."""
        told = "".join(f"{commit}\n" for commit in self.versions(path))
        listed = told and self.git(
            "log", "--no-walk=unsorted", "--format=%H", f"-S{text}", "--stdin", "--", path, told=told
        )
        return listed.split() if listed else []

    def read(self, commit: str, path: str) -> str | None:
        return self.git("show", f"{commit}:{path}")

    def read_each(self, commits: Sequence[str], path: str) -> Iterator[str | None]:
        """A file as it was in each of these commits; None where it was not there."""
        asked = "".join(f"{commit}:{path}\n" for commit in commits).encode()
        done = subprocess.run(
            ["git", "cat-file", "--batch"], cwd=self.root, input=asked, capture_output=True, check=True
        )
        printed = io.BytesIO(done.stdout)
        for _ in commits:
            said = printed.readline().split()
            if said[-1] == b"missing":
                yield None
                continue
            yield printed.read(int(said[-1])).decode()
            printed.readline()


def of(root: Path) -> History:
    """The history of a checkout as it is now; the same object until its HEAD moves."""
    return _history(root, History(root).git("rev-parse", "HEAD"))


@lru_cache(maxsize=4)
def _history(root: Path, head: str | None) -> History:
    return History(root)


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
    """What a record once held and later did not, or held otherwise: settings, registrations, values of seeds, machines.

    Every committed version of the file is compared with the one before it, and the file with the last of them, from
    the first version of format 2 on: this rule is as old as that.

    Args:
        history: of the checkout.
        record: path of the paper's record.
    """
    before: Plain = {}
    commits = list(reversed(history.versions(record)))
    texts = chain(history.read_each(commits, record), [_read(history.root / record)])
    for commit, text in zip([*commits, ""], texts, strict=True):
        after = _entries(text)
        where = f"{record} of {commit[:8]}" if commit else record
        for title, entry in before.items():
            if title not in after:
                yield f"{where}: {title}: its record is gone"
                continue
            for mark in _lost(entry, after[title]):
                yield f"{where}: {title}: registration {mark} is gone from its history"
            yield from (f"{where}: {title}: {line}" for line in _moved(entry, after[title]))
        before = after


def _lost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Registrations of an entry and its history that are neither the present one nor in the history any more."""
    history = [_mark(item) for item in after.get("history", [])]
    lost = [mark[0] for mark in map(_mark, before.get("history", [])) if mark not in history]
    replaced = _mark(before)[:2]
    if replaced not in (_mark(after)[:2], *(mark[:2] for mark in history)):
        lost.append(replaced[0])
    return lost


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _entries(text: str | None) -> Plain:
    """The settings of a record that have a finished look; none of one of an older format."""
    try:
        record: Plain = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    entries = record.get("entries", {}) if record.get("format", 1) > 1 else {}
    return {title: entry for title, entry in entries.items() if entry.get("seeds")}


def _mark(item: Mapping[str, Any]) -> tuple[str, int, int]:
    """What tells an item of a history apart: registration, stream, and how many seeds it had."""
    registered = item.get("registered") or {}
    return str(registered.get("hash")), int(registered.get("stream") or 0), len(item["seeds"])


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What is another one now, while registration and history stayed: then nothing ran that could have changed it."""
    same = _mark({**before, "seeds": []}) == _mark({**after, "seeds": []})
    if not same or len(before.get("history", [])) != len(after.get("history", [])):
        return
    then, now = before.get("registered") or {}, after.get("registered") or {}
    for key in SAID:
        if then.get(key) != now.get(key):
            yield f"its registration's {key} was {then.get(key)!r:.80}, and is {now.get(key)!r:.80}"
    yield from _moved_claim(before, after)
    for name, stage in before.get("stages", {}).items():
        yield from _moved_stage(name, stage, after)
    yield from _moved_tries(before, after)
    if before.get("seeds") == after.get("seeds"):
        yield from _moved_facts(before, after)


def _moved_claim(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The main claim's differences."""
    then, now = (next((claim for claim in entry["claims"] if claim.get("main")), None) for entry in (before, after))
    if then is None or now is None:
        return
    there = dict(zip(now.get("seeds", []), now["per_seed"], strict=False))
    for seed, value in zip(then.get("seeds", []), then["per_seed"], strict=False):
        if seed not in there or not _same(there[seed], value):
            yield f"the recorded difference of seed {seed} was {value}, and is {there.get(seed)}"


def _moved_stage(name: str, stage: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """A stage's values for each seed, whether a claim reads them or not, its times and fingerprints."""
    now = after.get("stages", {}).get(name)
    if now is None:
        yield f"the stage {name} is gone"
        return
    confirmed = (after.get("confirmed") or {}).get(name, {}).get("fingerprint")
    for seed, row in stage.get("runs", {}).items():
        other = now.get("runs", {}).get(seed)
        if other is None:
            yield f"{name} of seed {seed} is gone"
            continue
        if row["fingerprint"] != other["fingerprint"] and confirmed is None:
            yield f"the fingerprint of {name} of seed {seed} was {row['fingerprint']}, and is {other['fingerprint']}"
        then, there = _values(stage, row), _values(now, other)
        if row["fingerprint"] == other["fingerprint"]:
            then |= {key: row.get(key) for key in ("seconds", "cpu_seconds")}
            there |= {key: other.get(key) for key in ("seconds", "cpu_seconds")}
        for metric, value in then.items():
            if metric not in there or not _same(value, there[metric]):
                yield f"{name}/{metric} of seed {seed} was {value}, and is {there.get(metric)}"


def _moved_tries(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What further tries of a seed gave, where an arm was dead."""
    there = {(item["of"], item["attempt"]): item for item in after.get("restarts", [])}
    for item in before.get("restarts", []):
        now = there.get((item["of"], item["attempt"]))
        if now is None:
            yield f"try {item['attempt']} of seed {item['of']} is gone"
        elif now != item:
            yield f"try {item['attempt']} of seed {item['of']} is another one now"


def _moved_facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Where and when the same seeds ran; stages of other claims may have joined, by further commits."""
    then, now = before.get("provenance") or {}, after.get("provenance") or {}
    joined = any(stage.get("runs") and not _runs(before, name) for name, stage in after.get("stages", {}).items())
    for key in FACTS:
        if joined and key == "code" and _commits(then) <= _commits(now):
            continue
        if key in then and then[key] != now.get(key):
            yield f"its {key} was {then[key]!r:.80}, and is {now.get(key)!r:.80}, of the same seeds"


def _runs(entry: Mapping[str, Any], stage: str) -> Plain:
    runs: Plain = (entry.get("stages", {}).get(stage) or {}).get("runs") or {}
    return runs


def _commits(provenance: Mapping[str, Any]) -> set[str]:
    return set(((provenance.get("code") or {}).get("commit") or "").split())


def _values(stage: Mapping[str, Any], row: Mapping[str, Any]) -> Plain:
    return dict(zip(stage["metrics"], row["values"], strict=False))


def _same(a: Any, b: Any) -> bool:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b)):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return bool(a == b)
