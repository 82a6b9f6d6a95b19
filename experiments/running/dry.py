"""A stage built at its own size: two steps on generated data, and what a real run would take, by real batches.

A stage's `dry` (experiments.config.stages.Shortened) says what may be cut because it only repeats: images per step,
steps, and arguments of its module or data such as the number of samples to draw. Sizes of networks and inputs stay as
published. Where a loop ends by what was learnt, `as_trained` lets it go as far with untrained weights, so that hours
are those of trained ones. Stages whose modules are built alike (whatever their rates), of predecessors that are, and
get batches alike compute the same: the first takes the steps, and the others make their batches. One that feeds another
takes its own.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden

from datamodules.common.base import DataModule, Fed
from experiments.common import failure
from experiments.common.errors import RunError
from experiments.config.instantiate import build
from experiments.config.recipes import merge
from experiments.config.stages import Shortened
from experiments.config.written import read
from experiments.running import evaluating, needs, pace, process_memory, readings, training
from experiments.running.counting import multiply_adds, offline
from experiments.running.engine import Outcome
from experiments.running.manifest import Report
from experiments.running.pace import Pace
from experiments.running.plan import Plan, Stage, fill, names_in
from modules.common.module import StageModule

LONGEST = 60.0  # seconds, and 20 times as long as a training is timed for: then it is given up
BYTES = 16  # of a parameter in training: itself, its gradient, and Adam's two moments
RATES = ("lr", "weight_decay")  # what scales a step: whatever they are, it executes the same
MOST_GARBAGE = 2**29  # bytes by which the process may grow before all objects are looked through, which takes long


@dataclass(frozen=True)
class Measured:
    """What a stage is and what its steps took.

    Attributes:
        parameters, frozen: of its own, and of the stages that it is given.
        mult_adds: of one image through the forward pass, in 1e9.
        shape: of an image.
        batch, steps: of a real run; no step where nothing is fitted.
        images: that a real training sees.
        pace: how fast real batches train, or why that was not measured; empty where nothing is fitted.
        evaluation: hours of a real run's test and validations, or why that was not measured.
    """

    fit: bool
    parameters: int
    frozen: int
    mult_adds: float
    shape: tuple[int, ...]
    batch: int
    steps: int
    images: int
    pace: Pace | str
    evaluation: float | str

    @property
    def hours(self) -> float | None:
        """Of a real run on the device at hand: of its training, and of its tests where they are known."""
        known = [self.evaluation] if isinstance(self.evaluation, float) else []
        if self.steps and not isinstance(self.pace, Pace):
            return None
        if isinstance(self.pace, Pace):
            known.append(self.pace.hours(self.batch, self.steps))
        return sum(known) if known else None

    @property
    def at_least(self) -> bool:
        """Whether a real run takes longer than `hours`: its training was cut, or its test is not known."""
        return (isinstance(self.pace, Pace) and self.pace.shortened) or isinstance(self.evaluation, str)

    @property
    def operations(self) -> float:
        """Of a real training: three passes of the multiply-adds for each image, two operations each."""
        return 3 * 2 * 1e9 * self.mult_adds * self.images


@dataclass(frozen=True)
class _Taken:
    """What the steps of a stage came to, for those that would take the same."""

    mult_adds: float
    state: Mapping[str, Any]  # of its module; nothing where it trains nothing


class DryRun:
    """The stages of a plan, one after another, with what they need of each other.

    Args:
        seconds: for which each training is timed; 0 times none.
        timed: the stages that are timed; nothing: all of them.
        smallest: images per step with which timing begins; nothing: as many as a dry run steps with.
        tests: whether tests and validations are timed too.

    Attributes:
        stages: those that the recipe fits or tests and what these need.
    """

    def __init__(
        self,
        plan: Plan,
        seconds: float = 0.0,
        timed: Collection[str] | None = None,
        smallest: int | None = None,
        tests: bool = False,
    ) -> None:
        self.short = {name: read(Shortened, item.dry, f"stages.{name}.dry") for name, item in plan.stages.items()}
        self.stages = part_of_the_recipe(plan)
        self.seconds = seconds
        self.timed = self.stages if timed is None else timed
        self.smallest = smallest
        self.tests = tests
        self._built: dict[str, StageModule] = {}
        self._made_of: dict[str, str] = {}
        for name, stage in self.stages.items():
            self._made_of[name] = self._made(stage)
        self._feeding = {name for stage in self.stages.values() for name in names_in(stage.feeds)}
        self._left = Counter(self._made_of.values())  # stages that are not measured yet
        self._taken: dict[str, dict[str, _Taken]] = {}  # by what a module is made of, by its batches

    def run(self, report: Report) -> dict[str, Measured | str]:
        """What was measured of each stage, or why it failed; events go to `report` as of a real run."""
        process_memory.keep_freed_blocks()
        resident = process_memory.resident()
        measured: dict[str, Measured | str] = {}
        users = Counter(needed for stage in self.stages.values() for needed in stage.predecessors)
        for name, stage in self.stages.items():
            report({"event": "start", "seed": stage.seed, "stage": name})
            trace = stage.directory / f"dry-{failure.NAME}"
            try:
                measured[name] = self._measure(stage, self.short[name])
                trace.unlink(missing_ok=True)
                report(Outcome(name, "done").event(stage.seed))
            except Exception as error:  # noqa: BLE001 - every stage is reported, whatever breaks in one
                measured[name] = reason = failure.explain(error, trace)[0]
                report(Outcome(name, "failed", reason=reason).event(stage.seed))
            self._left[self._made_of[name]] -= 1
            if not self._left[self._made_of[name]]:
                self._taken.pop(self._made_of[name], None)
            users.subtract(stage.predecessors)
            for unused in [built for built in self._built if not users[built]]:
                del self._built[unused]  # published sizes: all at once may not fit
            if self.seconds or process_memory.resident() > resident + MOST_GARBAGE:
                gc.collect()  # trainers and modules refer to each other: without this the last stage stays in memory
                process_memory.give_back_freed_blocks()
                resident = process_memory.resident()
        gc.collect()
        process_memory.give_back_freed_blocks()
        return measured

    def _measure(self, stage: Stage, short: Shortened) -> Measured:
        partners = fill(stage.needs, self._built.__getitem__)
        generated = self._generated(stage, short)
        sizes = self._sizes(stage)
        module = training.construct_from(
            replace(stage, module=offline(merge(_timed(stage, short), short.module))), partners
        )
        if stage.reference_batch:  # as a real run of so few images; at the rate of 1,600 two steps may end in NaN
            module.lr_scale = short.batch / stage.reference_batch
        self._built[stage.name] = module

        mult_adds = self._steps(stage, short, module, generated)
        spec = generated.spec
        batch = stage.data["batch_size"]
        epochs = (stage.trainer.get("max_epochs") or 0) if stage.fit else 0
        most = (stage.trainer.get("max_steps") or 0) if stage.fit else 0
        paced = self._time(stage, short, module) if epochs or most > 0 else ""
        epoch = paced.epoch if isinstance(paced, Pace) and paced.real else sizes["train"]
        steps = math.ceil(epoch / batch) * epochs
        if most > 0:
            steps = min(steps or most, most)
        own = {id(p) for p in module.parameters()}
        members = [self._built[name] for name in names_in(stage.needs)]
        return Measured(
            fit=stage.fit,
            parameters=sum(p.numel() for p in module.parameters()),
            frozen=sum(p.numel() for member in members for p in member.parameters() if id(p) not in own),
            mult_adds=mult_adds,
            shape=spec.shape,
            batch=batch,
            steps=steps,
            images=sizes["train"] * epochs or steps * batch,
            pace=paced,
            evaluation=self._time_tests(stage, short, module, paced.batch if isinstance(paced, Pace) else batch),
        )

    def _steps(self, stage: Stage, short: Shortened, module: StageModule, data: DataModule) -> float:
        """Train and test a stage for a few steps, or take those of one that is alike; its multiply-adds in 1e9."""
        taken = self._taken.setdefault(self._made_of[stage.name], {})
        alone = stage.name in self._feeding or not (taken or self._left[self._made_of[stage.name]] > 1)
        batches = stage.name if alone else _batches(stage, short, module, data)
        same = taken.get(batches)
        if same is None:
            _step(stage, short, module, data)
            mult_adds = multiply_adds(module, *module.example(data.spec.shape)) / 1e9
            same = taken[batches] = _Taken(mult_adds, module.state_dict() if stage.fit else {})
        elif stage.fit:
            module.load_state_dict(same.state)  # as what needs it gets it of a real run
        return same.mult_adds

    def _made(self, stage: Stage) -> str:
        """A hash of what a stage's module and those before it are built of here, and of its steps: equal for two that
        differ in their data alone, in weights that a dry run does not fetch, or in how far an optimiser goes."""
        steps = [stage.fit, stage.test, stage.reference_batch, asdict(self.short[stage.name])]
        before = [fill(wiring, self._made_of.__getitem__) for wiring in (stage.needs, stage.feeds)]
        text = json.dumps([_without_rates(offline(stage.module)), steps, before], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _time(self, stage: Stage, short: Shortened, module: StageModule) -> Pace | str:
        """How fast a stage trains, or why that is not known. What fails at a larger batch is no failed dry run."""
        if not self.seconds or stage.name not in self.timed:
            return "not asked for"
        there = _data_is_there(stage)
        data_at = self._data_at(stage, short, there)
        cut = bool(short.data) and not there
        reason = ""
        for shortened in (False, True) if short.module else (False,):
            try:
                with pace.within(LONGEST + 20 * self.seconds):
                    timed = module if shortened or not short.module else self._whole(stage, short)
                    smallest = self.smallest or short.batch
                    return pace.measure(stage, timed, data_at, self.seconds, smallest, there, shortened or cut)
            except Exception as error:  # noqa: BLE001 - it was built and stepped; why its hours are not known is told
                reason = _first_line(error)
        return reason

    def _time_tests(self, stage: Stage, short: Shortened, module: StageModule, batch: int) -> float | str:
        """The hours of a stage's test and validations with nothing cut, or why they are not known."""
        if not (self.tests and self.seconds and stage.name in self.timed):
            return "not asked for"
        there = _data_is_there(stage)
        if short.data and not there:
            return "a dry run cuts its data"
        try:
            with pace.within(10 * self.seconds):
                whole = self._whole(stage, short) if short.module else module
                data = self._data_at(stage, short, there)(batch)
                return evaluating.seconds(stage, whole, data, self._sizes(stage), self.seconds / 2) / 3600
        except Exception as error:  # noqa: BLE001 - it was tested on a batch; why its hours are not known is told
            return _first_line(error)

    def _data_at(self, stage: Stage, short: Shortened, there: bool) -> Callable[[int], DataModule]:
        """A stage's datamodule for a number of images per step: its own where its data is there, else a stand-in."""
        feeds = fill(stage.feeds, self._fed)

        def data_at(batch: int) -> DataModule:
            real = merge(stage.data, {"batch_size": batch})
            stand_in = merge(merge(stage.data, short.data), {"batch_size": batch, "generated": True})
            data: DataModule = build(real if there else stand_in, f"stages.{stage.name}.data", **feeds)
            readings.share(data)
            return data

        return data_at

    def _whole(self, stage: Stage, short: Shortened) -> StageModule:
        """A stage's module with nothing cut. Raises RunError where its training does not fit into the free memory."""
        whole = replace(stage, module=offline(_timed(stage, short)))
        partners = fill(stage.needs, self._built.__getitem__)
        with torch.device("meta"):
            size = sum(p.numel() for p in training.construct_from(whole, partners).parameters())
        if size * BYTES > pace.SHARE * pace.free_memory():
            raise RunError(f"{stage.name}: {size:,} parameters do not fit into the free memory with their gradients")
        return training.construct_from(whole, partners)

    def _generated(self, stage: Stage, short: Shortened) -> DataModule:
        """The stage's data as a dry run has it."""
        where = f"stages.{stage.name}.data"
        feeds = fill(stage.feeds, self._fed)
        build({**stage.data}, where, **feeds)  # as a real run does, which may refuse it
        shortened = merge(merge(stage.data, short.data), {"generated": True, "batch_size": short.batch})
        generated: DataModule = build(shortened, where, **feeds)
        return generated

    def _sizes(self, stage: Stage) -> Mapping[str, int]:
        """Images of each split of a real run: as a datamodule declares them that has made nothing yet."""
        whole = merge(stage.data, {"generated": True})
        data: DataModule = build(whole, f"stages.{stage.name}.data", **fill(stage.feeds, self._fed))
        return data.spec.sizes

    def _fed(self, name: str) -> Fed:
        """What feeds generated data: the module alone, since no stage has made anything."""
        return Fed(self._built[name], {})


