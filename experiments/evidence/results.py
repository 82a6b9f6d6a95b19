"""results/<key>.json and runs/<key>/<scale>/summary.json: what `reproduce` writes and everything else reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError
from typing_extensions import TypedDict

from experiments.common import files, overlay
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.common.tables import read_rows
from experiments.config import claims, compose, expressions
from experiments.config.comparisons import Claim
from experiments.evidence import layout, record_old, registration, restarts, rules, verdicts
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.part import first_mistake
from experiments.evidence.ran import Code, Curve, Dataset, Hardware, Provenance, StageRecord
from experiments.evidence.records import FORMAT, Entry, Record, Registration
from experiments.identity.provenance import code_version, hardware, versions
from experiments.running.manifest import Manifest, finished
from experiments.running.plan import Plan

RESULTS = ROOT / "results"  # the suite's; `base` says where records are now
RESTARTED = ("restarted", "still_dead", "without_restarts")  # of a claim, where an arm was dead
POINTS = 60  # a stored curve has at most about this many
LOCAL = {  # of one machine or one command; they change no number
    "jobs",
    "data_dir",
    "runs_dir",
    "launcher",
    "logger",
    "checkpoint_seconds",
    "minutes",
    "most",
    "why",
    "from_record",
    "record",
    "explore",
    "trainer",
}
MOST_BYTES = 2**26  # of one file


def title(scale: str, variant: str | None, by_hand: bool = False, data: str | None = None) -> str:
    """An entry's name among a paper's, as mini+clean or mini+data=my_photos."""
    return "+".join(filter(None, [scale, variant, data and f"data={data}"])) + (" by hand" if by_hand else "")


def title_of(entry: Entry) -> str:
    """The name that an entry has to have."""
    return title(entry.scale, entry.variant, entry.registered.by_hand, data_of(entry))


def data_of(entry: Entry) -> str | None:
    """What stood in place of the paper's own data, if anything did."""
    return next((line.removeprefix("data=") for line in entry.overrides if line.startswith("data=")), None)


def is_recorded(scale: str) -> bool:
    """Whether a scale's verdicts say anything of a paper; smoke runs only show that everything works."""
    return scale != "smoke"


def personal(overrides: Sequence[str]) -> list[str]:
    """Of what the user gave, what makes it another run than the registered one."""
    where = place(overrides)
    keys = {line: _key(line) for line in overrides if line not in where}
    return [line for line, key in keys.items() if key not in LOCAL and not key.startswith(("logger.", "launcher."))]


def place(overrides: Sequence[str]) -> list[str]:
    """Of what the user gave, where it runs: the trainer and its devices."""
    names = {"trainer", *(f"trainer.{key}" for key in registration.PLACE)}
    return [line for line in overrides if _key(line) in names]


def _key(line: str) -> str:
    return line.lstrip("+").split("=")[0]


def build(
    plans: Sequence[Plan],
    looked: int,
    overrides: Sequence[str],
    reasons: Mapping[str, str],
    registered: Registration | None = None,
    tries: Mapping[int, Sequence[Plan]] | None = None,
    recorded: Mapping[str, StageRecord] | None = None,
) -> Entry:
    """Everything known about one (paper, scale, variant), from the records of its runs, judged.

    Args:
        plans: one per seed, all stages each.
        looked: seeds, from the first, that every stage ran for; later ones may have some stages alone.
        overrides: what the user gave beyond paper, scale and variant.
        reasons: stage -> why it did not finish, for those that did not.
        registered: under what the seeds ran; None where whoever ran them chose them.
        tries: by seed, further ones with all stages of the main claim, where an arm was dead.
        recorded: stages whose numbers come from a record of the same seeds instead of from runs, see `of_seeds`.
    """
    first = plans[0]
    known = recorded or {}
    stages = {name: known.get(name) or _stage(plans, name, looked, reasons.get(name, "")) for name in first.stages}
    variant = (first.config.get("variants") or {}).get(first.variant, {}) if first.variant else {}
    entry = Entry(
        scale=first.scale,
        variant=first.variant,
        about=variant.get("about", ""),
        seeds=[p.seed for p in plans],
        looked=looked,
        overrides=personal(overrides),
        place=place(overrides),
        registered=registered or registration.by_hand(first.config),
        claims=[],
        checks=[],
        published=[],
        stages=stages,
        provenance=_provenance(plans, stages),
        restarts=restarts.gather(tries or {}),
        history=[],
        elsewhere=[],
    )
    questions = claims.read(first.config)
    asked_by_image = [claim for claim in questions.claims if rules.RULES[claim.kind].by_image]
    by_image = {claim.name: image_outcomes(claim, first) for claim in asked_by_image}
    return judge(entry, questions, by_image)


