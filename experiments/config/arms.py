"""An arm of a user's own in a paper of the suite: conf/arms/<paper>/<name>.yaml of an overlay. Imports no torch.

    like: student                        # a stage of the paper: the arm is the same but for what is said here
    about: one teacher and smoothed labels
    needs: {teachers: [teacher_a], student: init}
    module: {discriminator: null, labels: {smoothing: 0.1}}      # or one's own: {_target_: mine.modules.x.Y, ...}
    claim:                               # what it is judged by; written before any number is seen
      name: one teacher and smoothed labels are as good as MEAL V2
      better: mine/test/top1
      than: {MEAL V2: student/test/top1, hard labels: continued/test/top1}
      worth: 1
      worth_reason: as the paper's own claim

An arm is a variant of its paper, by its name: it composes what the paper's setting (`scale`, mini by default, and
`variant`) does, adds the arm as a stage, and leaves out what neither the arm nor what it is compared with needs. The
arm belongs to the groups of the stage that it is like, so that the recipe's grid and ranges turn its numbers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic.dataclasses import dataclass as pydantic_dataclass

from experiments.common.errors import InputError, unknown
from experiments.common.plain import Plain
from experiments.config import expressions, recipes
from experiments.config.comparisons import Claim
from experiments.config.stages import Trainer, Wiring
from experiments.config.written import CLOSED, Closed, Flag, Node, Scale, Text, read

REFERENCE = re.compile(r"\$\{stages\.(\w+)")
ALONE = re.compile(r"\$\{(stages\.[\w.]+)\}")


@pydantic_dataclass(frozen=True, kw_only=True, config=CLOSED)
class Arm(Closed):
    """What an arm's file says."""

    like: Text
    about: Text
    claim: Node
    scale: Scale = "mini"  # type: ignore[valid-type]
    variant: Text | None = None
    needs: Wiring | None = None
    feeds: Wiring | None = None
    module: Node | None = None
    data: Node | None = None
    trainer: Trainer | None = None
    start_like: Text | None = None
    fit: Flag | None = None


STAGE = ("about", "needs", "feeds", "module", "data", "trainer", "start_like", "fit")  # of an arm, as of a stage


def join(about: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], where: Mapping[str, str]) -> Plain:
    """A paper's content with a variant for each arm, the arm in the groups of the stage that it is like.

    Args:
        about: the paper's file, written out.
        arms: name -> its file's content.
        where: name -> its file, for messages.
    Raises:
        InputError: a key that an arm does not have, a claim that makes no sense, a name that the paper has already.
    """
    variants = dict(about.get("variants") or {})
    groups = {name: _copy(members) for name, members in (about.get("groups") or {}).items()}
    for name, content in arms.items():
        names = [*(about.get("variants") or {}), *(about.get("stages") or {}), *groups, "default"]
        if name in names:
            raise InputError(f"{where[name]}: {name} is a stage, group or variant of the paper; expected another name")
        check(name, content, where[name])
        variants[name] = _variant(content, about, where[name])
        for members in groups.values():
            if isinstance(members, list) and content["like"] in members:
                members.append(name)
    return {**about, "variants": variants, "groups": groups} if arms else dict(about)


def _copy(members: Any) -> Any:
    return list(members) if isinstance(members, list) else members


def check(name: str, content: Mapping[str, Any], where: str) -> None:
    """Raises InputError for an arm's file that makes no sense by itself."""
    read(Arm, content, where)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is None:
        raise InputError(f"{where}: an arm's name may hold letters, digits and _ alone")
    claim = read(Claim, content["claim"], f"{where}: claim")
    if not claim.worth_reason:
        raise InputError(f"{where}: claim.worth_reason: expected why {claim.worth or claim.within} is worth the name")
    if content.get("scale") == "smoke":
        raise InputError(f"{where}: scale=smoke: expected mini, lab or full; smoke runs of an arm need no file")
    sides = claim.sides(f"{where}: claim")
    if name not in {metric.stage for side in sides for metric in expressions.metrics(side)}:
        raise InputError(f"{where}: claim: compares other stages; expected {name}/test/... on one side")


def _variant(content: Mapping[str, Any], about: Mapping[str, Any], where: str) -> Plain:
    """The variant of the paper that an arm stands for."""
    base = content.get("variant")
    variants = about.get("variants") or {}
    if base is not None and base not in variants:
        raise unknown(f"{where}: variant", str(base), variants)
    scale = content.get("scale") or (variants[base]["scale"] if base else "mini")
    if base is not None and variants[base]["scale"] != scale:
        raise InputError(f"{where}: variant={base} is one of scale={variants[base]['scale']}, not of scale={scale}")
    overrides = list(variants[base].get("overrides") or []) if base is not None else []
    return {"scale": scale, "about": content["about"], "overrides": overrides}


