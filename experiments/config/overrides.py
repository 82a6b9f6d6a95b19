"""Lines of a command line, before Hydra reads them: parted, quoted, and one for each stage that a pattern means.

`stages.*.key=value` and `data@stages.*.data=name` stand for one line for every stage whose name fits the pattern; a
group of the paper's file (`groups: {students: [...]}`) may stand for the pattern, and `~stages.group` takes all its
stages away. Nothing is composed here. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from experiments.common.errors import InputError, unknown
from experiments.config import reading, recipes

GROUPS = ("paper", "scale", "trainer", "logger", "launcher", "data")
SENTENCES = ("why", "objective")  # whose values are plain text: a comma or a colon in them means nothing


def split(line: str) -> tuple[str, str]:
    """Key and value. Raises InputError for a line that has none."""
    key, separator, value = line.partition("=")
    if not separator and not line.startswith("~"):
        raise InputError(f"{line!r}: expected key=value, as in scale=smoke or stages.student.trainer.max_epochs=3")
    return key, value


def quoted(sentence: str) -> str:
    """A sentence as Hydra's grammar writes one; what is in quotes already stays."""
    if sentence[:1] in ("'", '"') and sentence[-1:] == sentence[:1] and len(sentence) > 1:
        return sentence
    # A backslash is one, but for those before a quote: they are doubled, and so are those at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), sentence)
    return f"'{escaped}'"


def chooses_option(line: str) -> bool:
    """Whether a line chooses an option of a group, as data@stages.student.data=mnist does."""
    return split(line)[0].lstrip("+~").partition("@")[0] in GROUPS


def for_each_stage(line: str, stages: Sequence[str], groups: recipes.Groups) -> list[str]:
    """`stages.*.x=1` once for every stage that fits; another line as it is. Raises InputError if no stage fits."""
    key, value = split(line)
    match = re.match(r"(.*?stages\.)([^.]+)(\..*)", key)
    if match is None or (match[2] not in groups and "*" not in match[2]):
        return [line]
    names = recipes.fitting(match[2], stages, groups)
    if not names:
        raise unknown("stage pattern", match[2], [*stages, *groups])
    return [f"{match[1]}{name}{match[3]}={value}" for name in names]


def each_removed(line: str, stages: Sequence[str], groups: recipes.Groups) -> list[str]:
    """`~stages.group` once for each stage of the group; another line as it is."""
    word = line.removeprefix("~stages.") if line.startswith("~stages.") else ""
    names = recipes.fitting(word, stages, groups) if word in groups or "*" in word else []
    return [f"~stages.{name}" for name in names] or [line]


def check_options(lines: Iterable[str]) -> None:
    """Raises InputError for lines that cannot be read and for options that their group does not have."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(lines))
    except (HydraException, ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits
        raise InputError(f"cannot read the command line: {str(error).splitlines()[0]:.300}") from error
    options = cache(reading.options)  # looked up once for all lines
    for override in parsed:
        group = override.key_or_group
        if group in GROUPS and not override.is_sweep_override():
            value = str(override.value())
            if value not in options(group):
                raise unknown(f"{override.get_key_element()}: {group}", value, options(group))