def _stage(plans: Sequence[Plan], name: str, looked: int, failed: str) -> StageRecord:
    """One stage over all seeds; without metrics where a seed of the first look did not finish."""
    stage = plans[0].stages[name]
    manifests = [finished(p.stages[name]) for p in plans]
    done = [m for m in manifests if m is not None]
    first: Mapping[str, Any] = done[0] if done else {}
    names = list(dict.fromkeys(metric for m in done for metric in m["metrics"]))
    complete = all(m is not None for m in manifests[:looked])

    cpu_seconds = [m.get("cpu_seconds") if m else None for m in manifests]
    return StageRecord(
        about=stage.about,
        fit=stage.fit,
        needs=stage.predecessors,
        fingerprints=[p.stages[name].fingerprint if m else None for p, m in zip(plans, manifests, strict=True)],
        metrics={n: [m["metrics"].get(n) if m else None for m in manifests] for n in names} if complete else {},
        failed=failed,
        seconds=[m["seconds"] if m else None for m in manifests],
        cpu_seconds=cpu_seconds if any(value is not None for value in cpu_seconds) else [],
        epochs=stage.trainer.get("max_epochs") if stage.fit else None,
        parameters=first.get("parameters"),
        precision=first.get("precision"),
        batch=first.get("batch"),
        learning_rates=first.get("learning_rates"),
        peak_memory_mb=first.get("peak_memory_mb"),
        switches=first.get("switches") or [],
        data=Dataset(**first["data"]) if first.get("data") else None,
        content=first.get("content") or "",
        under=under(done),
        curves=_curves(plans, name) if stage.fit and complete else {},
    )


def of_seeds(stage: StageRecord, positions: Sequence[int]) -> StageRecord:
    """What is recorded of a stage for some of an entry's seeds, by their positions in it; without curves."""
    per_seed = {name: [getattr(stage, name)[i] for i in positions] for name in ("fingerprints", "seconds")}
    per_seed["cpu_seconds"] = [stage.cpu_seconds[i] for i in positions] if stage.cpu_seconds else []
    metrics = {name: [values[i] for i in positions] for name, values in stage.metrics.items()}
    return stage.model_copy(update={**per_seed, "metrics": metrics, "curves": {}})


def under(manifests: Iterable[Manifest]) -> list[str]:
    """The registrations that manifests name, or `none`; nothing of those from before they named any."""
    return sorted({str(m["registered"] or "none") for m in manifests if "registered" in m})


def times(stages: Mapping[str, StageRecord]) -> tuple[float, float | None]:
    """Seconds of all stages and seeds: by the wall clock, and of CPU time, None unless it was measured everywhere."""
    seconds = round(sum(stage.total_seconds() for stage in stages.values()), 1)
    ran = any(value is not None for stage in stages.values() for value in stage.seconds)

    cpu = [stage.total_cpu_seconds() for stage in stages.values()]
    measured = [value for value in cpu if value is not None]
    if not ran or len(measured) < len(cpu):
        return seconds, None
    return seconds, round(sum(measured), 1)


def image_outcomes(claim: Claim, plan_: Plan) -> rules.Outcomes | None:
    """The differences of single images that two fixed networks make; None where a stage left no outcomes."""
    import numpy as np

    def array(metric: expressions.Metric) -> Any:
        path = plan_.stages[metric.stage].directory / "artifacts" / f"{metric.name.replace('/', '-')}.npy"
        try:
            return np.load(path, allow_pickle=False).astype(float)
        except (OSError, ValueError) as error:
            raise expressions.Missing(str(error)) from error

    try:
        better, than = (expressions.over_images(side, array) for side in claim.expression())
        values, counts = np.unique(np.round(better - than, 9), return_counts=True)
    except (expressions.Missing, ValueError):
        return None
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def judge(
    entry: Entry, questions: claims.Questions, outcomes: Mapping[str, rules.Outcomes | None] | None = None
) -> Entry:
    """An entry with its claims, checks and published numbers judged anew, from its metrics.

    Args:
        outcomes: claim -> the differences of single images, of kind "images".
    """
    values, seeds = entry.table(), entry.seeds
    by_image = outcomes or {}
    judged = [
        restarts.judge(claim, values, seeds, entry.looked, entry.restarts, by_image.get(claim.name))
        for claim in questions.claims
    ]
    return entry.model_copy(
        update={
            "claims": verdicts.find(judged),
            "checks": [verdicts.check(item, values, seeds[: entry.looked]) for item in questions.checks],
            "published": [verdicts.compare(item, values, seeds, entry.scale) for item in questions.published],
        }
    )


