"""What a recipe or a paper's file may leave unsaid, written out before Hydra sees it. Imports no torch.

Its content has been checked (experiments.config.schema); what is wrong only beside other names is said here.

    data: digits                              every stage's data; in a recipe alone
    data: [transhp/hierarchical, transhp/shapes]     a view and the data it is a view of, its `source`
    data: {"*": digits, "probe_*": cifar10}   by pattern; a later one wins, and so does a line in `defaults`
    groups: {students: [student, soft, "arm_*"], trained: {all_but: [untrained]}}   # in a paper's file
    stages:
      students: {trainer: {max_epochs: 3}}    what a group shares; a group may stand wherever a pattern may
      "arm_*": {trainer: {max_epochs: 3}}     what all stages that fit share; what a stage says itself wins
      student: {like: teacher, module: {...}} as another stage of the same file, but for what is said here
      "svm_{n}": {each: {n: [100, 300]}, data: {first: "{n}"}}     a list of arms

    variants:
      "kernel_{k}": {each: {k: [3, 5]}, overrides: [stages.student.module.kernel={k}], ...}     a list of variants
      wide: {like: kernel_3, about: ..., overrides: [...]}     another variant's overrides, then its own
    published:
      - {values: {student/test/top1: 80.67, student/test/top5: 95.09}, dataset: ..., protocol: ..., source: ...}

`like` copies all but `about`; where `_target_` differs, the whole node is replaced, and so are `needs` and `feeds`.
"""

from __future__ import annotations

import copy
import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.errors import InputError, unknown
from experiments.common.plain import Plain
from experiments.config import limits

LONGEST = 50  # chain of stages or variants that are each like the next
WHOLE = ("needs", "feeds")  # said anew, they are said completely


Groups = Mapping[str, Any]  # name -> stages and patterns, or {all_but: stages and patterns}


def expand(raw: Mapping[str, Any], where: str, others: Sequence[str] = (), groups: Groups | None = None) -> Plain:
    """A file's content with nothing left unsaid.

    Args:
        raw: the file's content.
        where: its name, for messages.
        others: stages that the paper has besides those the file names.
        groups: what the paper's file names; the file's own if it is that.
    Raises:
        InputError: a `like`, a pattern, a group or a list of arms that makes no sense.
    """
    groups = raw.get("groups") or {} if groups is None else groups
    expanded = dict(raw)
    if isinstance(raw.get("stages"), Mapping):
        expanded["stages"] = _stages(raw["stages"], where, others, groups)
    if isinstance(raw.get("variants"), Mapping):
        expanded["variants"] = _variants(raw["variants"], where)
    if isinstance(raw.get("published"), list):
        expanded["published"] = [row for item in raw["published"] for row in _rows(item, where)]
    if "data" in raw:
        names = list(dict.fromkeys([*others, *(expanded.get("stages") or {})]))
        defaults = list(raw.get("defaults") or ["_self_"])
        expanded["defaults"] = _defaults(expanded.pop("data"), defaults, names, where, groups)
    return expanded


def fitting(word: str, stages: Sequence[str], groups: Groups) -> list[str]:
    """The stages that a name, a group or a pattern means, in the order of `stages`."""
    if word not in groups:
        return fnmatch.filter(stages, word)
    members = groups[word]
    left_out = members.get("all_but") if isinstance(members, Mapping) else None
    named = left_out if left_out is not None else members
    inside = {stage for member in named for stage in fnmatch.filter(stages, str(member))}
    return [stage for stage in stages if (stage in inside) == (left_out is None)]


def _kind(word: str) -> str:
    return "pattern" if "*" in word else "group"


def check_pattern(word: str, where: str) -> None:
    """Raises InputError for a pattern of letters: a reader has to decode it, and a new stage may fit it by chance."""
    if set(word) & set("[]!?"):
        raise InputError(f"{where}: pattern {word!r}: expected `*`, name_* or a group, as in groups: {{arms: [a, b]}}")