def _data_is_there(stage: Stage) -> bool:
    """Whether a stage can read its own data: nothing feeds it, and its files lie here."""
    asked = needs.of_stages([stage])
    return not stage.feeds and not any(need.look() for need, where in asked.items() if where.endswith(".data"))


def _timed(stage: Stage, short: Shortened) -> Any:
    """The configuration of a stage's module with which untrained weights take as long as trained ones do."""
    return merge(stage.module, short.as_trained)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _without_rates(module: Any) -> Any:
    """A module's configuration without what only scales a step."""
    if isinstance(module, Mapping):
        return {key: _without_rates(value) for key, value in module.items() if key not in RATES}
    return [_without_rates(value) for value in module] if isinstance(module, list | tuple) else module


def _batches(stage: Stage, short: Shortened, module: StageModule, data: DataModule) -> str:
    """What a module sees of its data in these steps: the shapes of the batches of each split, and the spec."""
    splits = {
        "train_dataloader": short.steps if stage.fit else 0,
        "val_dataloader": 1 if stage.fit and is_overridden("validation_step", module) else 0,
        "test_dataloader": 1 if stage.test else 0,
    }
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    seen: list[Any] = [data.spec.shape, data.spec.classes, data.spec.mean, data.spec.std]
    for split, count in splits.items():
        loaders = getattr(data, split)() if count and is_overridden(split, data) else []
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            seen += [split, *(_shapes(batch) for batch in islice(loader, count))]
    return repr(seen)


def _shapes(batch: Sequence[Any]) -> list[Any]:
    """Of a batch's columns; what is no tensor as it is."""
    return [(*column.shape, column.dtype) if isinstance(column, torch.Tensor) else column for column in batch]


def _step(stage: Stage, short: Shortened, module: StageModule, data: DataModule) -> None:
    """Train and test a stage for a few steps. Raises RunError if its loss is no number."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=short.steps,
        limit_val_batches=1,
        limit_test_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    if stage.fit:
        trainer.fit(module, datamodule=data)
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not bool(torch.isfinite(loss)):
            raise RunError(f"{stage.name}: the loss is {float(loss)} after {short.steps} steps")
    if stage.test:
        trainer.test(module, datamodule=data, verbose=False)


def part_of_the_recipe(plan: Plan) -> dict[str, Stage]:
    """The stages that are fitted or tested and what these need, in the plan's order."""
    needed: set[str] = set()
    for name, stage in reversed(plan.stages.items()):  # predecessors come before their users
        if stage.fit or stage.test or name in needed:
            needed |= {name, *stage.predecessors}
    return {name: stage for name, stage in plan.stages.items() if name in needed}
