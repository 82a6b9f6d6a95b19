"""Stages as files say them: a module, its data and its trainer, and which stages it needs. Imports no torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from experiments.config.written import (
    CLOSED,
    Closed,
    Count,
    Devices,
    Flag,
    FromZero,
    Node,
    Text,
    Whole,
    Written,
    choice_of,
)

Wiring = Annotated[dict[str, Text | list[Text]], Written("stages by argument, as in {teachers: [a, b]}")]


@dataclass(frozen=True, config=CLOSED)
class Trainer(Closed):
    """pytorch_lightning.Trainer's arguments that a configuration may set; the engine sets the rest."""

    accelerator: choice_of(Literal["auto", "cpu", "gpu", "cuda"]) = "auto"  # type: ignore[valid-type]
    """What computes; auto is one of NVIDIA's GPUs where there is one. Apple's MPS was compared with nothing here."""
    devices: Devices | list[Count] | Annotated[Literal["auto"], Written("auto")] = 1
    """How many devices, which of them, or -1 for all."""
    num_nodes: Whole | None = None
    """How many machines."""
    strategy: Text = "auto"
    """How devices share the work: auto, ddp, fsdp, ..."""
    precision: Text | Whole = "auto"
    """auto is bf16-mixed on a GPU, else 32-true."""
    sync_batchnorm: Flag = False
    """Batch statistics over the global batch."""
    max_epochs: Whole | None = None
    """Epochs of training."""
    max_steps: Whole | None = None
    """Batches of training, instead of epochs."""
    check_val_every_n_epoch: Whole | None = None
    """Epochs between two validations."""
    accumulate_grad_batches: Whole | None = None
    """Batches for each step of the optimiser."""
    gradient_clip_val: FromZero | None = None
    """The largest norm of a gradient."""
    benchmark: Flag = False
    """cuDNN measures which convolution is fastest for each shape."""
    channels_last: Flag = False
    """Networks of images in NHWC, of volumes in NDHWC."""
    fused: Flag = False
    """Optimisers that torch has a fused kernel for use it."""
    compile: Flag = False
    """Networks are compiled in place."""
    flush_denormal: Flag = False
    """Processors take numbers below 1.2e-38 for 0, which they compute with slowly."""
    matmul_precision: choice_of(Literal["highest", "high", "medium"]) = "highest"  # type: ignore[valid-type]
    """Torch's word for TensorFloat-32 in fp32 matrix products and convolutions."""

    @model_validator(mode="after")
    def _can_be_had(self) -> Trainer:
        if self.fused and self.gradient_clip_val and "mixed" in str(self.precision):
            raise ValueError(f"fused=true cannot be had with gradient_clip_val in {self.precision}")
        return self


@dataclass(frozen=True, config=CLOSED)
class Shortened(Closed):
    """What a dry run shortens because it only repeats; sizes of networks and inputs stay as published."""

    batch: Whole = 2  # a published batch of 512 would need the published hardware
    """Images per step."""
    steps: Whole = 2
    """Steps of training."""
    module: Node = field(default_factory=dict)
    """Merged over the stage's module."""
    data: Node = field(default_factory=dict)
    """Merged over the stage's data."""
    as_trained: Node = field(default_factory=dict)
    """Merged over the stage's module too, but cuts nothing: with it untrained weights take as long as trained ones,
    where a loop ends by what was learnt."""


@dataclass(frozen=True, config=CLOSED)
class Stage(Closed):
    """One LightningModule fitted and/or tested on one DataModule."""

    about: Text = ""
    """What it is, in a few words."""
    needs: Wiring | None = None
    """Argument of the module: the finished stage(s) that it gets."""
    feeds: Wiring | None = None
    """Argument of the datamodule: the finished stage(s) that it gets."""
    module: Node | None = None
    """The `_target_` of a LightningModule and its arguments."""
    data: Node | None = None
    """Arguments of the data that a recipe chooses."""
    trainer: Trainer | None = None
    """What this stage sets besides the chosen trainer."""
    fit: Flag = True
    """Whether it trains."""
    test: Flag = True
    """Whether it is tested."""
    exclusive: Flag = False
    """It measures time: no other stage runs on the machine meanwhile."""
    start_like: Text | None = None
    """Arms with the same word here start from the same random state."""
    reference_batch: Whole | None = None
    """The global batch that the learning rate is stated for."""
    dry: Annotated[Shortened, Written("a mapping")] | None = None
    """What a dry run shortens."""


@dataclass(frozen=True, config=CLOSED)
class WrittenStage(Stage):
    """A stage, or what the stages of a group or pattern share, as a file says it."""

    like: Text | None = None
    """Another stage of the same file: this one is the same but for what is said here."""
    each: dict[str, list[Any]] | None = None
    """Lists by name: one stage for each combination; {name} stands for a value, also in the stage's name."""


Stages = dict[str, Annotated[WrittenStage | None, Written("a mapping")]]
