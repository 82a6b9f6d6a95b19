"""What people may write in a paper's file, a recipe and a sweep, as classes. Imports no torch.

Files are checked as they stand, before anything is written out (experiments.config.recipes) or composed; what was
composed is checked again, since a command line may change every key. `python -m experiments.commands.schema` writes the
same for editors, as conf/schema/*.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from experiments.config import expressions
from experiments.config.expressions import Expression
from experiments.config.written import (
    CLOSED,
    OPEN,
    Closed,
    Count,
    Devices,
    Flag,
    Fraction,
    FromZero,
    Node,
    Number,
    Positive,
    Text,
    Whole,
    Written,
    choice_of,
    keys_of,
    read,
)

Scale = choice_of(Literal["full", "mini", "smoke"])
Names = Text | Sequence[Text]  # one, or several
SomeStages = Annotated[list[Text], Field(min_length=1), Written("a list of stages")]
Wiring = Annotated[dict[str, Text | list[Text]], Written("stages by argument, as in {teachers: [a, b]}")]

# --- what a paper is judged by ---------------------------------------------------------------------------------------


class Reported(TypedDict):
    """What the paper reports of a claim."""

    difference: Number
    source: Text


# The fields that the hash of a registration held before any was added: these count also where they have their default.
HASHED = {
    *("name", "better", "than", "worth", "unit", "main", "asked_by", "kind", "margin", "within", "lower_is_better"),
    *("requires", "published", "scale", "variant", "range", "test_over_train"),
}
EXPLAINS = {"worth_reason"}  # fields for readers, which change no verdict and are in no hash


Rivals = Annotated[
    dict[Text, Number | Text],
    Field(min_length=2),
    Written("a mapping of a baseline and its rivals, as in {baseline: a/test/top1, labels alone: b/test/top1}"),
]


@dataclass(frozen=True, config=CLOSED)
class Question(Closed):
    """A comparison with a rule: a claim, or one of the outcomes that a claim is about together."""

    name: Text
    """The statement, readable alone."""
    better: Text = ""
    """Arithmetic over <stage>/<split>/<metric>: a/test/top1, a/test/x - b/test/x, mean(arm_*/test/x)."""
    than: Number | Text | Rivals = ""
    """What it is compared with: arithmetic over metrics, or a number; or several by name, of which the first is the
    paper's baseline and the others are rivals, arms without the paper's idea that might show the same effect."""
    worth: Positive | None = None
    """The smallest difference worth the name, in the unit; not needed with `within` or for kind exact."""
    unit: Text = "points"
    """Of the difference."""
    kind: choice_of(Literal["normal", "share", "bounded", "exact", "folds", "images"]) = "normal"  # type: ignore[valid-type]
    """Of the differences: normal; a share of 0/1 outcomes; bounded in `range`; exact, without chance; folds that share
    training data; images of fixed networks, of which the stages leave an artifact <split>-<metric>."""
    margin: Number = 0.0
    """What the difference is held against."""
    within: Positive | None = None
    """Instead of margin and worth: the difference lies inside (-within, within)."""
    lower_is_better: Flag = False
    """The difference is than - better."""
    range: Sequence[Number] | None = None
    """The lowest and the highest possible difference, of kind bounded."""
    test_over_train: Positive | None = None
    """Test size over training size, of kind folds."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Question:
        if self._is_joint():
            return self
        for key in ("better", "than"):
            if getattr(self, key) == "":
                raise ValueError(f"{self.name!r}: {key} is missing, a side of the comparison")
        if self.worth is None and self.within is None and self.kind != "exact":
            raise ValueError(f"{self.name!r}: worth is missing, the smallest difference worth the name")
        if self.kind == "bounded" and (self.range is None or len(self.range) != 2 or self.range[0] >= self.range[1]):
            raise ValueError("kind bounded needs range: [lowest, highest] possible difference")
        if self.kind == "folds" and self.test_over_train is None:
            raise ValueError("kind folds needs test_over_train, the test set's size over the training set's")
        if isinstance(self.than, Mapping) and self.within is not None:
            raise ValueError(f"{self.name!r}: rivals are beaten by a margin; several equivalences stand in all")
        if isinstance(self.than, Mapping) and self.kind == "images":
            raise ValueError(f"{self.name!r}: kind images compares two networks; expected one than")
        if isinstance(self.than, Mapping) and len(set(self.than.values())) < len(self.than):
            raise ValueError(f"{self.name!r}: than={dict(self.than)}: two names for one arm")
        return self

    def _is_joint(self) -> bool:
        """Whether others say what is compared."""
        return False

    def content(self) -> dict[str, Any]:
        """What the hash of a registration holds of it: a field that was added later only where it says something.

        Rivals are a list, since a hash of a mapping does not tell which of them stands first.
        """
        defaults = {each.name: each.default for each in fields(self)}
        kept = {key: value for key, value in vars(self).items() if key not in EXPLAINS}
        said = {key: value for key, value in kept.items() if key in HASHED or value != defaults[key]}
        if isinstance(self.than, Mapping):
            said["than"] = [[name, side] for name, side in self.than.items()]
        return said


