"""Commits that records name and no clone has, told in `results/lost_commits.yaml`. Imports no torch.

A branch that is made anew leaves its old commits to nobody. What ran from one of them keeps its name; the file says
which commit of the history has the same code, and why. It excuses nothing else, and each is told at every check.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import TypeAdapter, ValidationError

from experiments.common.errors import InputError
from experiments.config import limits
from experiments.evidence import results
from experiments.evidence.order import History
from experiments.evidence.part import Part, first_mistake


class Lost(Part):
    """A commit that nothing leads to.

    Attributes:
        commit: its full hash.
        same_code: a commit of the history whose files are the same, those below results/ left out.
        why: how it was lost.
    """

    commit: str
    same_code: str
    why: str


def read() -> dict[str, Lost]:
    """The lost commits by their hashes; none where there is no file.

    Raises:
        InputError: the file is not a list of them.
    """
    path = results.base() / "lost_commits.yaml"
    if not path.exists():
        return {}
    try:
        listed = TypeAdapter(list[Lost]).validate_python(limits.read(path, path.name))
    except ValidationError as error:
        raise InputError(f"{path.name}: {first_mistake(error)}") from error
    return {item.commit: item for item in listed}


def problems(lost: Mapping[str, Lost], named: Collection[str], history: History) -> Iterator[str]:
    """Lost commits that are not lost, that no record names, or whose stand-in is not there or has other code.

    Args:
        named: commits that records name.
    """
    for commit, item in lost.items():
        where = f"lost_commits.yaml: {commit[:12]}"
        if commit not in named:
            yield f"{where}: no record names it"
        if not history.missing([commit]):
            yield f"{where}: the history has it"
        if history.missing([item.same_code]):
            yield f"{where}: same_code: the commit {item.same_code[:12]} is not in the history"
        elif history.git("cat-file", "-e", commit) is not None and history.differs(commit, item.same_code):
            yield f"{where}: same_code: {item.same_code[:12]} has other code"