def place(config: DictConfig, name: str, content: Mapping[str, Any], groups: recipes.Groups, where: str) -> None:
    """Add an arm to a composed configuration of its paper, in place, and take away what it does not need.

    Args:
        config: composed, with the arm's variant.
        name: of the arm.
        content: of its file.
        groups: of the paper, the arm in them.
        where: its file, for messages.
    Raises:
        InputError: a stage that is not there.
    """
    OmegaConf.set_struct(config, False)
    stages: Any = OmegaConf.to_container(config.stages, resolve=False)
    like = str(content["like"])
    if like not in stages:
        raise unknown(f"{where}: like: stage", like, stages)
    own = {key: content[key] for key in STAGE if content.get(key) is not None}
    arm = recipes.merge({key: value for key, value in stages[like].items() if key != "about"}, own)
    arm["start_like"] = arm.get("start_like") or like  # from the random state of what it is compared with
    config.stages[name] = arm

    claim = {**content["claim"], "main": True, "asked_by": "suite"}
    needed = _needed(config, name, claim, where)
    for stage in needed:
        _write_out_references(config, config.stages[stage], needed)
    needed |= {each for stage in needed for each in _referred(config, stage)}
    for stage in [str(each) for each in config.stages if each not in needed]:
        del config.stages[stage]
    config.claims = [claim]
    config.checks = []
    config.objective = None
    _narrow(config, name, groups)
    OmegaConf.set_struct(config, True)


def _needed(config: DictConfig, name: str, claim: Mapping[str, Any], where: str) -> set[str]:
    """The arm, what its claim looks at, and all that these need."""
    asked = read(Claim, claim, f"{where}: claim")
    stages = [str(stage) for stage in config.stages]
    sides = list(asked.sides(f"{where}: claim"))
    for text in asked.preconditions():
        left, _, right = expressions.comparison(text, f"{where}: claim.requires")
        sides += [left, right]
    queue = [name, *(stage for side in sides for stage in expressions.check(side, stages, f"{where}: claim"))]
    kept: set[str] = set()
    while queue:
        stage = queue.pop()
        if stage not in stages:
            raise unknown(f"{where}: needs: stage", stage, stages)
        if stage not in kept:
            kept.add(stage)
            queue += _predecessors(config.stages[stage])
    return kept


def _predecessors(stage: DictConfig) -> Iterator[str]:
    for key in ("needs", "feeds"):
        wired: Any = OmegaConf.to_container(stage[key], resolve=True) if stage.get(key) else {}
        for names in wired.values():
            yield from [names] if isinstance(names, str) else names


def _write_out_references(config: DictConfig, node: Any, kept: Iterable[str]) -> None:
    """Put what stands in a stage that will be left out in place of `${stages.that.key}`, unresolved as it stands."""
    keys = list(node.keys()) if OmegaConf.is_dict(node) else range(len(node)) if OmegaConf.is_list(node) else ()
    for key in keys:
        raw = _raw(node, key)
        while isinstance(raw, str) and (match := ALONE.fullmatch(raw)) and match[1].split(".")[1] not in kept:
            parent, _, last = match[1].rpartition(".")
            raw = _raw(OmegaConf.select(config, parent), last)
            node[key] = raw
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            _write_out_references(config, node[key], kept)


def _raw(node: Any, key: Any) -> Any:
    """A value as it is written, nothing resolved."""
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return plain[key]


def _referred(config: DictConfig, stage: str) -> set[str]:
    """The stages that a stage's values still refer to."""
    return set(REFERENCE.findall(OmegaConf.to_yaml(config.stages[stage], resolve=False)))


def _narrow(config: DictConfig, name: str, groups: recipes.Groups) -> None:
    """The recipe's grid for the arm and those of its arms that stay, and its ranges for what is there."""
    stages = [str(stage) for stage in config.stages]

    def there(keys: Iterable[str]) -> list[str]:
        return [
            key for key in keys if not key.startswith("stages.") or recipes.fitting(key.split(".")[1], stages, groups)
        ]

    if config.get("tune") and not config.tune.get("none"):
        config.tune.arms = [arm for arm in config.tune.arms if arm in stages] + [name]
        config.tune["keys"] = there(config.tune["keys"])
    for knob in list(config.get("vary") or {}):
        config.vary[knob]["keys"] = there(config.vary[knob]["keys"])
        if not config.vary[knob]["keys"]:
            del config.vary[knob]
