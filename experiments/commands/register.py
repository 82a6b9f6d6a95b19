"""`make register`: fix claims, recipe, rule, code and data of a setting in a commit, before the first seed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from experiments.commands import cli
from experiments.common import overlay
from experiments.common.errors import InputError
from experiments.common.overlay import home
from experiments.common.paths import ROOT
from experiments.common.plain import Config
from experiments.config import claims, compose, unfilled, vary
from experiments.evidence import naming, registration, registrations, restarts, results, tuning
from experiments.evidence.registrations import About, Filed, Tried
from experiments.evidence.tuning import Tuning, Untuned
from experiments.identity import definitions, dependencies
from experiments.identity.fingerprint import targets
from experiments.identity.provenance import commits
from experiments.running import preconditions
from experiments.running.plan import SEEDS, Plan, plan

HELP = """\
Fix a setting before its first seed: claims, resolved recipe, decision rule, tuning, the ranges of
its replication, and the identity of code and data. All of it goes into one file, named by its
hash, results/registrations/K/<setting>-<hash>.yaml, which is committed alone. The seeds follow
from the hash. `make reproduce` then runs these seeds and records them; without a registration it
explores.

  python -m experiments.commands.register paper=meal_v2
  python -m experiments.commands.register paper=meal_v2 variant=clean why='the loss lacked a term'

  why='...'          why it is registered anew: one sentence, required once the setting has a
                     record or an earlier registration
  runs_dir=FOLDER    the folder of runs; a registration whose seeds were already run there is
                     refused

