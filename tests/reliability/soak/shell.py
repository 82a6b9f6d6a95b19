"""What a shell acts on, in the words that reach one: make's variables and targets, and options of jobs. No torch."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.errors import InputError
from experiments.common.paths import ROOT

ACTING = (
    "x;touch owned",
    "x|touch owned",
    "x&touch owned",
    "$(touch owned)",
    "`touch owned`",
    "x'touch owned",
    "x\ntouch owned",
    "x\ntouch owned #",
)
WORDS = (
    "PAPER=zpe;touch owned",
    "PAPER=zpe|touch owned",
    "PAPER=`touch owned`",
    "PAPER=$(shell touch owned)",
    "PAPER=$$(touch owned)",
    "PAPER=zpe\ntouch owned",
    "VARIANT=x' touch owned '",
    'SCALE=mini" touch owned "',
    "MINUTES=1&touch owned",
    "SEEDS=$(shell touch owned)",
    "x;touch${IFS}owned",
    "x`touch${IFS}owned`",
    "x';touch${IFS}owned;'",
    "wrong;touch${IFS}owned=1",
    "EXTRA=../mine;touch owned",
)
SURROUNDINGS = ("PAPER=zpe;touch owned", "SCALE=$(shell touch owned)", "EXTRA=`touch owned`")  # of the environment
OPTIONS = ("partition", "account", "extra")


def make(*words: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """`make -n` with these words: what it would do, with all that it expands and asks a shell for on the way.

    Args:
        words: of the command line.
        surroundings: variables of the environment.
    """
    # What is started by make itself would take its variables for its own.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    known = {**alone, **surroundings}
    return subprocess.run(
        ["make", "-n", *words], cwd=ROOT, env=known, capture_output=True, text=True, timeout=60, check=False
    )


def made(word: str, *, typed: bool = True) -> str:
    """What is wrong with the way in which make refuses a word; empty if nothing is.

    Args:
        word: name=value, or a target.
        typed: on the command line; else it is a variable of the environment.
    """
    owned = ROOT / "owned"
    name, _, value = word.partition("=")
    words = ["reproduce"] if name == "PAPER" else ["reproduce", "PAPER=zpe"]
    done = make(*words, word) if typed else make(*words, **{name: value})
    if owned.exists():
        owned.unlink()
        return "it was executed"
    if "Traceback" in done.stderr:
        return f"traceback: {done.stderr.splitlines()[-1][:100]}"
    return "" if done.returncode == 2 else f"it ended with {done.returncode}, not 2"


def submitted(option: str, text: str, folder: Path) -> str:
    """What is wrong with a job of Slurm that has this text for an option: refused, or a script without its command.

    Programs of one's own stand for Slurm's; `sbatch` runs the script as a node would, but for `srun`.
    """
    from experiments.running import cluster
    from experiments.running.plan import Plan, Stage

    folder.mkdir(parents=True, exist_ok=True)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    scripts = {"sbatch": f'cd "{folder}" && bash "$1" >/dev/null 2>&1\necho "Submitted batch job 1"', "srun": "true"}
    for name, body in {**scripts, "squeue": "true", "scancel": "true"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    launcher: dict[str, Any] = {"name": "submitit_slurm", "partition": None, "account": None, "timeout_min": 5}
    launcher |= {"mem_gb": 1, "cpus_per_task": 1, "gpus": None, "extra": {}}
    launcher[option] = {"constraint": text} if option == "extra" else text
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}{os.pathsep}{before}"
    try:
        with cluster.open_cluster(launcher, 1, folder / "jobs") as opened:
            stage = Stage("pool", {}, {}, {"accelerator": "cpu", "devices": 1})
            opened.service.submit(Plan("zpe", "smoke", None, 0, {"pool": stage}, {}), stage)
    except InputError as error:
        refused = str(error)
        return "" if "\n" not in refused else "it is not one line"
    finally:
        os.environ["PATH"] = before
    return "it was executed" if (folder / "owned").exists() else ""


def attempts(folder: Path) -> Iterator[tuple[str, str]]:
    """(what was tried, problem or "") for each word of make and each option of a job."""
    if shutil.which("make"):
        for word in WORDS:
            yield f"make reproduce {word!r}", made(word)
        for word in SURROUNDINGS:
            yield f"{word!r} make reproduce", made(word, typed=False)
    for option in OPTIONS:
        for text in ACTING:
            yield f"launcher.{option}={text!r}", submitted(option, text, folder / option)
