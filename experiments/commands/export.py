"""`make export`: a finished stage's weights with a card, or a paper's recorded numbers as tables.

A folder of weights holds a safetensors file for the stage and for each stage it needs, `stages.json` from which `load`
builds the modules again, and README.md, a model card; where the network is one of timm's, `timm/` in timm's format.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError, unknown
from experiments.common.plain import Config, Plain
from experiments.config import compose
from experiments.evidence import results
from experiments.evidence.records import Entry
from experiments.pages import console, index, latex, view
from experiments.running.manifest import Manifest, finished
from experiments.running.plan import PILOTS, Plan, Stage, fill, names_in, only, plan

if TYPE_CHECKING:
    from torch import Tensor

    from modules.common.module import StageModule

HELP = """\
Take what was trained, or what was recorded, somewhere else.

  python -m experiments.commands.export paper=meal_v2 stage=student   weights of a finished stage, a model card
  python -m experiments.commands.export paper=meal_v2                 the record as tables: claims.csv and metrics.csv
  python -m experiments.commands.export paper=meal_v2 format=latex    the same as claims.tex and metrics.tex (booktabs)
  python -m experiments.commands.export paper=all format=latex        every recorded main claim: main_claims.tex

  stage=S            whose weights; `make papers` and the paper's file name them
  seed=N             of the run; default: the first registered one that has finished the stage, else the lowest
  format=csv         of tables: csv or latex
  to=FOLDER          default: exports/<paper>-<scale>-<stage>, or exports/<paper> for tables; must not exist yet

From Python:  from experiments.commands.export import load; module = load("exports/meal_v2-mini-student").eval()

"""
OWN = ("stage", "seed", "to", "format")  # what this command takes besides what all take


def main(argv: list[str]) -> int:
    own, others = cli.take(argv, OWN)
    if "format" in own and own["format"] not in FORMATS:
        raise unknown("format", own["format"], FORMATS)
    if "paper=all" in others:
        return _export_all(own)
    request = compose.request(others)
    config = compose.compose(request.overrides)
    if "stage" not in own:
        if "seed" in own:
            raise InputError("seed= chooses a run's weights: name a stage too, stage=S")
        folder = _fresh(own.get("to") or f"exports/{config.key}")
        return _say_each(tables(str(config.key), folder, own.get("format", "csv")))
    if "format" in own:
        raise InputError(f"format={own['format']}: is of tables; weights of a stage have one format, leave stage= out")

    this = _finished_run(config, own["stage"], own.get("seed"))
    setting = f"{this.paper}-{this.scale}" + (f"-{this.variant}" if this.variant else "")
    folder = _fresh(own.get("to") or f"exports/{setting}-{own['stage']}")
    return _say_each(weights(this, own["stage"], folder))


def _say_each(paths: Iterable[Path]) -> int:
    for path in paths:
        console.say(str(path))
    return 0


def _export_all(own: Mapping[str, str]) -> int:
    """Every recorded main claim in one table."""
    for name in ("stage", "seed"):
        if name in own:
            raise InputError(f"{name}={own[name]}: is of one paper's weights; name the paper, as in paper=meal_v2")
    from experiments.pages import report

    rows = report.main_claims()
    folder = _fresh(own.get("to") or "exports/all")
    if own.get("format", "csv") == "latex":
        return _say_each([_write(folder / "main_claims.tex", latex.main_claims(rows).encode())])
    return _say_each([_write(folder / "main_claims.csv", index.as_csv(rows).encode())])


def _fresh(name: str) -> Path:
    folder = Path(name)
    if folder.exists():
        raise InputError(f"to={folder}: it is there already; name another folder")
    return folder


def registered_first(seeds: Iterable[int]) -> list[int]:
    """From low to high, pilots and what was chosen by hand last: a record is of the others."""
    return sorted(seeds, key=lambda seed: (seed < PILOTS, seed))


def _finished_run(config: Any, stage: str, seed: str | None) -> Plan:
    """The run whose stage is exported, cut to what that needs."""
    if seed is not None and not seed.isdigit():
        raise InputError(f"seed={seed}: expected a whole number")
    this = plan(config, 0)
    if stage not in this.stages:
        raise unknown("stage", stage, this.stages)

    runs = next(iter(this.stages.values())).directory.parent.parent
    there = registered_first(int(p.name.removeprefix("seed=")) for p in runs.glob("seed=*") if p.name[5:].isdigit())
    for number in [int(seed)] if seed is not None else there:
        run = only(plan(config, number), [stage])
        if all(finished(item) is not None for item in run.stages.values()):
            return run
    which = f"seed {seed} has" if seed is not None else f"no seed in {runs} has"
    raise InputError(f"{which} finished {stage} as it is configured now; run make reproduce PAPER={this.paper} first")


# Weights


def weights(this: Plan, name: str, folder: Path) -> Iterator[Path]:
    """Write a finished stage and what it needs into a new folder; the files, as they appear."""
    from safetensors.torch import save

    from experiments.running import training

    needed = _with_modules(this, name)
    for stage in needed:
        module = training.load(this, stage.name)
        state = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
        yield _write(folder / f"{stage.name}.safetensors", save(state))
        if stage.name == name and (network := _as_timm(module, folder / "timm")):
            yield network
    described = {
        "paper": this.paper,
        "scale": this.scale,
        "variant": this.variant,
        "seed": this.seed,
        "stage": name,
        "stages": [_rebuilt(stage) for stage in needed],
    }
    yield _write(folder / "stages.json", (json.dumps(described, indent=1) + "\n").encode())
    yield _write(folder / "README.md", card(this, name, folder).encode())


def _with_modules(this: Plan, name: str) -> list[Stage]:
    """The stage and those whose modules its module is built from, in the order they are built."""
    wanted = {name}
    for stage in reversed(this.stages.values()):
        if stage.name in wanted:
            wanted.update(names_in(stage.needs))
    return [stage for stage in this.stages.values() if stage.name in wanted]


def _rebuilt(stage: Stage) -> Config:
    """What `load` builds the module from: no data, no path of this machine's, and weights from the files alone."""
    config = {**stage.config(), "data": {}, "trainer": {}, "feeds": {}, "dry": {}}
    return {**config, "module": _without_downloads(stage.module)}


