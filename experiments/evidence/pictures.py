"""Pictures beside a record: what stages drew of one of its seeds, small enough to be committed. Imports no torch.

A module's `pictures()` (samples, prototypes, maps) lie in a run's folder, which git ignores. Recording a setting keeps
the most telling of them as WebP in results/pictures/<key>/<setting>/, and in <setting>.json beside it which run each is
of, so that a page built from the records alone shows them. Curves need none: the record holds their numbers.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import expressions
from experiments.evidence import results, suite
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.part import Part
from experiments.evidence.records import Entry

MOST_BYTES = 300_000  # of a paper's pictures
MOST_OF_DEFAULT = 120_000  # of the setting that stands for the paper
MOST_OF_OTHER = 40_000  # of any other setting
MOST_OF_ONE = 40_000
MOST_PICTURES = 6  # of a setting
SIZES = ((960, 80), (960, 60), (720, 60), (540, 50))  # widest side in pixels and WebP's quality, the first that fits
MOST_READ = 2**25  # bytes of a drawing that is looked at


class Kept(Part):
    """A picture: drawn by which stage, under which name, and the file that holds it."""

    stage: str
    name: str
    fingerprint: str
    file: Annotated[str, Field(pattern=r"^[\w-]{1,120}\.webp$")]
    sha256: str


class Pictures(Part):
    """The pictures of a setting, in the order in which they are shown."""

    registration: str | None
    seed: int
    pictures: Annotated[list[Kept], Field(max_length=MOST_PICTURES)]


def list_of(paper: str, title: str) -> Path:
    """The file that says which pictures a setting has; they lie in the folder of the same name."""
    return results.base() / "pictures" / paper / f"{title}.json"


def keep(paper: str, title: str, entry: Entry, runs: Path) -> None:
    """Keep the pictures of a recorded entry's first seed, or of the first whose runs are here where none are kept yet;
    those of another registration go.

    Args:
        runs: the folder of all runs.
    """
    path = list_of(paper, title)
    had = path.is_file() and _parse(path).registration == entry.registered.hash
    for seed in entry.seeds[:1] if had else entry.seeds:
        if chosen := _choose(paper, title, entry, runs, seed):
            pictures = [item for item, _ in chosen]
            _write(path, Pictures(registration=entry.registered.hash, seed=seed, pictures=pictures), chosen)
            return
    if path.is_file() and not had:
        path.unlink()
        _leave(path.with_suffix(""), set())


def _choose(paper: str, title: str, entry: Entry, runs: Path, seed: int) -> list[tuple[Kept, bytes]]:
    """The first of a seed's drawings that fit, each with its small content."""
    room = _room(paper, title)
    chosen: dict[str, tuple[Kept, bytes]] = {}
    for stage, mark, path in _drawn(paper, entry, runs, seed):
        small = shrink(path, min(room, MOST_OF_ONE)) if len(chosen) < MOST_PICTURES else None
        if small is None:
            continue
        file = _file(f"{stage}-{path.stem}")
        digest = hashlib.sha256(small).hexdigest()
        if file not in chosen and digest not in {item.sha256 for item, _ in chosen.values()}:  # arms may see the same
            chosen[file] = Kept(stage=stage, name=path.stem, fingerprint=mark, file=file, sha256=digest), small
            room -= len(small)
    return list(chosen.values())


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)[:100].strip("-") + ".webp"


def _room(paper: str, title: str) -> int:
    """Bytes that a setting's pictures may take: its share, and no more than the paper's other settings leave."""
    folder = list_of(paper, title).parent
    others = sum(path.stat().st_size for path in folder.glob("*/*.webp") if path.parent.name != title)
    return max(0, min(MOST_OF_DEFAULT if title in suite.DEFAULT else MOST_OF_OTHER, MOST_BYTES - others))


def _drawn(paper: str, entry: Entry, runs: Path, seed: int) -> Iterator[tuple[str, str, Path]]:
    """What a seed's runs drew: a picture of each stage in turns, those of the main claim's stages first.

    The runs are those that the record's fingerprints name, or one of equal numbers that a confirmation names; a link
    leads out of them and is passed over.
    """
    main = entry.main_claim()
    compared = _compared(main) if main is not None else []
    order = [name for wanted in compared for name in fnmatch.filter(entry.stages, wanted)]
    marks = [(name, _marks(entry, name, seed)) for name in dict.fromkeys([*order, *entry.stages])]
    finished = [(name, mark) for name, known in marks for mark in known]
    place = (paper, entry.scale, f"seed={seed}")
    folders = [files.inside(runs, *place, f"{name}-{mark}", "pictures") for name, mark in finished]
    drawn = [sorted(folder.glob("*.png")) if folder is not None else [] for folder in folders]
    for turn in zip_longest(*drawn):
        for (name, mark), path in zip(finished, turn, strict=True):
            if path is not None and path.is_file() and not path.is_symlink() and path.stat().st_size <= MOST_READ:
                yield name, mark, path


