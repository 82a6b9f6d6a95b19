"""Stages' folders in one file, and back: a run that goes on elsewhere. Imports no torch.

The file is a zip archive without compression: seed=N/<stage>-<fingerprint>/... for each stage that has begun, and
pack.json, which names the setting, the commit and each file with its length and SHA-256. Without weights it is small
enough for a commit, so that a recording of many days is kept seed by seed. Nothing is placed before all of it is known
to be right: only folders of stages as they are configured here, only files, no links, and finished stages whose
manifest fits their metrics.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from pydantic.dataclasses import dataclass

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config.written import CLOSED, Closed, Count, Scale, Text, Whole, read
from experiments.identity.provenance import code_version
from experiments.running.manifest import finished, hash_metrics
from experiments.running.plan import Plan, Stage

FORMAT = 1
LISTING = "pack.json"
WEIGHTS = "last.ckpt"
MOST_LISTING = 2**25  # bytes of it
MOST_FILES = 200_000
MOST_SEEDS = 1000
PIECE = 2**20


@dataclass(frozen=True, config=CLOSED)
class File(Closed):
    """A file of the archive."""

    path: Text
    """Below runs/<paper>/<scale>/."""
    length: Count
    """Bytes."""
    sha256: Text
    """Of its content, 64 hex digits."""


@dataclass(frozen=True, config=CLOSED)
class Listing(Closed):
    """What an archive holds."""

    format: Whole
    """Of the archive."""
    paper: Text
    """Its key."""
    scale: Scale  # type: ignore[valid-type]
    """Of the setting."""
    variant: Text | None
    """Of the setting."""
    commit: Text | None
    """Of the code that packed it."""
    seeds: list[Count]
    """Those of which something is packed."""
    files: list[File]
    """All but the listing."""


@plain_dataclass(frozen=True)
class Moved:
    """A stage that was packed or unpacked."""

    seed: int
    stage: str
    finished: bool


def file_name(paper: str, scale: str, variant: str | None) -> str:
    """What a setting's archive is called unless somebody names it."""
    return "-".join(filter(None, (paper, scale, variant))) + ".runs"


def pack(plans: Sequence[Plan], path: Path, weights: bool = True) -> list[Moved]:
    """Write what these plans' stages have left so far into a new file.

    Args:
        weights: whether with checkpoints; without, finished stages alone, of which no unfinished stage needs any.
    Raises:
        InputError: a stage to be packed is being trained, or there is none.
        OSError: the disk is full.
    """
    first = plans[0]
    if weights:
        begun = [(plan, stage) for plan in plans for stage in plan.stages.values() if stage.directory.is_dir()]
    else:
        begun = [(plan, stage) for plan in plans for stage in _without_successors(plan)]
    if not begun:
        what = "none of its stages has begun" if weights else "no stage has finished whose weights nothing needs"
        raise InputError(f"{first.title}: {what}; nothing to pack")
    with ExitStack() as held, files.replacing(path) as temporary:
        for _, stage in begun:
            held.enter_context(_not_trained_meanwhile(stage))
        listed = []
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for plan, stage in begun:
                for source in _files_below(stage.directory):
                    if source.name == WEIGHTS and not weights:
                        continue
                    inside = f"seed={plan.seed}/{stage.directory.name}/{source.relative_to(stage.directory).as_posix()}"
                    with source.open("rb") as content, archive.open(inside, "w", force_zip64=True) as copy:
                        listed.append(File(inside, *_copy(content, copy)))
            listing = Listing(
                format=FORMAT,
                paper=first.paper,
                scale=first.scale,
                variant=first.variant,
                commit=code_version()["commit"],
                seeds=sorted({plan.seed for plan, _ in begun}),
                files=listed,
            )
            archive.writestr(LISTING, json.dumps(asdict(listing)))
        return [Moved(plan.seed, stage.name, finished(stage) is not None) for plan, stage in begun]


def _without_successors(plan: Plan) -> Iterator[Stage]:
    """Finished stages that no unfinished one starts from."""
    done = {name for name, stage in plan.stages.items() if finished(stage) is not None}
    needed = {name for successor, stage in plan.stages.items() if successor not in done for name in stage.predecessors}
    return (stage for name, stage in plan.stages.items() if name in done - needed)


@contextmanager
def _not_trained_meanwhile(stage: Stage) -> Iterator[None]:
    """Holds the lock that the engine takes for a stage's folder."""
    lock = FileLock(stage.directory.with_name(f".{stage.directory.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{stage.name} of seed {stage.seed} is being trained; end that command first") from None
    try:
        yield
    finally:
        lock.release()


def _files_below(folder: Path) -> Iterator[Path]:
    """Whole files, in an order of their own; links, and what a killed process wrote half, stay behind."""
    for root, names, found in os.walk(folder):
        names.sort()
        for name in sorted(found):
            path = Path(root, name)
            is_half = name.startswith(".") and name.endswith(".part")
            if not is_half and not path.is_symlink() and path.is_file():
                yield path


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Length and SHA-256 of what was copied."""
    length = 0
    digest = hashlib.sha256()
    while piece := source.read(PIECE):
        target.write(piece)
        digest.update(piece)
        length += len(piece)
    return length, digest.hexdigest()


def listing(path: Path) -> Listing:
    """What an archive says it holds. Raises InputError, naming the file, for one that `pack` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) > MOST_FILES:
                raise InputError(f"{path}: {len(infos):,} files; expected at most {MOST_FILES:,}")
            sizes = {info.filename: info.file_size for info in infos}
            if LISTING not in sizes:
                raise InputError(f"{path}: no {LISTING} in it; expected a file of make pack")
            if sizes[LISTING] > MOST_LISTING:
                raise InputError(f"{path}: {LISTING} has {sizes[LISTING]:,} bytes; expected at most {MOST_LISTING:,}")
            told = json.loads(archive.read(LISTING))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        RecursionError,
    ) as error:
        raise InputError(f"{path}: not a whole file of make pack ({error})") from error
    stored = read(Listing, told, f"{path}: {LISTING}")
    if stored.format != FORMAT:
        raise InputError(f"{path}: format {stored.format}; expected {FORMAT}")
    if not 0 < len(stored.seeds) <= MOST_SEEDS:
        raise InputError(f"{path}: {len(stored.seeds)} seeds; expected 1 to {MOST_SEEDS}")
    _check_members(infos, stored, path)
    return stored


