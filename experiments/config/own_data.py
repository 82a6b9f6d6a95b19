"""`data=NAME`: other images in place of a paper's own, as lines that Hydra gets after all others. Imports no torch
unless such a line is there.

Every node of the composed configuration that reads plain labelled images is taken away and put anew: what `NAME` says,
and of the old node only what belongs to the recipe (KEPT). What stands on top of it, views and canvases, stays. Sizes
are the recipe's as long as there are so many images, else smaller in the same proportion; classes and channels of
networks follow. What a paper needs besides, or why its question makes no sense on plain images, its file says under
`own_data` (experiments.config.schema.OwnData).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.errors import InputError, unknown
from experiments.config import overrides, reading, schema, written
from experiments.config.instantiate import build

# What reads plain labelled images into memory: each takes KEPT and SIZES, and declares what it holds before it reads.
SETS = "datamodules.common.torchvision_sets"
PLAIN = (
    "datamodules.common.digits.Digits",
    *(f"{SETS}.{name}" for name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")),
    *(f"datamodules.common.own.{name}" for name in ("PhotoFolder", "PhotoTable", "PhotoArrays", "HuggingFace")),
)
KEPT = ("batch_size", "label_noise", "augment", "seed", "generated", "views", "rows")  # of the node that is replaced
SIZES = ("train_size", "val_size", "test_size")
ALL = -1  # a training size: what validation leaves
CLASSES = ("classes", "num_classes")  # keys that follow, where they hold what the replaced data has
CHANNELS = ("in_channels", "channels")
SIDES = ("input_size", "image_size", "side", "size")
TIMES = (1, 2, 0.5)  # canvases are two images wide, and some networks shrink images first
SHAPES = ("shape",)  # lists of channels, height, width
EVEN = 0.8  # of an even share: what a class of a well-known set has at least in a random draw
A_CLASS = ("per_class",)  # images of each class, which there have to be


@dataclass(frozen=True)
class Images:
    """What a node declares: how many there are and what they look like."""

    classes: tuple[str, ...]
    channels: int
    side: int
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    smallest: int  # training images of the smallest class


def lines(name: str, paper: str, config: DictConfig, given: Sequence[str] = ()) -> list[str]:
    """The lines that put `name` in place of the data of a composed configuration.

    Args:
        name: of a file in conf/data, or in the same folder of a user's own configuration.
        paper: key.
        config: composed without it; it is not changed.
        given: the user's other lines, as typed.
    Raises:
        InputError: no such data, a paper that has no use for plain labelled images, or one that needs more than these.
    """
    own = _own_node(name)
    asked = _asked(paper, name)
    _check_given(asked, given, name, paper)
    raw: Any = OmegaConf.to_container(config, resolve=False)
    kinds = (*PLAIN, *(asked.replaces or ()))
    places = list(_places(raw, kinds))
    if not places:
        first = next(iter(config.stages.values())).data
        raise InputError(
            f"data={name}: {paper} at scale={config.scale} reads {first.get('_target_')}, which holds no plain "
            "labelled images in memory; expected another scale"
        )
    replaced = {path: _resolved(config, path) for path in places}
    old = {path: _declared(node, f"{paper}: {path}") for path, node in replaced.items()}
    put = {path: _put(own, node, old[path], name, grey=asked.grey) for path, node in replaced.items()}
    new = {path: _declared(_as_composed(node, config), f"data={name}") for path, node in put.items()}
    one = next(iter(new.values()))
    _check_needs(asked, one, name, paper)

    sizes = {path: _sizes(node, old[path]) for path, node in replaced.items()}
    for path, fitting in _scaled(sizes, old, new).items():
        put[path] |= fitting
    least = {path: max(1, int(node["train_size"] * one.smallest / one.train) - 1) for path, node in put.items()}

    return [
        *(line for path, node in put.items() for line in (f"~{path}", f"+{path}={text(node)}")),
        *_following(config, raw, old, new, _agreed(old, paper, name), kinds),
        *_enough(config, raw, places, least),
        *_said(asked, paper, config, one),
        f"data_name={text(name)}",
    ]


# --- what is said of it -----------------------------------------------------------------------------------------------


def _own_node(name: str) -> dict[str, Any]:
    """The node that a data file holds, its root a whole path.

    Raises InputError for one that is no plain set of labelled images.
    """
    path = reading.data_file(name)
    if path is None:
        raise unknown("data", name, reading.options("data"))
    node = reading.load(path)
    root = node.get("root")
    if isinstance(root, str) and "${" not in root:  # beside the folder of configuration that names it
        node["root"] = str(path.parents[2] / root)
    target = str(node.get("_target_"))
    if target not in PLAIN:
        raise InputError(
            f"data={name}: {target} does not hold plain labelled images in memory; expected one of "
            f"{', '.join(each.rpartition('.')[2] for each in PLAIN)}"
        )
    return node


def _asked(paper: str, name: str) -> schema.OwnData:
    """What the paper's file says of own data. Raises InputError with its reason where there is no use for any."""
    said = reading.paper_file(paper).get("own_data")
    if isinstance(said, str):
        raise InputError(f"data={name}: {paper} {said}")
    return written.read(schema.OwnData, said or {}, f"conf/paper/{paper}.yaml: own_data")