@dataclass(frozen=True, config=CLOSED)
class Outcome(Question):
    """One of several outcomes that a claim is about together."""


@dataclass(frozen=True, config=CLOSED)
class Claim(Question):
    """A statement with a rule, written before its first recorded seed."""

    all: Sequence[Outcome] = ()
    """Instead of better and than: several outcomes, as faster and as accurate; supported where each of them is. The
    first of them is what tables show."""
    main: Flag = False
    """The paper's own question; exactly one in a setting."""
    asked_by: choice_of(Literal["paper", "suite"]) = "paper"  # type: ignore[valid-type]
    """Whether the paper asks it, or this suite."""
    requires: Sequence[Text] = ()
    """Comparisons that hold in the mean over seeds where the mechanism is there; else nothing is judged."""
    requires_each: Sequence[Text] = ()
    """Comparisons that hold in nearly every seed where the mechanism is there; nothing is judged once the share of
    seeds that fulfil one is shown to be less than `share_of_seeds`. Seeds that do not stay in the difference."""
    share_of_seeds: Fraction = 0.9
    """Of `requires_each`."""
    published: Annotated[Reported, keys_of("difference", "source")] | None = None
    """What the paper reports of it."""
    scale: Names | None = None
    """The scales it is about: a name, a pattern or a list; all unless given."""
    variant: Names | None = None
    """The variants it is about; the setting without one is called default."""
    worth_reason: Text = ""
    """Of a main claim: why worth (or within) is what it is. The paper's own difference, what a user would notice, or
    the noise of the test set."""

    @model_validator(mode="after")
    def _has_parts_that_fit(self) -> Claim:
        if not self.all:
            return self
        for each in fields(Outcome):
            if each.name != "name" and getattr(self, each.name) != each.default:
                raise ValueError(f"{self.name!r}: {each.name} stands with each of its outcomes, in all")
        names = [outcome.name for outcome in self.all]
        if len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"{self.name!r}: all={names}: expected at least two outcomes of different names")
        if any(outcome.kind == "images" for outcome in self.all):
            raise ValueError(f"{self.name!r}: kind images is judged by itself, not among several outcomes")
        return self

    def _is_joint(self) -> bool:
        return bool(self.all)

    def parts(self) -> list[Claim]:
        """What is judged by a rule of its own: each of the outcomes, or the claim itself."""
        names = [each.name for each in fields(Outcome)]
        return [Claim(**{name: getattr(outcome, name) for name in names}) for outcome in self.all] or [self]

    def against(self) -> dict[str, Claim]:
        """By name the comparisons with baseline and rivals, each as a claim; without rivals the claim itself."""
        if not isinstance(self.than, Mapping):
            return {"": self}
        return {name: replace(self, than=side) for name, side in self.than.items()}

    def shown(self) -> Claim:
        """What tables show of it: the first outcome beside its baseline, as a claim of its own."""
        return next(iter(self.parts()[0].against().values()))

    def preconditions(self) -> list[str]:
        """The comparisons without which nothing is judged."""
        return [*self.requires, *self.requires_each]

    def expression(self, where: str = "claims") -> tuple[Expression, Expression]:
        """Both sides, of a claim that compares one thing with one other. Raises InputError naming `where`."""
        assert not isinstance(self.than, Mapping)
        return expressions.parse(self.better, where), expressions.parse(self.than, where)

    def sides(self, where: str = "claims") -> list[Expression]:
        """All that is compared, of every outcome and with every rival. Raises InputError naming `where`."""
        pairs = [each.expression(where) for part in self.parts() for each in part.against().values()]
        return list(dict.fromkeys(side for pair in pairs for side in pair))

    def content(self) -> dict[str, Any]:
        said = super().content()
        return said | {"all": [outcome.content() for outcome in self.all]} if self.all else said


