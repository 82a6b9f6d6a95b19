"""`make lock` and the audit of `make lint`: the exact packages, with hashes, that `make setup` installs.

`requirements.lock` is made from pyproject.toml's ranges by uv, for every supported Python version at once. torch and
what it brings for a GPU are not in it: which of their builds a machine needs (CPU, CUDA, ROCm) is the machine's affair,
and `make setup` takes them from the machine's own index within pyproject's range.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from experiments.commands import cli
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT

LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
INSTALLED = ("dev", "sweep", "dashboard", "nnunet")  # the extras that `make setup` installs
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
    text = LOCK.read_text(encoding="utf-8")
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wrong = [*audit(text, project), *compare(text, {d.name: d.version for d in metadata.distributions()})]
    for line in wrong:
        print(line)
    print(f"{LOCK.name}: {len(list(entries(text)))} packages audited, {len(wrong)} findings")
    return 1 if wrong else 0


def write() -> None:
    """Resolve pyproject's ranges anew. Raises RunError with uv's own words."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise InputError("uv is not installed: pip install uv")
    extras = [word for name in INSTALLED for word in ("--extra", name)]
    command = [uv, "pip", "compile", PROJECT.name, "--universal", "--generate-hashes", "--python-version", PYTHON]
    options = ["--no-header", "--no-annotate", "--quiet", *extras]
    compiled = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise RunError(f"uv could not resolve {PROJECT.name}: {compiled.stderr.strip()}")
    requirements = [lines for name, lines in entries(compiled.stdout) if not MACHINE.match(name)]
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    head = f"{HEAD}{ranges_hash(project)}\n{SECOND}"
    LOCK.write_text(head + "".join(f"{line}\n" for lines in requirements for line in lines), encoding="utf-8")


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


def direct(project: Mapping[str, object]) -> list[Requirement]:
    """What pyproject asks for, of that which `make setup` installs."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, Mapping)
    listed = [*project["dependencies"], *(item for name in INSTALLED for item in extras[name])]  # type: ignore[misc]
    return [Requirement(item) for item in listed]


def ranges_hash(project: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(sorted(map(str, direct(project)))).encode()).hexdigest()[:16]


def audit(text: str, project: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with a lock's text, a line each.

    Args:
        text: of the lock file.
        project: the [project] table of pyproject.toml.
    """
    if not text.startswith(HEAD + ranges_hash(project)):
        yield f"{LOCK.name} is not made from today's {PROJECT.name}: make lock"
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
    for requirement in direct(project):
        name = canonicalize_name(requirement.name)
        if MACHINE.match(name):
            continue
        if name not in versions:
            close = difflib.get_close_matches(name, versions, n=1)
            yield f"{requirement} is not in {LOCK.name}{f' ({close[0]} is)' if close else ''}: make lock"
            continue
        for version in versions[name]:
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{name}=={version} is outside {PROJECT.name}'s {requirement}: make lock"


def compare(text: str, installed: Mapping[str, str]) -> Iterator[str]:
    """Packages of the lock that are here in another version or not at all, and refused ones that are here.

    Args:
        text: of the lock file.
        installed: version of each distribution.
    """
    here: dict[str, str] = {canonicalize_name(name): version for name, version in installed.items() if name}
    environment = {key: str(value) for key, value in default_environment().items()}
    for name, lines in entries(text):
        requirement, _ = pinned(lines)
        if requirement is None or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        version = here.get(name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield f"{name}: {requirement.specifier} is locked, {version or 'nothing'} is installed: make setup"
    for name in sorted(set(here) & set(REFUSED)):
        yield f"{name} is installed: {REFUSED[name]}"


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0 all as locked, 1 findings, 2 wrong input"))