def _check_given(asked: schema.OwnData, given: Sequence[str], name: str, paper: str) -> None:
    """Raises InputError for what the paper needs beside images and the user did not say."""
    said = {overrides.split(line)[0].lstrip("+") for line in given}
    for key, what in (asked.needs or {}).items():
        if key not in said:
            raise InputError(f"data={name}: {paper} needs {key}=..., {what}")


def _check_needs(asked: schema.OwnData, images: Images, name: str, paper: str) -> None:
    """Raises InputError for images that a paper's stages cannot take."""
    if asked.grey and images.channels != 1:
        raise InputError(f"data={name}: {images.channels} channels; {paper} needs grey images")
    if asked.classes is not None and len(images.classes) < asked.classes:
        raise InputError(f"data={name}: {len(images.classes)} classes; {paper} needs {asked.classes} or more")
    if asked.images is not None and images.train < asked.images:
        raise InputError(f"data={name}: {images.train} training images; {paper} needs {asked.images} or more")


# --- where it goes ----------------------------------------------------------------------------------------------------


def _places(value: Any, kinds: Sequence[str], path: str = "") -> Iterator[str]:
    """Where nodes of these kinds stand in a configuration, unresolved: what is referred to stands once."""
    if not isinstance(value, Mapping):
        return
    if value.get("_target_") in kinds:
        yield path
        return
    for key, item in value.items():
        yield from _places(item, kinds, f"{path}.{key}" if path else str(key))


def _resolved(config: DictConfig, path: str) -> dict[str, Any]:
    """The node at a path, or the whole where that is empty, as plain data."""
    plain: Any = OmegaConf.to_container(OmegaConf.select(config, path) if path else config, resolve=True)
    return {str(key): value for key, value in plain.items()}


def _as_composed(node: Mapping[str, Any], config: DictConfig) -> dict[str, Any]:
    """A node as it is once it stands in the configuration."""
    inside = OmegaConf.create({"node": dict(node)})
    inside._set_parent(config)
    plain: Any = OmegaConf.to_container(inside.node, resolve=True)
    return {str(key): value for key, value in plain.items()}


def _put(own: Mapping[str, Any], replaced: Mapping[str, Any], old: Images, name: str, *, grey: bool) -> dict[str, Any]:
    """The new node: what the data file says, and of the old one what is the recipe's."""
    node = {**own, **{key: replaced[key] for key in KEPT if key in replaced}, "seed": "${seed}"}
    for key in SIZES:
        node.pop(key, None)
    if str(own["_target_"]).startswith("datamodules.common.own."):
        node = {"side": old.side, "title": name, **node}
        if grey and not node.get("grey"):
            node = {key: value for key, value in node.items() if key not in ("mean", "std")} | {"grey": True}
    return node