@dataclass(frozen=True, config=CLOSED)
class Check(Closed):
    """A comparison that is arithmetic, a sanity check or a fact about the run: shown, not judged as evidence."""

    name: Text
    """What holds, readable alone."""
    holds: Text
    """A comparison: init/test/top1 > 40."""
    scale: Names | None = None
    """The scales it is about, as for claims."""
    variant: Names | None = None
    """The variants it is about, as for claims."""


@dataclass(frozen=True, config=CLOSED)
class Published(Closed):
    """A number the paper reports."""

    stage: Text
    """The arm that produced it."""
    metric: Text
    """<split>/<metric>."""
    value: Number
    """As the paper prints it."""
    dataset: Text
    """And its split."""
    protocol: Text
    """How it was measured."""
    source: Text
    """Table, page or file."""
    variant: Names | None = None
    """The variants it is about, as for claims."""
    tolerance: FromZero = 0.3
    """How far ours may lie from it and still be the same number."""
    kind: choice_of(Literal["normal", "exact"]) = "normal"  # type: ignore[valid-type]
    """Normal over seeds; exact for numbers without chance, which are judged at any scale."""
    scale: Names | None = None
    """The scales it is about, as for claims."""


@dataclass(frozen=True, config=CLOSED)
class PublishedTable(Closed):
    """Several numbers that the paper reports of one dataset and protocol."""

    values: dict[str, Number]
    """<stage>/<split>/<metric>: the number."""
    dataset: Text
    """And its split."""
    protocol: Text
    """How they were measured."""
    source: Text
    """Table, page or file."""
    variant: Names | None = None
    """The variants they are about, as for claims."""
    tolerance: FromZero = 0.3
    """How far ours may lie from them and still be the same numbers."""
    kind: choice_of(Literal["normal", "exact"]) = "normal"  # type: ignore[valid-type]
    """Normal over seeds; exact for numbers without chance, which are judged at any scale."""
    scale: Names | None = None
    """The scales they are about, as for claims."""


def _is_table(row: Any) -> str:
    return "table" if isinstance(row, Mapping) and "values" in row else "row"


PublishedRow = Annotated[
    Annotated[Published, Tag("row")] | Annotated[PublishedTable, Tag("table")], Discriminator(_is_table)
]