def seal(entry: Entry) -> str:
    """A hash of all that an entry states, so that an edit by hand is noticed; whoever wants to forge it can."""
    stated = {key: value for key, value in layout.arrange(entry).items() if key != "seal"}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def check_seals(recorded: Mapping[str, Entry], where: str) -> None:
    """Raises InputError for an entry that is not what was written: nothing may be built on it, or seal it anew."""
    for name, entry in recorded.items():
        if entry.seal != seal(entry):
            raise InputError(f"{where}: {name}: the entry was edited after it was written; restore it with git")


def _curves(plans: Sequence[Plan], stage: str) -> dict[str, Curve]:
    """Mean, smallest and largest value over seeds, by epoch, for every logged metric that people look at."""
    runs = [read_rows(p.stages[stage].directory / "metrics.csv") for p in plans]
    names = [
        n for n in dict.fromkeys(k for rows in runs for row in rows for k in row) if n not in ("epoch", "train/lr")
    ]
    curves: dict[str, Curve] = {}
    for name in names:
        if name.endswith("/n") or name in ("val/top5", "val/ece"):
            continue
        by_epoch: dict[float, list[float]] = {}
        for rows in runs:
            for row in rows:
                if name in row:
                    by_epoch.setdefault(row["epoch"], []).append(row[name])
        epochs = sorted(by_epoch)
        epochs = sorted({*epochs[:: max(1, len(epochs) // POINTS)], *epochs[-1:]})
        curves[name] = Curve(
            epoch=epochs,
            mean=[round(sum(by_epoch[e]) / len(by_epoch[e]), 4) for e in epochs],
            low=[round(min(by_epoch[e]), 4) for e in epochs],
            high=[round(max(by_epoch[e]), 4) for e in epochs],
        )
    return curves


def _provenance(plans: Sequence[Plan], stages: Mapping[str, StageRecord]) -> Provenance:
    """When, with which code and on what the stages were trained: from their records, so that reading them again
    changes nothing. Several commits if there were several; dirty if any was."""
    manifests = [m for p in plans for s in p.stages.values() if (m := finished(s)) is not None]
    if not manifests:
        return _nowhere()
    latest = max(manifests, key=lambda m: m["finished"])
    commits = sorted({commit for m in manifests if (commit := m["code"]["commit"])})
    dirty = any(m["code"]["dirty"] is not False for m in manifests)
    seconds, cpu_seconds = times(stages)
    return Provenance(
        written=latest["finished"],
        code=Code(commit=" ".join(commits) or None, dirty=dirty),
        versions=_versions(manifests),
        hardware=Hardware(**latest["hardware"]),
        threads=latest.get("threads"),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )


def _versions(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Of each package the version that stages ran with; several, the latest first, where it was replaced meanwhile."""
    met: dict[str, list[str]] = {}
    for manifest in sorted(manifests, key=lambda m: str(m["finished"]), reverse=True):
        for name, version in manifest["versions"].items():
            met.setdefault(name, []).append(version)
    return {name: " and ".join(dict.fromkeys(versions)) for name, versions in met.items()}


def _nowhere() -> Provenance:
    """Of an entry of which nothing has run: this moment, this code, this machine."""
    return Provenance(
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        code=Code(**code_version()),
        versions=versions(),
        hardware=Hardware(**hardware()),
        seconds=0.0,
    )


# --- the record ------------------------------------------------------------------------------------------------------


def base() -> Path:
    """The folder of records: the open overlay's, or else the suite's."""
    return RESULTS if overlay.current() is None else overlay.home() / "results"


def here() -> Path:
    """Where a run leaves what it found for a setting that is recorded: beside the record, and not in the repository."""
    return base() / "here"


def read(paper: str, folder: Path | None = None) -> Record | None:
    """A paper's results file; None when it was never run.

    Raises InputError naming file, entry and key where it is damaged.
    """
    path = (folder or base()) / f"{paper}.json"
    if not path.is_file():
        return None
    record = parse(path)
    if record.key != paper:
        raise InputError(f"{path}: expected the record of {paper}, not of {record.key}; restore it with git")
    return record


def parse(path: Path) -> Record:
    """A record of any format. Raises InputError naming file, entry and key where it is damaged, OSError without it."""
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}; restore it with git")
    try:
        value = layout.from_text(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {str(error)[:80]}); restore it with git") from error
    if not isinstance(value, dict) or not isinstance(value.get("entries"), dict):
        raise InputError(f"{path}: expected a paper's record with its entries; restore it with git")

    found = value.get("format", 1)
    if found not in (1, FORMAT):
        raise InputError(f"{path}: format={found!r}: expected {FORMAT}, or 1 of an older record; restore it with git")
    try:
        record = Record.model_validate(layout.read(value) if found == FORMAT else record_old.read(value))
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}; restore it with git") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; restore it with git") from error
    if found == 1:
        for name, entry in record.entries.items():
            if record_old.is_sealed(value["entries"][name]):
                entry.seal = seal(entry)
    return record


def entries(paper: str, folder: Path | None = None) -> dict[str, Entry]:
    """What is recorded of a paper: setting -> entry. Raises InputError where the file is damaged."""
    record = read(paper, folder)
    return record.entries if record is not None else {}


def entry(paper: str, name: str, folder: Path | None = None) -> Entry | None:
    """What is recorded of one setting. Raises InputError where the file is damaged."""
    return entries(paper, folder).get(name)


class Told(TypedDict):
    """What a record repeats of its paper's file, for those who read the record alone."""

    key: str
    title: str
    arxiv: str | None
    about: str
    deviations: list[dict[str, str | int | float | bool | None]]


def told(paper: str) -> Told:
    """What a paper's record says of its file."""
    content = compose.paper_file(paper)
    return {
        "key": paper,
        "title": content["title"],
        "arxiv": content.get("arxiv"),
        "about": content.get("about") or "",
        "deviations": content.get("deviations") or [],
    }


def tell_again(paper: str) -> None:
    """Bring what a record repeats of its paper's file up to date; its entries stay as they are."""
    with _locked(paper) as path:
        record = read(paper)
        again = told(paper)
        if record is not None:
            check_seals(record.entries, str(path))
        if record is not None and again != {key: getattr(record, key) for key in again}:
            files.write_text(path, layout.text(Record(**again, entries=record.entries)))


@contextlib.contextmanager
def _locked(paper: str, folder: Path | None = None) -> Iterator[Path]:
    """A record's file, which no other process writes meanwhile."""
    path = (folder or base()) / f"{paper}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink()  # of a process that was killed while it wrote
        yield path


def update(paper: str, name: str, change: Callable[[Entry | None], Entry], folder: Path | None = None) -> Path:
    """Read a paper's record, let `change` make the entry `name` anew from the present one, and write it, under a lock.

    Raises InputError if the file that is there is damaged or was edited: nothing is overwritten then.
    """
    with _locked(paper, folder) as path:
        everything = dict(entries(paper, folder))
        check_seals(everything, str(path))
        before = everything.get(name)
        after = change(before)
        if before is not None and after == before:
            return path

        everything[name] = after.model_copy(update={"seal": seal(after)})
        record = Record(**told(paper), entries=dict(sorted(everything.items())))
        files.write_text(path, layout.text(record))
    return path


def write_summary(entry: Entry, plan_: Plan) -> Path:
    """The short form that stands beside the runs."""
    name = "-".join(filter(None, ["summary", plan_.variant, plan_.config.get("data_name")])) + ".json"
    path = Path(plan_.config["runs_dir"]) / plan_.paper / plan_.scale / name
    short = {
        "paper": plan_.paper,
        "scale": entry.scale,
        "variant": entry.variant,
        "seeds": entry.seeds,
        "stages": {name: stage.metrics for name, stage in entry.stages.items()},
        "claims": [_short(claim) for claim in entry.claims],
        "checks": [item.model_dump() for item in entry.checks],
        "published": [item.model_dump() for item in entry.published],
    }
    files.write_json(path, short)
    return path


def _short(claim: JudgedClaim) -> Plain:
    """Of a claim what the short form tells: rivals, outcomes and counted seeds only where there are any."""
    told = {"name", "main", "verdict", "difference", "interval", "per_seed", "reason"}
    several = {key for key in ("against", "parts", "requires_each", *RESTARTED) if getattr(claim, key)}
    return claim.model_dump(include=told | several)
