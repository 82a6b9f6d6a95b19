"""What stages need that does not come with the install, and whether it is there: the one place that looks.

A need (datamodules.common.needs) is declared beside the datamodule or network that reads it. Imports torch only where
a stage reads files, or builds a network whose file declares needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.common.errors import InputError
from experiments.identity import content, definitions, dependencies
from experiments.running.plan import Stage

if TYPE_CHECKING:
    from datamodules.common.needs import Need

PLACES = ("root", "file", "path")  # arguments that say where somebody's files lie
LIBRARIES = "modules.common.needs"  # binds LIBRARIES: what networks of libraries need


def of_stages(stages: Iterable[Stage]) -> dict[Need, str]:
    """Each thing that stages need, once, and where it is first asked for, such as `stages.student.data`."""
    needs: dict[Need, str] = {}
    seen: set[str] = set()
    for stage in stages:
        for key, config in (("data", stage.data), ("module", stage.module)):
            for node in content.targets(config):
                if str(node) in seen:
                    continue
                seen.add(str(node))
                for need in _of_node(node):
                    needs.setdefault(need, f"stages.{stage.name}.{key}")
    return needs


def missing(stages: Iterable[Stage], here: bool = True) -> Iterator[str]:
    """One line for each thing that is not there; what can be fetched is fetched first.

    Args:
        here: whether stages run on this machine; others fetch for themselves.
    """
    told: set[str] = set()
    for need, where in of_stages(stages).items():
        problem = need.look()
        if problem and need.fetch is not None:
            problem = _fetch(need) if here else ""
        if problem and problem not in told:  # a view tells what its source tells
            told.add(problem)
            yield f"{where}: {problem}"


def _fetch(need: Need) -> str:
    """What is still missing after fetching it, and why it could not be fetched."""
    assert need.fetch is not None
    from datamodules.common.base import DataError

    reason = ""
    try:
        need.fetch()
    except (OSError, RuntimeError, ValueError, DataError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    problem = need.look()
    return f"{problem} (not fetched: {reason})" if problem and reason and reason not in problem else problem


def _of_node(node: Mapping[str, Any]) -> Iterable[Need]:
    """What one node of a configuration needs itself; what lies below it is a node of its own."""
    target = str(node["_target_"])
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    declared: Iterable[Need] = []
    if not definitions.is_first_party(target):
        libraries = importlib.import_module(LIBRARIES).LIBRARIES if options.get("pretrained") else {}
        declared = libraries[target](options) if target in libraries else []
        return declared

    module, _, name = target.rpartition(".")
    if _is_declared(module, name):
        declared = importlib.import_module(module).NEEDS[name](options)
        return declared
    reads = any(isinstance(options.get(key), str) for key in PLACES)
    return _of_data(node) if reads and not options.get("generated") and content.reads_files(node) else []


def _is_declared(module: str, name: str) -> bool:
    """Whether NEEDS of a module has a name, by its source: importing a network's file takes seconds."""
    definition = definitions.locate(f"{module}.NEEDS")
    return isinstance(definition, definitions.Definition) and f"'{name}':" in dependencies.content(definition).text


def _of_data(node: Mapping[str, Any]) -> Iterable[Need]:
    """Nothing where a datamodule cannot be built from its configuration alone: what it shows is asked by itself."""
    from datamodules.common.base import DataError
    from datamodules.common.needs import of_data
    from experiments.config.instantiate import build

    try:
        data = build(dict(node), "data")
    except (InputError, DataError, TypeError, ValueError):
        return []  # the stage itself says what is wrong with it
    need = of_data(data)
    return [need] if need is not None else []


def size_on_disk(need: Need) -> int | None:
    """Bytes of a file that is there; None for folders, which may hold millions of files, and what is not there."""
    path = Path(need.files)
    return path.stat().st_size if need.files and path.is_file() else None
