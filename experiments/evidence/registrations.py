"""Registrations as files: `results/registrations/<paper>/<setting>-<hash>.yaml`, one for each, written once.

A file holds all that is fixed before the first seed: claims, resolved recipe, decision rule, tuning, `vary`, what was
tried before, and the identity of the code and the data that its stages reach. Its name is the hash of these, and its
seeds follow from the hash: they cannot be known before everything is fixed. `make register` commits the file alone, so
that the repository's history shows what came first (see order). Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from typing_extensions import TypedDict

from experiments.common import files, overlay
from experiments.common.errors import InputError
from experiments.common.plain import Config
from experiments.config import limits
from experiments.evidence import registration, results, sequences, verdicts
from experiments.evidence.records import Registration
from experiments.evidence.tuning import Tuning, Untuned
from experiments.identity import content, dependencies
from experiments.identity.fingerprint import ENGINE, targets
from experiments.running.plan import Plan, Stage

OF_OVERLAY = "overlay"  # likewise, of a registration in an overlay alone: its name
BOUND = ("claims", "stages", "trainer", "rule", "vary", "tune", "data")  # what a registration binds, besides code


class Tried(TypedDict):
    """A registration of the same setting that came before."""

    hash: str | None
    why: str | None


class About(TypedDict, total=False):
    """What is told beside a registration and enters no hash."""

    at: str
    why: str
    tried: list[Tried]
    tuning: Tuning | Untuned
    commits: dict[str, str | None]  # of an overlay's: those of the suite and of the overlay


@dataclass(frozen=True)
class Filed:
    """A registration's file.

    Attributes:
        paper, setting: what it registers, as meal_v2 and mini+clean.
        hash: of `bound` and `code`.
        bound: what was fixed (BOUND), as plain data.
        code: stage -> identity of the definitions that it reaches.
        about: what is told beside it.
    """

    paper: str
    setting: str
    hash: str
    bound: Config
    code: dict[str, str]
    about: About

    @property
    def path(self) -> Path:
        return folder(self.paper) / f"{self.setting}-{self.hash}.yaml"

    def changed(self, now: Filed) -> list[str]:
        """What of a setting is not as it was registered, in words; nothing if the registration stands."""
        parts = [part for part in (*BOUND, OF_OVERLAY) if self.bound.get(part) != now.bound.get(part)]
        stages = [name for name in now.code if self.code.get(name) != now.code[name]]
        if stages and "stages" not in parts:
            parts.append(f"code of {', '.join(stages)}")
        return parts


def folder(paper: str) -> Path:
    return results.base() / "registrations" / paper


def as_recorded(filed: Filed, digest: str | None = None) -> Registration:
    """What an entry that is recorded under a file says of it.

    Args:
        digest: of claims and recipe (registration.digest), which tells later whether they have changed.
    """
    return Registration(
        hash=filed.hash,
        at=filed.about.get("at"),
        commit=None,
        stream=len(filed.about.get("tried") or []) + 1,
        why=str(filed.about.get("why") or ""),
        filed=True,
        rewritten=[digest] if digest is not None else [],
    )


def describe(setting: str, config: Mapping[str, Any], plan: Plan) -> Filed:
    """The registration of a setting as it is now; nothing is written.

    Args:
        setting: its title, as mini+clean.
        config: resolved for any seed.
        plan: of the same configuration.
    """
    statement = registration.statement(config)
    bound = {
        **statement,
        "rule": [verdicts.RULE, sequences.ALPHA, sequences.G],
        "vary": _plain(config.get("vary") or {}),
        "tune": _plain(config.get("tune") or {}),
        "data": {name: content.digest(stage.data) for name, stage in plan.stages.items()},
    }
    if (extra := overlay.current()) is not None:
        bound[OF_OVERLAY] = extra.name
    code = {name: _code(stage) for name, stage in plan.stages.items()}
    return Filed(plan.paper, setting, _hash(bound, code), _plain(bound), code, {})


def _code(stage: Stage) -> str:
    """The identity of the definitions that a stage reaches, and of the engine's rules."""
    reached = dependencies.identity(tuple(sorted(set(targets([stage.module, stage.data, stage.trainer])))))
    return hashlib.sha256(f"{reached} {ENGINE}".encode()).hexdigest()[:12]


def _hash(bound: Mapping[str, Any], code: Mapping[str, str]) -> str:
    text = json.dumps([bound, code], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """As it is after it was written and read."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def write(filed: Filed) -> Path:
    """Write a registration's file. Raises InputError if it is there: a registration is written once."""
    if filed.path.exists():
        raise InputError(f"{filed.path.name}: this is registered; make reproduce runs it")
    head = {"paper": filed.paper, "setting": filed.setting, "hash": filed.hash, **filed.about}
    text = yaml.safe_dump({**head, **filed.bound, "code": filed.code}, sort_keys=False, width=120, allow_unicode=True)
    note = "# Written by `make register` before the first seed, committed alone, and never changed.\n"
    filed.path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(filed.path, note + text)
    return filed.path


def read(path: Path) -> Filed:
    """A registration's file. Raises InputError if it is damaged or is not what its name says."""
    raw = limits.read(path, str(path))
    try:
        bound = {part: raw[part] for part in (*BOUND, *([OF_OVERLAY] if OF_OVERLAY in raw else []))}
        about = cast(About, {key: raw[key] for key in About.__annotations__ if key in raw})
        filed = Filed(raw["paper"], raw["setting"], raw["hash"], bound, dict(raw["code"]), about)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}); restore it with git") from error
    if _hash(bound, filed.code) != filed.hash or path != filed.path:
        raise InputError(f"{path}: is not what its hash says; a registration is never changed: restore it with git")
    return filed


def all_of(paper: str, setting: str | None = None) -> list[Filed]:
    """The registrations of a paper's setting, or of all its settings, the oldest first."""
    filed = [read(path) for path in sorted(folder(paper).glob("*.yaml"))]
    of_setting = [item for item in filed if setting in (None, item.setting)]
    return sorted(of_setting, key=lambda item: (str(item.about.get("at")), item.hash))


def standing(now: Filed) -> tuple[Filed | None, list[str]]:
    """The newest registration that binds a setting as it is now, or None and what changed since the newest.

    Args:
        now: the setting as it is (see describe).
    """
    filed = all_of(now.paper, now.setting)
    for item in reversed(filed):
        if not item.changed(now):
            return item, []
    return None, filed[-1].changed(now) if filed else []
