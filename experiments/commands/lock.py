"""`make lock` and the audit of `make lint`: the exact packages, with hashes, that are installed.

`requirements.lock` holds what `make setup` installs, made from pyproject.toml's ranges by uv for every supported Python
version at once; `requirements-<extra>.lock` what `make extras EXTRAS=<extra>` adds to it. torch and torchvision are
pinned in pyproject.toml and, with what they bring for a GPU, in none of them: which of their builds a machine needs
(CPU, CUDA, ROCm) is the machine's affair, and hashes are a build's. `make setup` takes them from one index alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from experiments.commands import cli
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT
from experiments.common.plain import Plain

LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
# The extras that `make setup` installs; each other one has a lock.
INSTALLED = ("dev", "sweep", "dashboard", "tensorboard", "nnunet")
# Extra -> what one of its packages holds below the locked version, and yet works with: the lock's version stands.
LOOSENED = {"trackio": ("pillow",)}  # it asks for pillow below 13, and opens and saves pictures alone
PYTHON = "3.11"  # the oldest that is supported; uv's universal resolution covers what is newer
MACHINE = re.compile(r"^(torch|torchvision|triton|nvidia-.*|cuda-.*)$")
HASH = re.compile(r"^sha256:[0-9a-f]{64}$")
HEAD = "# made by `make lock` from pyproject.toml's ranges "
SECOND = "# torch and what belongs to it are the machine's own: see experiments/commands/lock.py\n"

# What must never be installed by a slip: why.
REFUSED = {
    "lightning": "releases of it stole credentials; the suite uses pytorch-lightning",
    "torchattacks": "pins an old requests",
    "advertorch": "not maintained since 2020",
    "cabrnet": "pins scikit-learn, gradio and ray",
}

HELP = """\
Audit the lock file, without network.

  python -m experiments.commands.lock            is every package pinned, hashed, in its range, and what is installed?
  python -m experiments.commands.lock --write    make it anew from pyproject.toml (needs uv and a network)

"""


def main(argv: list[str]) -> int:
    if argv not in ([], ["--write"]):
        raise InputError(f"{' '.join(argv)!r}: expected nothing or --write")
    if argv:
        write()
    if not LOCK.is_file():
        raise InputError(f"{LOCK.name} is missing: make lock")
    project = read_project()
    text = LOCK.read_text(encoding="utf-8")
    installed = {d.name: d.version for d in metadata.distributions()}
    wrong = [*audit(text, project), *loose(project), *compare(text, installed)]
    count = len(list(entries(text)))
    for extra in extras(project):
        path = lock_of(extra)
        more = path.read_text(encoding="utf-8") if path.is_file() else ""
        wrong += [*audit(more, project, extra), *compare(more, installed, extra)]
        count += len(list(entries(more)))
    for line in wrong:
        print(line)
    print(f"{LOCK.name} and those of extras: {count} packages audited, {len(wrong)} findings")
    return 1 if wrong else 0


def read_project() -> Plain:
    """The [project] table of pyproject.toml."""
    project: Plain = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return project


def extras(project: Mapping[str, Any]) -> list[str]:
    """Those with a lock of their own."""
    return [name for name in project["optional-dependencies"] if name not in INSTALLED]


def lock_of(extra: str | None) -> Path:
    return LOCK if extra is None else LOCK.with_name(f"requirements-{extra}.lock")


def loose(project: Mapping[str, Any]) -> Iterator[str]:
    """What no lock holds and pyproject does not pin."""
    for requirement in direct(project):
        pins = list(requirement.specifier)
        exact = len(pins) == 1 and pins[0].operator == "==" and not pins[0].version.endswith("*")
        if MACHINE.match(canonicalize_name(requirement.name)) and not exact:
            yield f"{requirement}: expected == and one version in {PROJECT.name}, since no lock holds it"


def write() -> None:
    """Resolve pyproject's ranges anew, then each extra's beside them. Raises RunError with uv's own words."""
    project = read_project()
    requirements = [lines for name, lines in _resolve() if not MACHINE.match(name)]
    _write(None, project, requirements)
    known = {tuple(lines) for lines in requirements}
    for extra in extras(project):
        more = [lines for name, lines in _resolve(extra) if not MACHINE.match(name) and tuple(lines) not in known]
        _write(extra, project, more)


def _write(extra: str | None, project: Mapping[str, Any], requirements: list[list[str]]) -> None:
    head = f"{HEAD}{ranges_hash(project, extra)}\n{SECOND}"
    text = head + "".join(f"{line}\n" for lines in requirements for line in lines)
    lock_of(extra).write_text(text, encoding="utf-8")