def _compared(main: JudgedClaim) -> list[str]:
    """The stages that a claim compares, what is better first; a name may hold * or ?."""
    sides = [side for part in (main, *main.parts) for side in (part.better, part.than)]
    sides += [item.than for item in main.against]
    written = [expressions.parse(side, "claim") for side in sides if isinstance(side, str)]
    return [metric.stage for side in written for metric in expressions.metrics(side)]


def shrink(path: Path, most: int) -> bytes | None:
    """A drawing as WebP of at most so many bytes, on white; None where it does not get that small or is no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            drawing = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    paper = Image.new("RGBA", drawing.size, "white")
    paper.alpha_composite(drawing)
    for side, quality in SIZES:
        small = paper.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        small.save(content, "WEBP", quality=quality)
        if content.tell() <= most:
            return content.getvalue()
    return None


def _write(path: Path, told: Pictures, contents: Sequence[tuple[Kept, bytes]]) -> None:
    """The files first, then the list that names them; then what it no longer names goes."""
    folder = path.with_suffix("")
    for item, content in contents:
        with files.replacing(folder / item.file) as temporary:
            temporary.write_bytes(content)
    files.write_text(path, told.model_dump_json(indent=1) + "\n")
    _leave(folder, {item.file for item, _ in contents})


def _leave(folder: Path, named: set[str]) -> None:
    """Remove all pictures of a folder but those."""
    for path in folder.glob("*.webp"):
        if path.name not in named:
            path.unlink()


def of(paper: str, title: str, entry: Entry) -> list[tuple[Kept, bytes]]:
    """The pictures of an entry with their content; none where none were kept, or only of an earlier registration.

    Raises InputError for a damaged list, a file that is not what the list says, and a stage that ran otherwise.
    """
    path = list_of(paper, title)
    if not path.is_file():
        return []
    told = _parse(path)
    if told.registration != entry.registered.hash:
        return []
    shown = []
    for item in told.pictures:
        file = files.inside(path.parent, title, item.file)
        if file is None or not file.is_file() or files.sha256(file) != item.sha256:
            raise InputError(f"{path.with_suffix('') / item.file}: not what {path.name} says; restore it with git")
        if not _is_of(item, told.seed, entry):
            raise InputError(f"{path}: {item.file} is of no run of seed {told.seed} of the record; restore it with git")
        shown.append((item, file.read_bytes()))
    return shown


def _is_of(item: Kept, seed: int, entry: Entry) -> bool:
    """Whether a picture is of the run whose numbers the record holds."""
    return item.stage in entry.stages and seed in entry.seeds and item.fingerprint in _marks(entry, item.stage, seed)


def _marks(entry: Entry, name: str, seed: int) -> list[str]:
    """The fingerprints of a stage's runs that gave the record's numbers of a seed."""
    recorded = entry.stages[name].fingerprints[entry.seeds.index(seed)]
    shown = entry.confirmed.get(name)
    confirmed = shown.fingerprint if shown is not None and shown.seed == seed else None
    return list(dict.fromkeys(mark for mark in (recorded, confirmed) if mark is not None))


def problems(paper: str) -> Iterator[str]:
    """Pictures that no list names, and more bytes than a paper may have."""
    folder = results.base() / "pictures" / paper
    there = sorted(folder.glob("*/*"))
    for path in there:
        told = path.parent.with_name(f"{path.parent.name}.json")
        named = {item.file for item in _parse(told).pictures} if told.is_file() else set()
        if path.name not in named:
            yield f"{path}: no list of pictures names it"
    if (total := sum(path.stat().st_size for path in there)) > MOST_BYTES:
        yield f"{folder}: {total:,} bytes of pictures; a paper has at most {MOST_BYTES:,}"


def _parse(path: Path) -> Pictures:
    try:
        return Pictures.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0][:80]}); restore it with git") from error
