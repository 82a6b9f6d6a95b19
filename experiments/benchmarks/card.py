"""Measures one thing of a graphics card: a smoke run, a stage's steps, a network beside another one, a switch."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import asked
from experiments.benchmarks.alternate import alternate
from experiments.benchmarks.asked import Item
from experiments.common.errors import InputError, RunError
from experiments.common.plain import Config
from experiments.config import compose, switches
from experiments.config.instantiate import build
from experiments.evidence import hardware
from experiments.evidence.hardware import Beside, Failed, Refusal, Smoke, Steps, Switch
from experiments.identity.provenance import cores
from experiments.running import engine, pace, preconditions, training
from experiments.running.dry import DryRun, Measured
from experiments.running.pace import Pace
from experiments.running.plan import Plan, Stage, only, plan

Found = Refusal | Smoke | Steps | Beside | Switch | Failed
TOLERANCES = {"32-true": 1e-3, "bf16-mixed": 3e-2}  # bf16 has 8 bits: 4e-3 for one rounding, more over some steps
SECONDS = 2.0  # for which steps of each size are timed
ROUNDS = 5
LARGER = 8  # times the images of a pair, which are meant for a processor


def measure(item: Item, accelerator: str) -> Found:
    """What came of one item. Raises whatever it meets.

    Args:
        accelerator: gpu, or cpu as a stand-in.
    """
    training.quiet()
    torch.set_num_threads(min(8, cores()))
    try:
        if item.part == "refusal":
            return refusal(accelerator)
        if item.part == "smoke":
            return smoke(item.paper, accelerator, item.how)
        if item.part == "steps":
            return steps(item.paper, item.what, accelerator, item.how)
        if item.part == "beside":
            return beside(item.paper, item.what, accelerator, item.how)
        return switch(item.paper, item.what, accelerator, item.how)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def refusal(accelerator: str) -> Refusal:
    """Ask for one process more than there are cards, and for two on the first. Raises RunError if that is taken."""
    more = torch.cuda.device_count() + 1 if accelerator == "gpu" else max(2, cores()) + 1
    reasons = []
    for devices in (more, [0, 0]):
        lines = ["paper=rotnet", "scale=smoke", f"trainer={accelerator}", f"trainer.devices={devices}"]
        this = plan(compose.compose(compose.request(lines).overrides), 0)
        try:
            preconditions.check([this])
        except InputError as error:
            reasons.append(str(error))
        else:
            raise RunError(f"trainer.devices={devices} was not refused")
    return Refusal(reasons=reasons)


def smoke(paper: str, accelerator: str, precision: str) -> Smoke:
    """A smoke run on the card beside the processor's. Raises RunError for a stage that failed on one of them."""
    reference = _on_processor(paper)
    on_card = _run(paper, accelerator, precision)
    return hardware.compare(reference, on_card, TOLERANCES[precision])


@lru_cache(maxsize=1)
def _on_processor(paper: str) -> dict[str, float]:
    return _run(paper, "cpu", "32-true")