def _resolve(extra: str | None = None) -> list[tuple[str, list[str]]]:
    """(name, lines) of all that is needed; with an extra, beside what is locked already."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise InputError("uv is not installed: pip install uv")
    wanted = [*INSTALLED, *([extra] if extra else [])]
    command = [uv, "pip", "compile", PROJECT.name, "--universal", "--generate-hashes", "--python-version", PYTHON]
    options = ["--no-header", "--no-annotate", "--quiet", *(word for name in wanted for word in ("--extra", name))]
    options += ["--constraint", LOCK.name] if extra else []
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as overrides:
        overrides.writelines(f"{pin}\n" for pin in _loosened(extra))
        overrides.flush()
        options += ["--override", overrides.name]
        compiled = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise RunError(f"uv could not resolve {PROJECT.name}: {compiled.stderr.strip()}")
    return list(entries(compiled.stdout))


def _loosened(extra: str | None) -> Iterator[str]:
    """The locked versions that stand whatever an extra's packages ask for."""
    wanted = LOOSENED.get(extra or "", ())
    for name, lines in entries(LOCK.read_text(encoding="utf-8")) if wanted else ():
        requirement, _ = pinned(lines)
        if name in wanted and requirement is not None:
            yield str(requirement)


def entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """(canonical name, lines) of each requirement in a lock's text."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        lines.append(line)
        if not line.endswith("\\"):
            yield canonicalize_name(re.split(r"[^\w.-]", lines[0].strip(), maxsplit=1)[0]), lines
            lines = []
    if lines:
        yield lines[0], lines


def pinned(lines: list[str]) -> tuple[Requirement | None, list[str]]:
    """An entry's requirement, None where it is none, and its hashes."""
    words = " ".join(line.rstrip("\\").strip() for line in lines).split(" --hash=")
    try:
        return Requirement(words[0].strip()), words[1:]
    except InvalidRequirement:
        return None, words[1:]


def direct(project: Mapping[str, Any], extra: str | None = None) -> list[Requirement]:
    """What pyproject asks for, of that which `make setup` installs, or of one extra."""
    optional = project["optional-dependencies"]
    if extra is not None:
        return [Requirement(item) for item in optional[extra]]
    return [
        Requirement(item) for item in (*project["dependencies"], *(i for name in INSTALLED for i in optional[name]))
    ]


def ranges_hash(project: Mapping[str, Any], extra: str | None = None) -> str:
    asked = [*direct(project), *(direct(project, extra) if extra else [])]
    return hashlib.sha256(json.dumps(sorted(map(str, asked))).encode()).hexdigest()[:16]


def audit(text: str, project: Mapping[str, Any], extra: str | None = None) -> Iterator[str]:
    """What is wrong with a lock's text, a line each.

    Args:
        text: of the lock file.
        project: the [project] table of pyproject.toml.
        extra: whose lock it is; None for that of `make setup`.
    """
    where = lock_of(extra).name
    if not text.startswith(HEAD + ranges_hash(project, extra)):
        yield f"{where} is not made from today's {PROJECT.name}: make lock"
    versions: dict[str, list[str]] = {}
    for name, lines in entries(text):
        requirement, hashes = pinned(lines)
        if requirement is None or requirement.url:
            words = lines[0].rstrip("\\").strip()
            yield f"{words}: expected name==version, nothing else"
            continue
        locked = versions.setdefault(name, [])
        pins = list(requirement.specifier)
        if len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith("*"):
            yield f"{name}{requirement.specifier}: expected ==, one version"
            continue
        if not hashes or not all(HASH.match(value) for value in hashes):
            yield f"{name}: expected at least one sha256 and nothing else"
        if name in REFUSED:
            yield f"{name}: {REFUSED[name]}"
        locked.append(pins[0].version)
    for requirement in direct(project, extra):
        name = canonicalize_name(requirement.name)
        if MACHINE.match(name):
            continue
        if name not in versions:
            close = difflib.get_close_matches(name, versions, n=1)
            yield f"{requirement} is not in {where}{f' ({close[0]} is)' if close else ''}: make lock"
            continue
        for version in versions[name]:
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{name}=={version} is outside {PROJECT.name}'s {requirement}: make lock"


def compare(text: str, installed: Mapping[str, str], extra: str | None = None) -> Iterator[str]:
    """Packages of the lock that are here in another version or not at all, and refused ones that are here.

    Args:
        text: of the lock file.
        installed: version of each distribution.
        extra: whose lock it is: what of it is not here is not missed.
    """
    here: dict[str, str] = {canonicalize_name(name): version for name, version in installed.items() if name}
    remedy = "make setup" if extra is None else f"make extras EXTRAS={extra}"
    environment = {key: str(value) for key, value in default_environment().items()}
    for name, lines in entries(text):
        requirement, _ = pinned(lines)
        if requirement is None or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        version = here.get(name)
        if version is None and extra is not None:
            continue
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield f"{name}: {requirement.specifier} is locked, {version or 'nothing'} is installed: {remedy}"
    for name in sorted(set(here) & set(REFUSED)) if extra is None else ():
        yield f"{name} is installed: {REFUSED[name]}"


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0 all as locked, 1 findings, 2 wrong input"))