def _check_members(infos: Sequence[zipfile.ZipInfo], stored: Listing, path: Path) -> None:
    """Raises InputError unless the archive holds the listed files alone, each once, uncompressed and no link."""
    lengths = {item.path: item.length for item in stored.files} | {LISTING: None}
    once = len(infos) == len(lengths) == len(stored.files) + 1
    if not once or {info.filename for info in infos} != set(lengths):
        raise InputError(f"{path}: it holds other files than {LISTING} lists, or one of them twice")
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.is_dir():
            raise InputError(f"{path}: {info.filename[:200]!r} is a link or no plain file")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise InputError(f"{path}: {info.filename[:200]!r} is compressed or encrypted; make pack does neither")
        if lengths[info.filename] not in (None, info.file_size):
            raise InputError(f"{path}: {info.filename[:200]!r} is not as it is listed")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise InputError(f"{path}: its files are larger than itself")


def unpack(path: Path, stored: Listing, plans: Sequence[Plan]) -> list[Moved]:
    """Place an archive's stages where these plans expect them; a stage that has finished here stays as it is.

    Args:
        path: of the archive.
        stored: its listing.
        plans: of the listed seeds, as they are configured here.
    Raises:
        InputError: other code, data or settings; a stage that has begun here; a file that is not what is listed; a
            manifest that does not fit. Nothing is placed then.
        OSError: the disk is full.
    """
    runs = next(iter(plans[0].stages.values())).directory.parent.parent
    stages = _stages(path, stored, plans, runs)
    wanted = {place: stage for place, stage in stages.items() if finished(stage) is None}
    for place, stage in wanted.items():
        if stage.directory.exists():
            raise InputError(f"{'/'.join(place)}: {stage.name} has begun here too; move its folder away first")
    runs.mkdir(parents=True, exist_ok=True)
    temporary = runs / f".unpack.{secrets.token_hex(4)}"
    try:
        with zipfile.ZipFile(path) as archive:
            for item in stored.files:
                place, names = _split(item.path)
                if place in wanted:
                    _extract(archive, item, temporary.joinpath(*place, *names), path)
        moved = [
            Moved(stage.seed, stage.name, _is_finished(temporary.joinpath(*place), stage, path))
            for place, stage in wanted.items()
        ]
        for place, stage in wanted.items():
            stage.directory.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary.joinpath(*place), stage.directory)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return moved


Place = tuple[str, str]  # the folders of a seed and of a stage


def _split(name: str) -> tuple[Place, list[str]]:
    """The folders of seed and stage, and the steps below them; an empty step where one is missing."""
    steps = name.split("/")
    seed, folder, *names = steps if len(steps) > 2 else [*steps, "", ""]
    return (seed, folder), names


def _stages(path: Path, stored: Listing, plans: Sequence[Plan], runs: Path) -> dict[Place, Stage]:
    """The stages that files are listed of, by their place. Raises InputError for a file of anything else."""
    known = {(f"seed={p.seed}", s.directory.name): s for p in plans for s in p.stages.values()}
    names_of = {place: stage.name for place, stage in known.items()}
    here = code_version()["commit"]
    found: dict[Place, Stage] = {}
    for item in stored.files:
        place, names = _split(item.path)
        if not all(names) or files.inside(runs, *place, *names) is None:
            raise InputError(f"{path}: {item.path[:200]!r} leads out of the runs' folder, or through a link")
        if place not in known:
            stage = place[1].rpartition("-")[0]
            is_known = any(seed == place[0] and stage == name for (seed, _), name in names_of.items())
            if not is_known:
                raise InputError(f"{path}: {item.path[:200]!r} belongs to no stage of {plans[0].title}")
            raise InputError(
                f"{path}: {stage} of {place[0]} rests on other code, data or settings than here; it was packed at "
                f"commit {(stored.commit or 'unknown')[:12]}, this is {(here or 'unknown')[:12]}"
            )
        found[place] = known[place]
    return found


def _extract(archive: zipfile.ZipFile, item: File, target: Path, path: Path) -> None:
    """Raises InputError for other bytes than those listed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(item.path) as source, target.open("xb") as copy:
        length, digest = _copy(source, copy)
    if (length, digest) != (item.length, item.sha256):
        raise InputError(f"{path}: {item.path[:200]!r} is not what was packed, by its SHA-256")


def _is_finished(folder: Path, stage: Stage, path: Path) -> bool:
    """Whether a stage was packed finished. Raises InputError for a manifest of another stage or of other numbers."""
    if not (folder / "manifest.json").exists():
        return False
    manifest = files.read_json(folder / "manifest.json")
    metrics = files.read_json(folder / "metrics.json")
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        raise InputError(f"{path}: {stage.name} of seed {stage.seed}: its manifest or metrics cannot be read")
    if manifest.get("fingerprint") != stage.fingerprint or manifest.get("metrics_hash") != hash_metrics(metrics):
        raise InputError(f"{path}: {stage.name} of seed {stage.seed}: its manifest does not fit its metrics")
    return True