def _run(paper: str, accelerator: str, precision: str) -> dict[str, float]:
    """stage/metric -> value of a smoke run's last seed, what measures time left out."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"paper={paper}", "scale=smoke", f"trainer={accelerator}", f"runs_dir={folder}"]
        written = plan(compose.compose(compose.request(lines).overrides), 0)
        this = _with_precision(written, precision)
        outcomes = engine.run(this)
    failed = [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.status != "done"]
    if failed:
        raise RunError(f"on {accelerator} in {precision}: {failed[0]}")
    timing = {name for name, stage in this.stages.items() if stage.exclusive}
    return {
        f"{name}/{metric}": value
        for name, outcome in outcomes.items()
        if name not in timing
        for metric, value in outcome.metrics.items()
    }


def _with_precision(this: Plan, precision: str) -> Plan:
    """Every stage at this precision that does not ask for one of its own."""
    usual = this.config["trainer"]["precision"]
    stages = {
        name: replace(stage, trainer={**stage.trainer, "precision": precision})
        if stage.trainer["precision"] == usual
        else stage
        for name, stage in this.stages.items()
    }
    return replace(this, stages=stages)


def steps(paper: str, name: str, accelerator: str, precision: str) -> Steps:
    """A stage of the full recipe, at the published batch or the largest that fits. Raises RunError if it fails."""
    measured = _timed(paper, name, {"accelerator": accelerator, "precision": precision})
    assert isinstance(measured.pace, Pace)
    return Steps(
        batch=measured.pace.batch,
        published=measured.batch,
        step=measured.pace.step,
        load=measured.pace.load,
        beside=measured.pace.beside,
        memory=measured.pace.memory,
        memory_published=measured.pace.memory_published,
        steps=measured.steps,
        hours=measured.pace.hours(measured.batch, measured.steps),
        real=measured.pace.real,
        at_least=measured.pace.shortened,
    )


def switch(paper: str, name: str, accelerator: str, key: str) -> Switch:
    """A stage's step with a switch beside the same without, both at the largest batch that fits without.

    matmul_precision concerns fp32 and is measured there; the others in bf16.
    """
    precision = "32-true" if key == "matmul_precision" else "bf16-mixed"
    trainer: Config = {"accelerator": accelerator, "precision": precision}
    off = _timed(paper, name, trainer)
    assert isinstance(off.pace, Pace)
    on = _timed(paper, name, {**trainer, key: "high" if key == "matmul_precision" else True}, off.pace.batch)
    assert isinstance(on.pace, Pace)
    return Switch(
        batch=off.pace.batch,
        off=off.pace.step,
        on=on.pace.step,
        memory_off=off.pace.memory,
        memory_on=on.pace.memory,
    )


def _timed(paper: str, name: str, trainer: Mapping[str, Any], batch: int | None = None) -> Measured:
    """A stage after those that it needs, its steps timed. Raises RunError with the reason if they could not be.

    Args:
        batch: images per step; nothing: as many as are published or fit.
    """
    this = only(asked.full(paper), [name])
    stage = this.stages[name]
    stage = replace(stage, trainer={**stage.trainer, "devices": 1, "strategy": "auto", **trainer})
    if batch is not None:
        stage = replace(stage, data={**stage.data, "batch_size": batch})
    if stage.trainer.get("fused"):
        stage = replace(stage, module=switches.fused(stage.module))
    with tempfile.TemporaryDirectory() as folder:
        this = replace(this, stages={key: _placed(each, folder) for key, each in {**this.stages, name: stage}.items()})
        measured = DryRun(this, SECONDS, [name], batch).run(lambda event: None)
    failed = [f"{key}: {told}" for key, told in measured.items() if isinstance(told, str)]
    if failed:
        raise RunError(failed[-1])
    result = measured[name]
    assert isinstance(result, Measured)
    if not isinstance(result.pace, Pace):
        raise RunError(result.pace or "it takes no step")
    return result


def _placed(stage: Stage, folder: str) -> Stage:
    place = Path(folder) / stage.name
    place.mkdir()
    return replace(stage, directory=place)


def beside(paper: str, name: str, accelerator: str, precision: str) -> Beside:
    """A training step of both networks of a pair, or inference where one is frozen, in turns."""
    pair = next(pair for pair in asked.pairs(paper) if pair.name == name)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    batch = pair.batch * (LARGER if accelerator == "gpu" else 1)
    both = [build(config, f"bench {name}").to(device) for config in (pair.theirs, pair.ours)]
    x = torch.randn(batch, *pair.input, device=device)
    trains = all(any(p.requires_grad for p in network.parameters()) for network in both)
    one = _train if trains else _infer
    theirs, ours = alternate(ROUNDS, [partial(one, network, x, precision) for network in both])
    what = "training step" if trains else "inference"
    return Beside(what=what, batch=batch, theirs=statistics.median(theirs), ours=statistics.median(ours))


def _train(network: Any, x: torch.Tensor, precision: str) -> float:
    """Seconds of forward, backward and an SGD update."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    began = _now()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = network(x).float().square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return _now() - began


def _infer(network: Any, x: torch.Tensor, precision: str) -> float:
    network.eval()
    began = _now()
    with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        network(x)
    return _now() - began


def _now() -> float:
    """A GPU works on what it was asked for a while ago: it is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def describe(accelerator: str) -> tuple[str, int]:
    """Name and bytes of the card, or of the processor that stands in. Raises InputError if there is no card."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "this machine has no usable GPU; accelerator=cpu tries the same on the processor, into runs/hardware"
        )
    return pace.device_name({"accelerator": accelerator}), pace.free_memory()
