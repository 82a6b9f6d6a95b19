"""The ways a command ends badly, and the suggestion that goes with a misspelt name."""

from __future__ import annotations

import difflib
import errno
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.common import tracing
from experiments.common.paths import ROOT

NO_SHARED_MEMORY = re.compile("insufficient shared memory|unable to allocate shared memory|</torch_|Bus error")
NO_READER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)")
NO_MEMORY = re.compile(
    "can't allocate memory|CUDA out of memory|Cannot allocate memory|unable to mmap .* memory"
    "|failed to map segment from shared object|can't start new thread|could not create a primitive"
)
READING = ("available", "prepare_data", "setup")  # methods of a datamodule that look at files


class InputError(Exception):
    """The request cannot be run: a wrong name, value, path or file. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """A correct request failed while it ran: a NaN loss, a full disk, an exception in a stage. Exit code 1."""

    exit_code = 1


class KilledError(RunError):
    """A process that trained a stage was killed from outside: it is worth another try."""


class CodeError(RunError):
    """An exception in a paper's or a user's own code; the message leads to its line."""


def unknown(what: str, name: str, options: Iterable[str]) -> InputError:
    """One line that names the wrong name, the nearest valid one and, unless they are many, all of them."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    ending = f"; did you mean {close[0]!r}?" if close else "."
    listed = ", ".join(options) if options else "none"
    if len(listed) > 300 and close:
        return InputError(f"{what} {name!r} does not exist{ending}")
    if len(listed) > 300:
        listed = listed[:300].rpartition(",")[0] + ", ..."  # whole names
    return InputError(f"{what} {name!r} does not exist{ending} Valid: {listed}")


def missing_package(error: ModuleNotFoundError) -> str:
    """One line that names what is not installed and, where an extra of this project brings it, that extra."""
    name = (error.name or str(error)).split(".")[0]
    project = ROOT / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else "[project.optional-dependencies]"
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    spelt = name.replace("_", "-").casefold()
    for extra, packages in extras.items():
        if any(_distribution(package).startswith(spelt) for package in packages):
            has_own_lock = project.with_name(f"requirements-{extra}.lock").is_file()
            remedy = f"make extras EXTRAS={extra}" if has_own_lock else "make setup"
            return f"the package {name!r} is not installed: {remedy}"
    return f"the package {name!r} is not installed: make setup"


def _distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("_", "-").casefold()


def explain(error: BaseException) -> tuple[str, int]:
    """One line for people, and the exit code. What nobody foresaw is told with the line of code that it leads to."""
    return _foreseen(error) or (tracing.last_words(error) + tracing.lead(error), CodeError.exit_code)


def is_foreseen(error: BaseException) -> bool:
    """Whether an error's own words say what is wrong; the trace of any other one is worth keeping."""
    return _foreseen(error) is not None and not isinstance(error, CodeError)


def _foreseen(error: BaseException) -> tuple[str, int] | None:
    """What an error says that is meant for people, or that has a usual cause, and its exit code."""
    for link in _chain(error):
        if isinstance(link, InputError | RunError):
            return str(link), link.exit_code
        if type(link).__name__ == "DataError":  # known by name, so that torch need not be imported to look
            # A worker process puts its whole trace into the message; what it said comes last.
            return str(link).rpartition("DataError: ")[2].strip(), InputError.exit_code
        if isinstance(link, ModuleNotFoundError):
            return missing_package(link), InputError.exit_code
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return "the disk is full: free space and run the same command again", RunError.exit_code
        if isinstance(link, OSError | NotImplementedError) and _lacks_locks(link):
            told = "this file system has no locks (flock), without which two processes could train one stage at once"
            return f"{told}; name a folder on another one with runs_dir=...", InputError.exit_code
        if isinstance(link, RuntimeError) and NO_SHARED_MEMORY.search(str(link)):
            told = "shared memory (/dev/shm) is full: give it more room, or run with stages.*.data.num_workers=0"
            return told, RunError.exit_code
        if isinstance(link, RuntimeError) and NO_READER.search(str(link)):
            told = "a process that reads data was killed, as a machine does that runs out of memory"
            return f"{told}: run with fewer of them (stages.*.data.num_workers=1)", RunError.exit_code
        if isinstance(link, MemoryError) or NO_MEMORY.search(str(link)):
            told = "there is not enough memory: run fewer stages at a time (jobs=1) or smaller batches"
            return f"{told} ({tracing.last_words(link)[:120]})", RunError.exit_code
        if isinstance(link, OSError) and link.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = link.filename or "the runs folder"
            return f"cannot write to {where}: {link.strerror}; name another with runs_dir=...", InputError.exit_code
    if source := _data_that_was_read(error):
        return f"{source}: its data cannot be read ({tracing.last_words(error)})", InputError.exit_code
    return None


def _lacks_locks(error: BaseException) -> bool:
    """Whether a file could not be locked because its file system knows no locks."""
    if isinstance(error, NotImplementedError):
        return "flock" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.ENOSYS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from or beside, the latest first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _data_that_was_read(error: BaseException) -> str:
    """Whose reading an error ended: a datamodule and its root; empty for an error of anything else."""
    trace = error.__traceback__
    while trace is not None:
        code, caller = trace.tb_frame.f_code, trace.tb_frame.f_locals.get("self")
        if code.co_name in READING and "datamodules" in Path(code.co_filename).parts and caller is not None:
            root = getattr(caller, "root", None)
            return f"{type(caller).__name__} in {root}" if root else type(caller).__name__
        trace = trace.tb_next
    return ""