def _declared(node: Mapping[str, Any], where: str) -> Images:
    """Raises InputError where the data is not there."""
    from datamodules.common.base import DataError

    try:
        data = build({key: value for key, value in node.items() if key not in SIZES}, where)
        spec = data.declared()
    except DataError as error:
        raise InputError(f"{where}: {error}") from error
    channels, side, _ = spec.shape
    train, test = spec.sizes["train"], spec.sizes.get("test", 0)
    even = int(EVEN * train / len(spec.classes))
    smallest = data.smallest_class() if hasattr(data, "smallest_class") else even
    return Images(spec.classes, channels, side, train, test, spec.mean, spec.std, smallest)


# --- how much of it ---------------------------------------------------------------------------------------------------


def _sizes(replaced: Mapping[str, Any], old: Images) -> dict[str, int]:
    """What the recipe takes of the replaced data for training (ALL: what is left), validation and test."""
    train, test = replaced.get("train_size"), replaced.get("test_size")
    return {
        "train_size": ALL if train is None else int(train),
        "val_size": int(replaced.get("val_size") or 0),
        "test_size": old.test if test is None else int(test),
    }


def _scaled(
    asked: Mapping[str, Mapping[str, int]], old: Mapping[str, Images], new: Mapping[str, Images]
) -> dict[str, dict[str, int]]:
    """The recipe's sizes as long as there are so many images, else smaller; none that was asked for becomes nothing.

    Where a stage asks for more training images than there are, validation images become as small a part of all as they
    were, and all stages that say how many they train on get the same share of it. One that takes all there is gets all.
    """
    one_set = any(not images.test for images in new.values())  # from which the test is drawn too

    def drawn_from_train(sizes: Mapping[str, int]) -> int:
        """How many of the training images are named: for the test too where it has no images of its own."""
        named = sum(size for size in sizes.values() if size != ALL)
        return named if one_set else named - sizes["test_size"]

    needed = {path: drawn_from_train(sizes) for path, sizes in asked.items()}
    crowded = any(needed[path] > new[path].train for path in asked)
    part = min([1.0, *(new[path].train / (needed[path] if one_set else old[path].train) for path in asked)])
    tested = part if one_set else min([1.0, *(new[path].test / max(1, asked[path]["test_size"]) for path in asked)])

    fitted: dict[str, dict[str, int]] = {}
    for path, sizes in asked.items():
        least = len(new[path].classes)
        val_part = part if crowded or sizes["train_size"] == ALL else 1.0
        val = _part(sizes["val_size"], val_part, least)
        fitted[path] = {"val_size": val, "test_size": _part(sizes["test_size"], tested, least)}

    left = {path: new[path].train - drawn_from_train(sizes) for path, sizes in fitted.items()}
    trained_on = {path: sizes["train_size"] for path, sizes in asked.items() if sizes["train_size"] != ALL}
    share = min([1.0, *(left[path] / size for path, size in trained_on.items())])
    for path in asked:
        if path not in trained_on:
            fitted[path]["train_size"] = left[path]
            continue
        train = _part(trained_on[path], share, len(new[path].classes))
        fitted[path]["train_size"] = min(train, left[path])
    return fitted


def _part(size: int, share: float, least: int) -> int:
    """A share of a size: all of what is no more than `least`."""
    return max(min(size, least), int(size * share))


# --- what follows from it ---------------------------------------------------------------------------------------------


def _agreed(old: Mapping[str, Images], paper: str, name: str) -> Images:
    """What the replaced data has in common. Raises InputError where a value of the recipe could mean either."""
    kinds = {(len(images.classes), images.channels) for images in old.values()}
    if len(kinds) > 1:
        raise InputError(f"data={name}: {paper} reads sets of different classes or channels, which none can replace")
    return next(iter(old.values()))


