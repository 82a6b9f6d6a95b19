"""`make dashboard`: a paper's W&B workspace and report, from code. Imports neither torch nor W&B before it needs them.

`describe` says as plain data what there is to show; `workspace` and `report` make W&B's objects of it, without a
network; `publish` saves them. Without a login the plain data is written beside the runs instead.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence import assembly, naming, registration, results
from experiments.pages import console, view, wandb_workspace
from experiments.running import loggers
from experiments.running.plan import plan_each

HELP = """\
Send a paper's offline W&B runs and build its W&B workspace and report: claims, published numbers beside ours,
learning curves by stage, pictures, sweeps. Trains nothing. Without a W&B login it writes what it would build.

  python -m experiments.reproduce paper=meal_v2 logger=wandb     records the runs (offline when you are not logged in)
  python -m experiments.commands.dashboard paper=meal_v2   sends them, creates or updates workspace, report
  python -m experiments.commands.dashboard paper=meal_v2 variant=clean logger.project=mine logger.entity=team
  python -m experiments.commands.dashboard paper=all

  logger.project=P   W&B project (default: reprise)
  logger.entity=E    W&B team or user (default: yours)
"""


def main(argv: list[str]) -> int:
    papers = compose.papers() if "paper=all" in argv else [None]
    rest = [a for a in argv if a != "paper=all"]
    for paper in papers:
        _paper(rest if paper is None else [f"paper={paper}", *rest])
    return 0


def _paper(argv: list[str]) -> None:
    request = compose.request(["logger=wandb", *argv])
    config = compose.compose(request.overrides)
    if config.logger.name != "wandb":
        raise InputError(f"logger={config.logger.name}: a dashboard is W&B's; leave logger out")
    request_seeds = registration.check_seeds(config.seeds if config.seeds is not None else [int(config.seed)])
    plans = plan_each(config, request_seeds)
    first = plans[0]
    folder = Path(first.config["runs_dir"]) / first.paper / first.scale
    # What `reproduce` recorded; before that, whatever the runs folder holds.
    entry = results.entry(first.paper, naming.title(first.scale, first.variant))
    if entry is None:
        entry = assembly.build(plans, len(plans), [], {})
    pictures = sorted({path.stem for path in folder.glob("seed=*/*/pictures/*.png")})
    spec = wandb_workspace.describe(first, view.of(entry, first.config), pictures)
    path = folder / (f"dashboard-{first.variant}.json" if first.variant else "dashboard.json")
    addresses = (files.read_json(path) or {}).get("addresses", {})  # of what was created before, to be updated
    files.write_json(path, {**spec, "addresses": addresses})
    runs = offline_runs(folder)
    missing = _offline(first.config["logger"])
    if missing:
        _say_local(first.paper, missing, path, runs)
        return
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise InputError("wandb-workspaces is not installed: pip install 'wandb-workspaces>=0.4,<1'")
    send(runs, spec)
    addresses = wandb_workspace.publish(spec, addresses)
    files.write_json(path, {**spec, "addresses": addresses})
    console.say(*(f"{what}: {address}" for what, address in addresses.items()))


def _offline(config: Mapping[str, Any]) -> str:
    """Why nothing can be sent; empty if it can."""
    if not loggers.logged_in():
        return "not logged in to W&B: run `wandb login` or set WANDB_API_KEY, then call this again"
    if loggers.mode(config) in ("offline", "dryrun", "disabled"):
        return "W&B is switched off here (WANDB_MODE or logger.mode)"
    return ""


def _say_local(paper: str, missing: str, path: Path, runs: Sequence[Path]) -> None:
    page = ROOT / "site" / f"{paper}.html"
    how = "" if runs else "; stages trained with logger=wandb record them"
    console.say(
        missing,
        f"nothing was sent; what it would create: {_short(path)}",
        f"offline runs: {len(runs)} in {_short(path.parent)}{how}",
        *([f"look at them in the terminal: wandb leet run {_short(runs[-1])}"] if runs else []),
        f"local report: {_short(page)}" + ("" if page.exists() else " (not built yet: make report)"),
    )


def _short(path: Path) -> Path:
    """Relative to the project where it is inside it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def offline_runs(folder: Path) -> list[Path]:
    """The offline W&B runs of a paper at a scale: its stages' and its verdicts'."""
    return sorted(folder.glob("seed=*/*/wandb/offline-run-*")) + sorted(folder.glob("verdict*/wandb/offline-run-*"))


def send(runs: Sequence[Path], spec: wandb_workspace.Dashboard) -> None:
    """Upload offline runs that were not uploaded before. Raises RunError when W&B's own command fails."""
    if not runs:
        return
    team = ["--entity", spec["entity"]] if spec["entity"] else []
    command = [sys.executable, "-m", "wandb", "sync", "--project", spec["project"], *team, *map(str, runs)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise RunError(f"`wandb sync` ended with code {code}; its messages are above")


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, composes=True, exits="0 sent or written down, 1 it failed, 2 wrong input"))