@dataclass(frozen=True, config=CLOSED)
class Counted(Closed):
    """How large a network is by the paper's table; judged by building it, without a run."""

    network: Text
    """Where the full recipe describes it: stages.<stage>.module.network."""
    source: Text
    """Table, page or file."""
    parameters: Text | Whole | None = None
    """As printed: 5.3M, 334851."""
    mult_adds: Text | Whole | None = None
    """Of one image, as printed: 564M, 23.8G."""
    input: Sequence[Whole] = ()
    """(C, H, W) of that image."""
    norms: Flag = False
    """Whether norms count as mult-adds, as in the tool that the paper counted with (fvcore)."""
    less: Text | None = None
    """A network whose parameters are taken off."""
    set: Node = field(default_factory=dict)
    """Merged over what is said there, such as a head that the table leaves out."""
    variant: Text | None = None
    """The variant of the full recipe; nothing: the main setting."""
    note: Text = ""
    """What a reader should know of a difference."""

    @model_validator(mode="after")
    def _counts_something(self) -> Counted:
        if self.parameters is None and self.mult_adds is None:
            raise ValueError("expected parameters or mult_adds")
        if self.mult_adds is not None and len(self.input) < 2:
            raise ValueError("mult_adds: expected input as well, such as [3, 224, 224]")
        return self


@dataclass(frozen=True, config=CLOSED)
class Deviation(Closed):
    """Where paper, released code and this suite differ."""

    what: Text
    """What differs."""
    paper: Number | Text
    """What the paper says."""
    code: Number | Text
    """What the released code does."""
    ours: Number | Text
    """What is done here."""
    why: Text
    """Why it is done so."""


COUNTED = "counted"  # what covers calls the sizes of networks
# YAML reads a bare no as false
Asked = Annotated[  # type: ignore[valid-type]
    choice_of(Literal["full", "mini", "no"]),
    BeforeValidator(lambda value: "no" if value is False else value),
]
AskedScales = Annotated[  # type: ignore[valid-type]
    list[choice_of(Literal["full", "mini"])],  # type: ignore[misc]
    Field(min_length=1),
    Written("a list of scales"),
]


@dataclass(frozen=True, config=CLOSED)
class Covered(Closed):
    """A table, figure or claim of the paper, and whether it is asked here."""

    what: Text
    """Which, with the number that the paper gives it: "Table 3: ImageNet, by size of network"."""
    asked: Asked | AskedScales  # type: ignore[valid-type]
    """The scales that ask it, or no."""
    by: Names = ()
    """What asks it: how the name of a claim or of a check, or the source of published numbers, begins, or `counted`;
    nothing: all that its settings measure. Whether that was run is read from the records."""
    variant: Names | None = None
    """The variants that ask it, as for claims."""
    why: Text = ""
    """Where it is not asked: why."""

    @model_validator(mode="after")
    def _says_why_not(self) -> Covered:
        if self.asked == "no" and not self.why:
            raise ValueError(f"{self.what!r}: why is missing, the reason why it is not asked")
        if self.asked == "no" and (self.by or self.variant):
            raise ValueError(f"{self.what!r}: asked is no; expected no by and no variant")
        if COUNTED in self.named() and (self.named() != [COUNTED] or self.scales() != ["full"]):
            raise ValueError(f"{self.what!r}: by {COUNTED} stands alone, asked full")
        return self

    def scales(self) -> list[str]:
        """Those that ask it."""
        asked = [self.asked] if isinstance(self.asked, str) else list(self.asked)
        return [scale for scale in asked if scale != "no"]

    def named(self) -> list[str]:
        """What asks it, by how that begins."""
        return [self.by] if isinstance(self.by, str) else list(self.by)


Word = choice_of(
    Literal["supported", "refuted", "effect only", "no gain", "undecided", "untested", "not run", "holds", "fails"]
)
MOST_LETTERS = 200  # of a finding


@dataclass(frozen=True, config=CLOSED)
class Finding(Closed):
    """What was found over all recorded settings of a paper, and where it was not."""

    text: Text
    """In one or two plain sentences, of at most 200 letters."""
    written_for: dict[str, Word]  # type: ignore[valid-type]
    """The main claim's verdict by recorded setting, as in {mini: supported, mini+clean: no gain}."""

    @model_validator(mode="after")
    def _is_short(self) -> Finding:
        if len(self.text) > MOST_LETTERS:
            raise ValueError(f"text has {len(self.text)} letters; expected at most {MOST_LETTERS}")
        return self


