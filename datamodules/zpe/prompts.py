"""A downstream set's class names and the templates of its prompts: listed, or read from the released file."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.common.base import DataError

SLOT = "{}"  # where a template takes the class name


@dataclass(frozen=True)
class Prompts:
    """What a set's classifiers are made from.

    Attributes:
        classes: names, in the order of the labels.
        pool: P different templates, each with a slot for the class name.
        own: those of the pool that people wrote for this set.
        planted: those of the pool that are known to say little about the class; only measured, never used.
    """

    classes: tuple[str, ...]
    pool: tuple[str, ...]
    own: tuple[str, ...]
    planted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.pool)) < len(self.pool):
            raise DataError("pool: a template stands in it twice")
        if wrong := next((t for t in self.pool if SLOT not in t), None):
            raise DataError(f"template {wrong!r} has no {SLOT} for the class name")
        if stray := next((t for t in (*self.own, *self.planted) if t not in self.pool), None):
            raise DataError(f"template {stray!r} is not in the pool")


class Listed:
    """Prompts that a configuration lists.

    Args:
        classes, pool, own: see Prompts.
    """

    def __init__(self, classes: Sequence[str], pool: Sequence[str], own: Sequence[str] = ()) -> None:
        self.prompts = Prompts(tuple(classes), tuple(pool), tuple(own))

    def available(self) -> str:
        return ""

    def read(self) -> Prompts:
        return self.prompts


class Released:
    """The paper's prompts and class names, from multimodal_utils.py of github.com/google/uncertainty-baselines.

    The file is parsed, not run: its literals hold a list of templates and one of class names for each dataset.

    Args:
        file: path of multimodal_utils.py.
        classes: dataset whose class names are used; imagenet_a and imagenet_r are 200 of imagenet's.
        own: dataset whose templates are the set's own; None takes that of `classes`.
    Raises:
        DataError: the file is missing, cannot be parsed, or does not know the dataset.
    """

    def __init__(self, file: str, classes: str, own: str | None = None) -> None:
        self.file = Path(file)
        self.classes = classes
        self.own = own or classes

    def available(self) -> str:
        if self.file.is_file():
            return ""
        where = "experimental/multimodal of github.com/google/uncertainty-baselines"
        return f"{self.file} is missing: copy it from {where}"

    def read(self) -> Prompts:
        if problem := self.available():
            raise DataError(problem)
        literals = self.literals()
        lists = literals.get("_ZEROSHOT_TEMPLATES", {})
        if self.own not in lists:
            raise DataError(f"{self.file} has no templates for {self.own!r}; it has {', '.join(lists)}")
        pool = tuple(dict.fromkeys(template for templates in lists.values() for template in templates))
        return Prompts(self.class_names(literals), pool, tuple(dict.fromkeys(lists[self.own])))

    def literals(self) -> dict[str, Any]:
        """Every constant of the file that is written out, by name."""
        try:
            tree = ast.parse(self.file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file} cannot be parsed: {error}") from error
        constants = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    constants[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:
                    continue  # computed, not written out
        return constants

    def class_names(self, literals: dict[str, Any]) -> tuple[str, ...]:
        lists = literals.get("_ZEROSHOT_CLASS_NAMES", {})
        subset = f"_{self.classes.upper()}_LABELSET"  # labels of imagenet that the dataset has
        if self.classes in lists:
            return tuple(lists[self.classes])
        if subset in literals and "imagenet" in lists:
            return tuple(lists["imagenet"][label] for label in literals[subset])
        raise DataError(f"{self.file} has no class names for {self.classes!r}; it has {', '.join(lists)}")