Four things must be so: code and configuration are committed, git knows an author, no merge or
rebase is under way, and the paper's files have no place left that is marked FILL IN (`make new`
writes such marks).
"""


def main(argv: list[str]) -> int:
    request = compose.request(argv)
    if not naming.is_recorded(request.scale):
        raise InputError(f"scale={request.scale}: smoke runs say nothing about a paper; register mini or full")
    if personal := naming.personal(request.given):
        raise InputError(f"{personal[0]}: a registration is of what conf/ says; write it there, or run it by hand")
    config = compose.compose(request.overrides)
    resolved = compose.resolve(config, 0)
    plan_ = plan(config, 0)
    if request.data is not None and not _may_register(request.data):
        raise InputError(f"data={request.data}: not one of the suite's; extra=FOLDER registers it in a folder of yours")
    unfilled.check(home(), request.paper, request.scale)
    _check_knobs(config, resolved, request.paper)
    setting = naming.title(request.scale, request.variant, data=request.data)
    filed = registrations.describe(setting, resolved, plan_)
    tuned = _tuned(request.paper, setting, resolved)
    about: About = {**_told(filed, config.why), "tuning": tuned}
    filed = replace(filed, about=about)

    _check_is_new(filed, Path(config.runs_dir))
    preconditions.check([plan_])
    if claims.read(plan_.config).main is None:
        raise InputError(f"conf/paper/{filed.paper}.yaml: this setting has no main claim; nothing is there to register")
    _check_checkout(filed, plan_)

    path = registrations.write(filed)
    try:
        _commit(filed, path)
    except InputError:
        path.unlink()
        raise
    first = registration.seed(registrations.as_recorded(filed), 0)
    print(f"registered: {path.relative_to(home())}, seeds {first}, {first + 1}, ...")
    variant = f" VARIANT={request.variant}" if request.variant else ""
    scale = f" SCALE={request.scale}" if request.scale != "mini" else ""
    data = f" DATA={request.data}" if request.data else ""
    print(f"next:       make reproduce PAPER={filed.paper}{scale}{variant}{data}{overlay.typed()}")
    return 0


def _check_knobs(config: DictConfig, resolved: Config, paper: str) -> None:
    """Raises InputError where the grid could not be tried again, or a replication could not draw its recipes, which
    would be known only after recording."""
    grid = tuning.read(resolved)
    if grid is not None and not grid.none:
        vary.put(config, grid.keys, grid.values[0], compose.groups(paper), "tune")
    knobs = vary.read(resolved)
    if knobs:
        plan(vary.turn(config, knobs, vary.draw(knobs, "", 0), compose.groups(paper)), 0)


def _may_register(data: str) -> bool:
    """Whether a record on this data has a place: the suite's records are of the suite's data."""
    return overlay.current() is not None or (ROOT / "conf" / "data" / f"{data}.yaml").is_file()


def _told(filed: Filed, why: Any) -> About:
    """When, why, and what was tried before. Raises InputError where a reason is asked for and none is given."""
    earlier = registrations.all_of(filed.paper, filed.setting)
    tried: list[Tried] = [{"hash": item.hash, "why": item.about.get("why")} for item in earlier]
    entry = results.entry(filed.paper, filed.setting)
    if entry is not None and entry.seeds:
        recorded = [*(item.registered for item in entry.history), entry.registered]
        before: list[Tried] = [{"hash": item.hash, "why": item.why} for item in recorded if not item.filed]
        tried = [*before, *tried]
    if tried and not why:
        raise InputError(
            f"{filed.paper}/{filed.setting}: {len(tried)} registrations of it came before; say in one sentence why "
            "another is needed, as in why='the loss lacked a term'"
        )
    at = datetime.now(UTC).isoformat(timespec="seconds")
    about: About = {"at": at, "why": str(why or "the first registration"), "tried": tried}
    if overlay.current() is not None:
        about["commits"] = commits()
    return about


def _tuned(paper: str, setting: str, config: Config) -> Tuning | Untuned:
    """What the arms were tuned on. Raises InputError where nothing says it."""
    grid = tuning.read(config)
    where = f"conf/recipe/{paper}"
    if grid is None:
        raise InputError(f"{where}: says nothing of tuning; expected tune: {{arms, keys, values}} or {{none: why}}")
    if grid.none:
        return {"none": grid.none}
    table = tuning.stored(paper, setting)
    if table is None:
        raise InputError(f"{where}: tune: was not run yet; make tune PAPER={paper} comes before a registration")
    parts = Tuning.__annotations__
    if lacking := [key for key in parts if key not in table]:
        raise InputError(f"{tuning.path(paper, setting)}: {lacking[0]} is missing; restore it with git or tune again")
    return cast(Tuning, {key: table[key] for key in parts})


def _check_is_new(filed: Filed, runs: Path) -> None:
    """Raises InputError if this is registered, or if one of its seeds was run before."""
    if filed.path.exists():
        raise InputError(f"{filed.path.relative_to(home())}: this is registered; make reproduce runs it")
    scale = filed.setting.partition("+")[0]
    registered = registrations.as_recorded(filed)
    first = [registration.seed(registered, index) for index in range(SEEDS)]
    further = [again for seed in first for again in restarts.seeds(seed)]
    for seed in [*first, *further]:
        if (folder := runs / filed.paper / scale / f"seed={seed}").exists():
            raise InputError(
                f"{folder}: seed {seed} of this registration was run before it was registered; change what is wrong "
                "in the recipe, which gives other seeds, or remove the runs and say so in why"
            )


def _check_checkout(filed: Filed, plan_: Plan) -> None:
    """Raises InputError unless git can commit here, now, and what the registration rests on is committed."""
    if _git("rev-parse", "HEAD") is None:
        raise InputError(
            f"{home()}: not a git checkout with a commit: a registration is a commit; run `git init` and commit first"
        )
    if prefix := _git("rev-parse", "--show-prefix"):
        raise InputError(f"{home()}: lies at {prefix} of another repository; expected one of its own: git init")
    if _git("rev-parse", "HEAD", root=ROOT) is None:
        raise InputError(f"{ROOT}: not a git checkout: a registration names the commit of the suite beside its own")
    for name, what in (("MERGE_HEAD", "a merge"), ("rebase-merge", "a rebase"), ("rebase-apply", "a rebase")):
        if (home() / (_git("rev-parse", "--git-path", name) or "")).exists():
            raise InputError(f"{what} is under way; finish it first: git status says how")
    if _git("var", "GIT_AUTHOR_IDENT") is None:
        raise InputError("git knows no author: git config user.name '...' and git config user.email '...'")
    changed: list[str] = []
    for root in dict.fromkeys((ROOT, home())):
        below = sorted(str(path.relative_to(root)) for path in _rests_on(filed, plan_) if path.is_relative_to(root))
        changed += (_git("status", "--porcelain", "--", *below, root=root) or "").splitlines()
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputError(
            f"{changed[0][3:]}{more} is not committed, and the registration would rest on it; commit it first"
        )


def _rests_on(filed: Filed, plan_: Plan) -> set[Path]:
    """Configuration and the files of the definitions that the stages reach, the suite's and an overlay's."""
    nodes: list[Any] = [[stage.module, stage.data, stage.trainer] for stage in plan_.stages.values()]
    reached = dependencies.reach(tuple(sorted(set(targets(nodes)))))
    code = {definitions.file_of(definition.module) for definition in reached}
    conf = {
        f"conf/paper/{filed.paper}.yaml",
        f"conf/recipe/{filed.paper}",
        "conf/data",
        "conf/config.yaml",
        "conf/scale",
    }
    paths = {ROOT / name for name in conf} | {path for path in code if path is not None}
    extra = overlay.current()
    return paths | ({extra.conf, extra.folder / "overlay.yaml"} if extra is not None else set())


def _commit(filed: Filed, path: Path) -> None:
    """Commit the one file, whatever else is staged. Raises InputError with git's own words."""
    name = str(path.relative_to(home()))
    message = f"Register {filed.paper}, {filed.setting}: {filed.about['why']}"
    for words in (["add", "--", name], ["commit", "--quiet", "--only", "-m", message, "--", name]):
        done = subprocess.run(["git", *words], cwd=home(), capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["git", "reset", "--quiet", "--", name], cwd=home(), check=False)
            told = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(f"git {words[0]} failed: {told[-1] if told else 'no reason given'}")


def _git(*words: str, root: Path | None = None) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root or home(), capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, composes=True, exits="0 registered, 2 it cannot be"))