@dataclass(frozen=True, config=CLOSED)
class Pair(Closed):
    """A network of ours beside an independent one, on the same random input; `make bench` times them."""

    name: Text
    """What the table calls it."""
    ours: Node
    """A `_target_` with its arguments; what it builds takes a batch of images."""
    theirs: Node
    """The same of the independent one."""
    input: Sequence[Whole]
    """(C, H, W)."""
    batch: Whole = 4
    """Images per call."""


# --- stages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=CLOSED)
class Trainer(Closed):
    """pytorch_lightning.Trainer's arguments that a configuration may set; the engine sets the rest."""

    accelerator: choice_of(Literal["auto", "cpu", "gpu", "cuda", "mps"]) = "auto"  # type: ignore[valid-type]
    """What computes."""
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

    batch: Whole = 4  # a published batch of 512 would need the published hardware
    """Images per step."""
    steps: Whole = 2
    """Steps of training."""
    module: Node = field(default_factory=dict)
    """Merged over the stage's module."""
    data: Node = field(default_factory=dict)
    """Merged over the stage's data."""


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

# --- how a recipe is tried around itself -----------------------------------------------------------------------------


@dataclass(frozen=True, config=CLOSED)
class Knob(Closed):
    """A number of the recipe that a replication draws anew for each seed, once for all its keys."""

    keys: list[Text]
    """Where it stands: stages.<stage, group or pattern>.<path>, or the name of a value of the recipe's own."""
    times: list[Positive] | None = None
    """The lowest and the highest factor, drawn evenly on the logarithmic scale."""
    between: list[Number] | None = None
    """The lowest and the highest value, drawn evenly."""
    among: list[Any] | None = None
    """Two values or more, drawn evenly."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Knob:
        ways = [way for way in ("times", "between", "among") if getattr(self, way) is not None]
        if len(ways) != 1:
            raise ValueError(f"expected one of times, between, among, got {', '.join(ways) or 'none'}")
        if not self.keys or any(not re.match(r"stages\.[^.]+\.\S+|(?!stages\b)\w+(\.\w+)*$", key) for key in self.keys):
            raise ValueError(f"keys={self.keys}: expected some such as stages.*.module.optimizer.lr")
        ends = self.times or self.between
        if ends is not None and (len(ends) != 2 or ends[0] >= ends[1]):
            raise ValueError(f"{ways[0]}={ends}: expected a lower and a higher number")
        if self.among is not None and len(self.among) < 2:
            raise ValueError(f"among={self.among}: expected two values or more")
        return self


@dataclass(frozen=True, config=CLOSED)
class Grid(Closed):
    """One grid for all arms that the main claim compares, judged on validation data of pilot seeds."""

    arms: list[Text] = field(default_factory=list)
    """The stages that are compared."""
    keys: list[Text] = field(default_factory=list)
    """Where the number stands that matters most: stages.<stage, group or pattern>.<path>."""
    values: list[Any] = field(default_factory=list)
    """Three to five of them, from low to high."""
    by: Text = "val/top1"
    """A validation metric; that of the last epoch counts."""
    lower_is_better: Flag = False
    """Of that metric."""
    seeds: list[Whole] = field(default_factory=lambda: [1, 2])
    """Pilot seeds, below 1000."""
    none: Text = ""
    """Instead of all that: why there is nothing to tune."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Grid:
        if self.none:
            return self
        if not 3 <= len(self.values) <= 5 or len(set(map(str, self.values))) != len(self.values):
            raise ValueError(f"values={self.values}: expected three to five different values")
        if len(self.arms) < 2:
            raise ValueError(f"arms={self.arms}: expected the stages that the main claim compares, two or more")
        if not self.by.startswith("val/"):
            raise ValueError(f"by={self.by}: expected a validation metric, as val/top1: test images are not looked at")
        if not self.seeds or any(seed >= 1000 for seed in self.seeds):
            raise ValueError(f"seeds={self.seeds}: expected pilot seeds, from 1 to 999")
        return self


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=CLOSED)
class Variant(Closed):
    """A named list of overrides."""

    about: Text | None = None
    """What is different, in a few words."""
    scale: Scale | None = None  # type: ignore[valid-type]
    """The scale it is a variant of."""
    overrides: Sequence[Text] | None = None
    """Lines as on the command line."""
    like: Text | None = None
    """Another variant, whose overrides come first."""
    each: dict[str, list[Any]] | None = None
    """Lists by name: one variant for each combination; {name} stands for a value."""
    always: Flag = False
    """It runs whenever the paper is reproduced at its scale."""
    scope: Text | None = None
    """In place of the paper's scope at this scale."""

    @model_validator(mode="after")
    def _is_whole(self) -> Variant:
        lacking = [key for key in ("about", "scale", "overrides") if getattr(self, key) is None]
        if lacking and self.like is None:
            raise ValueError(f"{lacking[0]} is missing")
        return self