def check_groups(groups: Groups, stages: Sequence[str], where: str) -> None:
    """Raises InputError for a group that has a stage's name or a member that is no stage."""
    for name, members in groups.items():
        what = f"{where}: groups.{name}"
        if name in stages:
            raise InputError(f"{what}: a stage has this name; expected another one")
        members = members["all_but"] if isinstance(members, Mapping) else members
        for member in members:
            if not fnmatch.filter(stages, str(member)):
                raise unknown(f"{what}: stage", str(member), stages)


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`, mapping by mapping; a node with another `_target_` replaces what is below it."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return copy.deepcopy(above)
    if "_target_" in above and above["_target_"] != below.get("_target_", above["_target_"]):
        return copy.deepcopy(dict(above))
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        merged[key] = merge(merged[key], value) if key in merged and key not in WHOLE else copy.deepcopy(value)
    return merged


def _stages(raw: Mapping[str, Any], where: str, others: Sequence[str], groups: Groups) -> Plain:
    listed = _listed("stages", raw, where)
    for name in listed:
        check_pattern(name, f"{where}: stages")
    patterns = {name: item for name, item in listed.items() if "*" in name or name in groups}
    own = {name: item or {} for name, item in listed.items() if name not in patterns}
    stages: Plain = {name: _like(name, own, where, ()) for name in own}
    for pattern, item in reversed(patterns.items()):
        names = fitting(pattern, list(dict.fromkeys([*stages, *others])), groups)
        if not names:
            raise unknown(f"{where}: stages: {_kind(pattern)}", pattern, [*stages, *others, *groups])
        for name in names:
            stages[name] = merge(item, stages.get(name) or {})
    return stages


def _variants(raw: Mapping[str, Any], where: str) -> Plain:
    listed = _listed("variants", raw, where)
    return {name: _varied(name, listed, where, ()) for name in listed}


def _varied(name: str, listed: Mapping[str, Any], where: str, asked: tuple[str, ...]) -> Any:
    item = listed[name]
    if not isinstance(item, Mapping) or "like" not in item:
        return copy.deepcopy(item)
    model = str(item["like"])
    if model not in listed or model in (*asked, name):
        others = [other for other in listed if other not in (*asked, name)]
        raise unknown(f"{where}: variants.{name}.like: variant", model, others)
    _check_chain(asked, f"{where}: variants.{name}.like")
    below = _varied(model, listed, where, (*asked, name))
    own = {key: copy.deepcopy(value) for key, value in item.items() if key != "like"}
    overrides = [*(below.get("overrides") or []), *(own.get("overrides") or [])]
    return {**below, **own, "overrides": overrides}


def _rows(item: Any, where: str) -> list[Any]:
    """One published number for each of `values`: <stage>/<split>/<metric> -> number."""
    if not isinstance(item, Mapping) or "values" not in item:
        return [item]
    rest = {key: value for key, value in item.items() if key != "values"}
    if any(str(key).count("/") != 2 for key in item["values"]):
        raise InputError(f"{where}: published: values: expected <stage>/<split>/<metric>: number")
    rows = []
    for key, value in item["values"].items():
        stage, _, metric = str(key).partition("/")
        rows.append({"stage": stage, "metric": metric, "value": value, **rest})
    return rows


def _listed(kind: str, raw: Mapping[str, Any], where: str) -> Plain:
    """Every name with what is said of it. Raises InputError for one that stands by itself and in an `each` too."""
    listed: Plain = {}
    origins: dict[str, str] = {}
    for written, item in raw.items():
        for name, arm in _arms(str(written), item, where).items():
            if name in listed:
                raise InputError(
                    f"{where}: {kind}.{name} stands twice, in {origins[name]!r} and in {str(written)!r}, and the first "
                    "would be lost; expected one of them to leave it out"
                )
            listed[name], origins[name] = arm, str(written)
    return listed


def _arms(name: str, item: Any, where: str) -> Plain:
    """A stage, or one for each combination of what `each` lists."""
    if not isinstance(item, Mapping) or "each" not in item:
        return {name: item}
    choices: Mapping[str, Sequence[Any]] = item["each"]
    if any(f"{{{key}}}" not in name for key in choices):
        raise InputError(f"{where}: stages.{name}.each: a stage's name holds each as {{name}}")
    limits.count_arms(choices, f"{where}: {name}.each")
    rest = {key: value for key, value in item.items() if key != "each"}
    arms = {}
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        arms[str(_filled(name, chosen))] = _filled(rest, chosen)
    return arms


def _filled(value: Any, chosen: Mapping[str, Any]) -> Any:
    """`{n}` replaced everywhere; a text that is nothing else becomes the value itself."""
    if isinstance(value, Mapping):
        return {key: _filled(item, chosen) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, chosen) for item in value]
    if not isinstance(value, str):
        return value
    for key, choice in chosen.items():
        if value == f"{{{key}}}":
            return choice
        value = value.replace(f"{{{key}}}", str(choice))
    return value


def _like(name: str, stages: Mapping[str, Any], where: str, asked: tuple[str, ...]) -> Any:
    item = stages[name]
    if not isinstance(item, Mapping) or "like" not in item:
        return copy.deepcopy(item)
    model = str(item["like"])
    if model not in stages:
        raise unknown(f"{where}: stages.{name}.like: stage", model, stages)
    if model in (*asked, name):
        raise InputError(f"{where}: stages like each other in a circle: {' -> '.join((*asked, name, model))}")
    _check_chain(asked, f"{where}: stages.{name}.like")
    below = {key: value for key, value in _like(model, stages, where, (*asked, name)).items() if key != "about"}
    merged: Plain = merge(below, {key: value for key, value in item.items() if key != "like"})
    return merged


def _check_chain(asked: tuple[str, ...], where: str) -> None:
    if len(asked) >= LONGEST:
        raise InputError(
            f"{where}: {asked[0]} is like another one over {len(asked)} others; expected {LONGEST} or fewer"
        )


def _defaults(data: Any, defaults: list[Any], stages: Sequence[str], where: str, groups: Groups) -> list[Any]:
    """The defaults list with a line for each stage's data, in front of `_self_`."""
    by_pattern = data if isinstance(data, Mapping) else {"*": data}
    said = {str(key) for entry in defaults if isinstance(entry, Mapping) for key in entry}
    lines: list[Any] = []
    for name in stages:
        chosen = [chain for pattern, chain in by_pattern.items() if fitting(pattern, [name], groups)]
        if not chosen or f"/data@stages.{name}.data" in said:
            continue
        chain = chosen[-1] if isinstance(chosen[-1], list) else [chosen[-1]]
        lines += [{f"/data@stages.{name}.data{'.source' * depth}": link} for depth, link in enumerate(chain)]
    for pattern in by_pattern:
        check_pattern(str(pattern), f"{where}: data")
        if not fitting(str(pattern), stages, groups):
            raise unknown(f"{where}: data: {_kind(str(pattern))}", str(pattern), [*stages, *groups])
    place = defaults.index("_self_") if "_self_" in defaults else len(defaults)
    return [*defaults[:place], *lines, *defaults[place:]]