def _without_downloads(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: False if k == "pretrained" and v is True else _without_downloads(v) for k, v in config.items()}
    return [_without_downloads(value) for value in config] if isinstance(config, list) else config


def _write(path: Path, content: bytes) -> Path:
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _as_timm(module: StageModule, folder: Path) -> Path | None:
    """The network for timm.create_model("local-dir:<folder>"); None where it is none of timm's."""
    network: Any = getattr(module, "network", None)
    if not hasattr(network, "pretrained_cfg"):
        return None
    from timm.models import save_for_hf

    save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def load(folder: str | Path) -> StageModule:
    """The module of an exported stage with its weights, on the CPU.

    Raises InputError naming the file that is missing or does not fit.
    """
    from experiments.running import training

    folder = Path(folder)
    described = files.read_json(folder / "stages.json")
    if not isinstance(described, dict) or "stages" not in described:
        raise InputError(f"{folder / 'stages.json'}: missing or damaged; expected a folder that this command wrote")
    built: dict[str, StageModule] = {}
    for item in described["stages"]:
        stage = Stage(**item)
        module = training.construct_from(stage, fill(stage.needs, built.__getitem__))
        path = folder / f"{stage.name}.safetensors"
        try:
            module.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
        built[stage.name] = module
    return built[described["stage"]]


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file of tensors by name. Raises InputError where it is missing or something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error