@dataclass(frozen=True, config=CLOSED)
class AllBut(Closed):
    """A group of all stages but some."""

    all_but: SomeStages
    """The stages that are left out."""


Group = SomeStages | AllBut


@dataclass(frozen=True, config=CLOSED)
class Settings(Closed):
    """Keys of conf/config.yaml that a file or a command line may set."""

    first: Whole = 6
    """Seeds before the first look."""
    most: Whole = 32
    """Seeds at which an undecided main claim is left so."""
    minutes: FromZero = 15
    """After which no further seeds are started."""
    threads: Whole = 1
    """Of the CPU for each stage."""
    checkpoint_seconds: FromZero = 30
    """A stage that trains longer than this is saved this often."""
    objective: Text | None = None
    """What searches look at: student/test/top1, arithmetic over such, or difference; nothing: what the main claim is
    about."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises InputError for one of a resolved configuration's settings that cannot be."""
    names = [each.name for each in fields(Settings)]
    read(Settings, {name: config[name] for name in names if name in config})


@dataclass(frozen=True, kw_only=True, config=OPEN)
class Recipe(Settings):
    """conf/recipe/<paper>/<scale>.yaml: the numbers of a scale. Other keys are values that another line reads."""

    defaults: list[Text | dict[str, Text | list[Text]]] | None = None
    """What Hydra composes below this file."""
    data: Text | list[Text] | dict[str, Text | list[Text]] | None = None
    """Every stage's data: a name of conf/data, a view and its source, or such by stage, group or pattern."""
    stages: Stages | None = None
    """By name, group or pattern."""
    tune: Grid | None = None
    """What make tune tries, for all arms that the main claim compares."""
    vary: dict[str, Knob] | None = None
    """What make replicate draws anew for each seed, by name."""


KINDS = {"Tab": "Table", "Fig": "Figure"}


def printed(text: str) -> set[str]:
    """The tables and figures that a text names: "Tables 4 and 5; Fig. 2" names Table 4, Table 5 and Figure 2."""
    found = re.findall(r"\b(Tab|Fig)(?:le|ure)?(s?)\.? (\d+)((?:(?:, | and )\d+)*)", text)
    marks = set()
    for kind, plural, first, further in found:
        numbers = [first, *re.findall(r"\d+", further if plural else "")]
        marks |= {f"{KINDS[kind]} {number}" for number in numbers}
    return marks


@dataclass(frozen=True, config=CLOSED)
class OwnData(Closed):
    """What a paper's stages need besides plain labelled images, where these stand in place of its data."""

    overrides: list[Text] | None = None
    """Lines as on the command line. {classes}, {channels}, {side}, {pixels}, {mean} and {std} stand for numbers of the
    images, {names} for the list of their classes, {words} for these as one text with a blank before each, {identity}
    for the rows of an identity matrix of as many classes."""
    replaces: list[Text] | None = None
    """Its own generated images that own data replaces, by their whole names, besides the well-known sets."""
    needs: dict[Text, Text] | None = None
    """Keys that have to be said on the command line, as stages.*.data.hierarchy, and what each is."""
    classes: Whole | None = None
    """How many classes there have to be."""
    grey: Flag = False
    """Its networks or canvases take one channel: photos are made grey."""


