"""Values as people write them: pydantic types that say in plain words what they expect, and how content is read.

A value that was checked stays as it was written, 1 does not become 1.0: hashes depend on it. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ArgsKwargs, CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from experiments.common.errors import InputError, unknown
from experiments.common.plain import Config, Plain

CLOSED = ConfigDict(extra="forbid", defer_build=True)
OPEN = ConfigDict(extra="allow", defer_build=True)  # besides its fields, values of one's own
LATER = "later"  # in the context of a check: a value may be `${another.key}` or hold a `{placeholder}`

T = TypeVar("T")


@dataclass(frozen=True)
class Written:
    """An annotation of a type: its values stay as they were written, and a wrong one is told in these words.

    A file may say `${another.key}` or, under `each`, a `{placeholder}` instead: what stands there is known only later.
    """

    expected: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        def check(value: Any, inside: Callable[[Any], Any], info: ValidationInfo) -> Any:
            if isinstance(value, str) and "{" in value and (info.context or {}).get(LATER):
                return value
            try:
                inside(value)
            except ValidationError as error:
                if any(details["loc"] or details["type"] == "key" for details in error.errors(include_url=False)):
                    raise  # it is about something inside
                raise PydanticCustomError("expected", "expected {words}", {"words": self.expected}) from error
            return value

        return core_schema.with_info_wrap_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Callable[[Any], Plain]) -> Any:
        inner = handler(schema)
        return inner if inner.get("type") == "string" else {"anyOf": [inner, {"type": "string", "pattern": r"\{"}]}


def _check(holds: bool, value: T) -> T:
    if not holds:
        raise ValueError
    return value


def keys_of(*names: str) -> BeforeValidator:
    """An annotation of a mapping: it has no other keys than these."""
    return BeforeValidator(lambda value: _check_keys(value, names))


def choice_of(literal: Any) -> Any:
    """The type of one of a Literal's values."""
    return Annotated[literal, Written(f"one of {', '.join(map(str, get_args(literal)))}")]


Text = Annotated[str, Written("a text")]
Key = Annotated[
    str,
    Field(pattern="^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=40),
    Written("a name of small letters, digits and _, as in st_protopnet"),
]
Arxiv = Annotated[
    str,
    Field(pattern=r"^(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?$"),
    Written('a text that is an arXiv number, as in "1710.09412"'),
]
Flag = Annotated[bool, Strict(), Written("true or false")]
Whole = Annotated[int, Strict(), Field(ge=1), Written("a whole number from 1")]
Count = Annotated[int, Strict(), Field(ge=0), Written("a whole number from 0")]
Devices = Annotated[
    int, Strict(), AfterValidator(lambda n: _check(n == -1 or n > 0, n)), Written("a whole number from 1, or -1")
]
Number = Annotated[float, Strict(), AllowInfNan(False), Written("a finite number")]
Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0), Written("a positive number")]
FromZero = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0), Written("a number from 0")]
Fraction = Annotated[
    float, Strict(), AllowInfNan(False), Field(gt=0, lt=1), Written("a number between 0 and 1, without both")
]
Node = Annotated[Config, Written("a mapping")]
Names = Text | Sequence[Text]  # one, or several
Scale = choice_of(Literal["full", "lab", "mini", "smoke"])


@pydantic_dataclass(frozen=True, config=CLOSED)
class Closed:
    """A class whose content has no other keys than its fields; another one is told with the nearest."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        is_open = cls.__pydantic_config__["extra"] == "allow"  # type: ignore[attr-defined]
        if is_open or isinstance(content, ArgsKwargs):  # the latter: called by the project's own code
            return content
        return _check_keys(content, [field.name for field in fields(cls)])  # type: ignore[arg-type]


def _check_keys(content: Any, names: Iterable[str]) -> Any:
    if isinstance(content, Mapping):
        for key in content:
            if key not in names:
                raise PydanticCustomError("key", "key {key}", {"key": str(key), "names": list(names)})
    return content


@lru_cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # type: ignore[arg-type]


def read(kind: type[T], content: Any, where: str = "", *, later: bool = False) -> T:
    """Content as an instance of a class.

    Args:
        kind: the class, or another type that pydantic knows.
        content: plain data.
        where: a file or the key that the content stands at, for messages.
        later: whether interpolations and placeholders are still open, as in a file.
    Raises:
        InputError: one line that names the key, what was expected and, for a wrong name, the nearest valid one.
    """
    try:
        checked: T = _adapter(kind).validate_python(  # type: ignore[arg-type]
            content, context={LATER: later}
        )
    except ValidationError as error:
        raise _explain(error.errors(include_url=False), content, where) from None
    return checked


CONTAINERS = {"dict": "a mapping", "dataclass": "a mapping", "mapping": "a mapping", "list": "a list"}
CONTAINERS |= {"sequence": "a list", "is_instance_of": "a list", "tuple": "a list"}


def _explain(errors: Sequence[ErrorDetails], content: Any, where: str) -> InputError:
    """The first mistake in one line; where a value may be of several types, what each of them expects."""
    first = min(errors, key=lambda error: error["type"] != "key")  # a misspelt key is why another one is missing
    path = _path(first, content)
    place = _joined(where, path)
    if first["type"] == "key":
        return unknown(f"{place}: key" if place else "key", first["ctx"]["key"], first["ctx"]["names"])
    if first["type"] in ("missing", "missing_argument"):
        return InputError(f"{_joined(where, path[:-1])}: {path[-1]} is missing")
    if first["type"] == "value_error":
        return InputError(f"{place}: {first['ctx']['error']}")

    expected = [words for error in errors if _path(error, content) == path and (words := _expected(error))]
    choices = next((words for words in expected if words.startswith("one of ")), None)
    if choices is not None and isinstance(first["input"], str):
        names = choices.removeprefix("one of ").split(", ")
        return unknown(f"{_joined(where, path[:-1])}: {path[-1]}", first["input"], names)
    told = " or ".join(dict.fromkeys(expected)) or first["msg"]
    return InputError(f"{place}={first['input']!r:.200}: expected {told}")


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "expected":
        return str(error["ctx"]["words"])
    return CONTAINERS.get(re.sub(r"_(type|str)$", "", error["type"]), "")


def _path(error: ErrorDetails, content: Any) -> tuple[str, ...]:
    """Where an error is, in the content's own keys: pydantic's place names the members of unions too."""
    path: list[str] = []
    for number, step in enumerate(error["loc"]):
        last = number == len(error["loc"]) - 1
        inside = step in content if isinstance(content, Mapping) else isinstance(content, list | tuple)
        if inside and (isinstance(content, Mapping) or isinstance(step, int)):
            content = content[step]
        elif not (last and error["type"] in ("missing", "missing_argument")):
            continue
        path.append(str(step))
    return tuple(path)


def _joined(where: str, path: Sequence[str]) -> str:
    """`where` is a file, followed by a colon, or the key that the path goes on from."""
    if not path:
        return where
    return f"{where}: {'.'.join(path)}" if where.endswith(".yaml") else ".".join([*filter(None, [where]), *path])