def card(this: Plan, name: str, folder: Path) -> str:
    """A model card: what this is, its metrics (also as a model index), where it comes from, how to load it."""
    stage = this.stages[name]
    manifest = finished(stage)
    assert manifest is not None
    tested = {key: value for key, value in manifest["metrics"].items() if key.startswith("test/")}
    code = manifest["code"]
    version = f"`{str(code['commit'] or 'not known')[:12]}`" + (" with changes" if code["dirty"] else "")
    model = f"{this.title.replace('/', '-').replace('+', '-')}-{name}"
    head = {
        "library_name": "pytorch",
        "license": "mit",
        "tags": ["reprise", this.paper],
        "model-index": [{"name": model, "results": [_indexed(manifest, tested)]}],
    }
    rows = "\n".join(f"| `{key}` | {console.number(value)} |" for key, value in tested.items())
    source = f"[arXiv {this.config['arxiv']}](https://arxiv.org/abs/{this.config['arxiv']})"
    path = folder / "timm"
    timm = f'\n\nThe network alone: `timm.create_model("local-dir:{path}", pretrained=True)`.' if path.exists() else ""
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---
# {model}

{stage.about}. Stage `{name}` of [{this.title}], a re-run of *{this.config["title"]}* ({source}) by Reprise.

| metric of the test set | value |
|---|---|
{rows}

| from | |
|---|---|
| seed | {this.seed}{"" if this.seed >= PILOTS else ", a pilot's or one chosen by hand: no record is of it"} |
| fingerprint | `{stage.fingerprint}` |
| finished | {manifest["finished"]} |
| code | {version} |
| data | {_dataset(manifest)} |

```python
from experiments.commands.export import load  # in an installation of Reprise

module = load("{folder}").eval()
```{timm}
""".replace(f"[{this.title}]", f"`{this.title}`")


def _dataset(manifest: Manifest) -> str:
    data = manifest.get("data")
    return data["name"] if data else "not said"


def _indexed(manifest: Manifest, tested: Mapping[str, float]) -> Plain:
    """One result of a model index: task, dataset, metrics."""
    task = "image-classification" if "test/top1" in tested else "other"
    name = _dataset(manifest)
    metrics = [
        {"type": "accuracy" if key == "test/top1" else key.removeprefix("test/"), "name": key, "value": value}
        for key, value in tested.items()
    ]
    return {"task": {"type": task}, "dataset": {"type": name.casefold(), "name": name}, "metrics": metrics}


# Tables

FORMATS = ("csv", "latex")
CLAIM = ("entry", "claim", "main", "verdict", "better", "than", "unit", "low", "high", "seed", "difference")
METRIC = ("entry", "stage", "metric", "seed", "value")


def tables(paper: str, folder: Path, kind: str = "csv") -> Iterator[Path]:
    """Write the record of a paper as claims and metrics: csv has a row for each seed, latex the means."""
    record = results.read(paper)
    if record is None:
        raise InputError(f"results/{paper}.json: there is no record yet; run make reproduce PAPER={paper}")
    if kind == "latex":
        source = f"results/{paper}.json"
        yield _write(folder / "claims.tex", latex.claims(source, record.entries).encode())
        yield _write(folder / "metrics.tex", latex.metrics(source, record.entries).encode())
        return
    entries = record.entries.items()
    yield _table(folder / "claims.csv", CLAIM, (row for name, entry in entries for row in _claims(name, entry)))
    yield _table(folder / "metrics.csv", METRIC, (row for name, entry in entries for row in _metrics(name, entry)))


def _table(path: Path, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Path:
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def _claims(name: str, entry: Entry) -> Iterator[tuple[Any, ...]]:
    for item in entry.claims:
        claim = view.claim(item)
        for shown in (claim, *claim.rows):
            about = claim.name if shown is claim else f"{claim.name}: {shown.name}"
            told = (name, about, claim.main, shown.verdict, shown.better, shown.than, shown.unit)
            low, high = shown.interval or (None, None)
            for seed, difference in zip(shown.seeds, shown.per_seed, strict=False):
                yield (*told, low, high, seed, difference)


def _metrics(name: str, entry: Entry) -> Iterator[tuple[Any, ...]]:
    for stage, item in entry.stages.items():
        for metric, values in item.metrics.items():
            for seed, value in zip(entry.seeds, values, strict=True):
                if value is not None:
                    yield name, stage, metric, seed, value


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, composes=True))