@dataclass(frozen=True, kw_only=True, config=OPEN)
class PaperFile(Settings):
    """conf/paper/<key>.yaml: what a paper claims, and its stages. Other keys are values that another line reads."""

    key: Text
    """The file's own name."""
    title: Text
    """Of the paper."""
    arxiv: Text
    """Its number there, in quotes."""
    claims: list[Claim]
    """The main claim first."""
    about: Text = ""
    """What the paper does, in two or three sentences."""
    venue: Text = ""
    """Where it was published."""
    finding: Finding | None = None
    """What was found over all recorded settings."""
    covers: list[Covered] | None = None
    """The paper's tables, figures and claims, and which of them are asked here."""
    scope: dict[Scale, Text] | None = None  # type: ignore[valid-type]
    """By scale: what a reader of a verdict should know of its data and networks besides their names and sizes."""
    groups: dict[str, Group] | None = None
    """Names for stages that share settings."""
    stages: Stages | None = None
    """The method and its baselines, by name."""
    checks: list[Check] | None = None
    """What must be so for a run to make sense."""
    published: list[PublishedRow] | None = None
    """Numbers the paper reports."""
    counted: list[Counted] | None = None
    """Sizes of networks that the paper prints."""
    variants: dict[str, Variant] | None = None
    """Other data, sizes and settings, by name."""
    deviations: list[Deviation] | None = None
    """Where paper, released code and this suite differ; on the report page."""
    bench: list[Pair] | None = None
    """Networks to time beside independent ones."""
    own_data: Text | OwnData | None = None
    """Of `data=NAME`: why the question makes no sense on plain labelled images, or what it needs besides."""

    @model_validator(mode="after")
    def _asks_something(self) -> PaperFile:
        if not any(claim.main for claim in self.claims):
            raise ValueError("claims: none has main: true; expected it of the one that the paper is cited for")
        for claim in self.claims:
            if claim.main and (claim.worth or claim.within or claim.all) and not claim.worth_reason:
                raise ValueError(f"claims: {claim.name!r}: worth_reason is missing, why it is worth or within so much")
        return self

    @model_validator(mode="after")
    def _covers_what_it_quotes(self) -> PaperFile:
        rows = self.published or []
        known = [claim.name for claim in self.claims] + [check.name for check in self.checks or []]
        known += [row.source for row in rows]
        known += [COUNTED] * bool(self.counted)
        for item in self.covers or []:
            for start in item.named():
                if not any(text.startswith(start) for text in known):
                    raise ValueError(f"covers: {item.what!r}: by={start!r}: no claim, check or source begins so")
        if self.covers is not None:
            quoted = [(row.source, "") for row in rows] + [(row.source, COUNTED) for row in self.counted or []]
            quoted += [(claim.published["source"], claim.name) for claim in self.claims if claim.published]
            shown = {mark for item in self.covers for mark in printed(item.what)}
            starts = tuple(start for item in self.covers for start in item.named())
            for source, name in quoted:
                marks = printed(source)
                if not (marks and marks <= shown) and not source.startswith(starts) and not name.startswith(starts):
                    raise ValueError(f"covers: source {source!r} is in none of them; expected it in what or by")
        return self


@dataclass(frozen=True, config=CLOSED)
class Sweep(Closed):
    """conf/sweep/<paper>/<name>.yaml: the arguments that sweep=<name> stands for."""

    arguments: list[Text]
    """Lines as on the command line of experiments.run -m, none about Hydra or a launcher."""
    jobs: Whole = 1
    """How many of its jobs run at the same time on this machine, unless the command line chooses a launcher."""
    about: Text = ""
    """What it asks."""


FILES = {"paper": PaperFile, "recipe": Recipe, "sweep": Sweep}  # by their folder in conf/