def _following(
    config: DictConfig,
    raw: Any,
    old: Mapping[str, Images],
    new: Mapping[str, Images],
    one: Images,
    kinds: Sequence[str],
) -> Iterator[str]:
    """Lines for keys that hold the replaced data's classes, channels or side, of stages that read it and of the
    recipe's own values.

    Args:
        config, raw: composed, and the same unresolved.
        old, new: what stood and stands in each replaced place.
        one: what the replaced data has in common.
        kinds: of nodes that are replaced.
    """
    now = next(iter(new.values()))
    sides = {old[place].side: new[place].side for place in old}
    read = {f"stages.{name}": _sides_read(config, str(name), kinds) for name in config.stages}
    for path, value in _leaves(raw, list(old)):
        key = path.rpartition(".")[2]
        stage = ".".join(path.split(".")[:2])
        before = read[stage] if path.startswith("stages.") else set(sides)
        moved = {side: sides[side] for side in before if side in sides}
        if not before:
            continue
        if key in CLASSES and value == len(one.classes):
            yield f"{path}={len(now.classes)}"
        elif key in CHANNELS and value == one.channels:
            yield f"{path}={now.channels}"
        elif key in SIDES and _resized(value, moved) != value:
            yield f"{path}={_resized(value, moved)}"
        elif key in SHAPES and isinstance(value, list) and len(value) == 3 and value[0] == one.channels:
            yield f"{path}={text([now.channels, *(_resized(side, moved) for side in value[1:])])}"


def _sides_read(config: DictConfig, stage: str, kinds: Sequence[str]) -> set[int]:
    """Sides of the replaced images that a stage reads; none where it reads none."""
    data = _resolved(config, f"stages.{stage}.data")
    return {_declared(_resolved(OmegaConf.create(data), path), stage).side for path in _places(data, kinds)}


def _resized(value: Any, sides: Mapping[int, int]) -> Any:
    """A side that is the replaced images' or in a TIMES proportion to it, in the same proportion to the new ones'."""
    for before, after in sides.items():
        for times in TIMES:
            if type(value) is int and value == before * times:
                return int(after * times)
    return value


def _enough(config: DictConfig, raw: Any, places: Sequence[str], least: Mapping[str, int]) -> Iterator[str]:
    """Lines for numbers of images of each class that are more than there are.

    Args:
        config, raw: composed, and the same unresolved.
        places: of replaced nodes.
        least: of each of them, how many training images every class has.
    """
    for path, value in _leaves(raw, places):
        if path.rpartition(".")[2] not in A_CLASS or value is None:
            continue
        stage = ".".join(path.split(".")[:2])
        here = [count for place, count in least.items() if place.startswith(f"{stage}.")] or list(least.values())
        asked = OmegaConf.select(config, path)
        several = [min(int(each), min(here)) for each in asked] if OmegaConf.is_list(asked) else None
        fewer = several if several is not None else min(int(asked), min(here))
        if fewer != asked:
            yield f"{path}={text(fewer)}"


def _leaves(value: Any, places: Sequence[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their path, of stages and the recipe's own keys; none of a replaced node's."""
    for key, item in value.items():
        inside = f"{path}.{key}" if path else str(key)
        if inside in places or (not path and key not in _read_by_stages(value)):
            continue
        if isinstance(item, Mapping):
            yield from _leaves(item, places, inside)
        else:
            yield inside, item


def _read_by_stages(config: Mapping[str, Any]) -> set[str]:
    return {"stages", *reading.own_values(config)}


def _said(asked: schema.OwnData, paper: str, config: DictConfig, new: Images) -> list[str]:
    """The paper file's own lines, filled in, once for each stage that has the key."""
    stages = [str(name) for name in config.stages]
    count = len(new.classes)
    facts = {
        "classes": str(count),
        "channels": str(new.channels),
        "side": str(new.side),
        "pixels": str(new.channels * new.side**2),
        "mean": str(new.mean[0]),
        "std": str(new.std[0]),
        "names": text(list(new.classes)),
        "words": text("".join(f" {name.lower()}" for name in new.classes)),
        "identity": text([[int(row == column) for column in range(count)] for row in range(count)]),
    }
    said = []
    for line in asked.overrides or []:
        filled = re.sub(r"\{(\w+)\}", lambda found: facts.get(found[1], found[0]), line)
        each = overrides.for_each_stage(filled, stages, reading.groups(paper))
        said += [line for line in each if len(each) == 1 or _has(config, overrides.split(line)[0])]
    return said


def _has(config: DictConfig, key: str) -> bool:
    head, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, head)
    return OmegaConf.is_dict(parent) and last in parent


def text(value: Any) -> str:
    """A plain value in Hydra's grammar; an interpolation in a text stays one."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return overrides.quoted(value) if isinstance(value, str) else repr(value)
