"""Folders of data with one file that means harm or is damaged: refused in one line, whichever class reads them."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.folders import ImageFolder
from tests.reliability.soak import layouts
from tests.reliability.soak.disturb import Payload
from tests.reliability.soak.hostile import HTML, TAG, bomb, refused
from tests.reliability.soak.layouts import Layout

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
FORMATS = ("jpg", "png", "webp")
HUGE = 32_767  # the most voxels that a NIfTI header's side can say


def poisons(path: Path, owned: Path) -> dict[str, bytes]:
    """What a file may be in place of what its name says: name -> content.

    Args:
        path: the sound file.
        owned: a folder that is made if anything is executed.
    """
    contents = {
        "is a pickle": pickle.dumps(Payload(owned)),
        "is HTML": HTML.encode() * 5,
        "is no text and no picture": bytes(range(256)) * 4,
    }
    kind = path.suffix.lower()
    if kind in PICTURES:
        contents["is a picture of 3.6 billion pixels"] = bomb()
        contents["is cut in half"] = _half(path)
    elif kind in (".npz", ".npy"):
        contents["holds a pickle"] = _array_of(Payload(owned), kind)
        contents["is cut in half"] = _half(path)
    elif kind == ".gz":
        contents["is of 35 trillion voxels"] = _of_many_voxels(path)
        contents["is cut in half"] = _half(path)
    elif kind == ".mat":
        contents["is cut in half"] = _half(path)
    elif kind == ".json":
        contents["is nested too deeply"] = b"[" * 100_000
        contents["is a number"] = b"5\n"
    elif kind == ".xml":
        contents["expands a billionfold"] = _laughs()
    elif kind == ".py":
        contents["is code"] = f"__import__('os').mkdir({str(owned)!r})\n".encode()
    elif kind == ".csv":
        contents["is a YAML tag"] = f"{TAG} [{owned}]\n".encode()
    return contents


def _half(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: len(content) // 2]


def _array_of(thing: Any, kind: str) -> bytes:
    """An array of one Python object, which numpy can write and must not read."""
    objects = np.empty(1, object)
    objects[0] = thing
    buffer = io.BytesIO()
    if kind == ".npy":
        np.save(buffer, objects, allow_pickle=True)
    else:
        names = [f"{part}_{what}" for part in ("train", "val", "test") for what in ("images", "labels")]
        np.savez(buffer, **dict.fromkeys([*names, "0", "1", "images", "labels"], objects))
    return buffer.getvalue()


def _of_many_voxels(path: Path) -> bytes:
    """A scan whose header says that each side is as long as a header can say."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for place in (42, 44, 46):  # dim[1] to dim[3], little-endian shorts
        content[place : place + 2] = HUGE.to_bytes(2, "little")
    return gzip.compress(bytes(content))


def _laughs() -> bytes:
    """XML whose entities stand for ten of the one before, nine times over."""
    entities = ['<!ENTITY e0 "ha">', *(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))]
    return f"<!DOCTYPE a [{''.join(entities)}]><a>&e9;</a>".encode()


def files_of_each_kind(root: Path) -> list[Path]:
    """The first file with each ending in each folder of the root: what else lies there is read in the same way."""
    first: dict[tuple[str, ...], Path] = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and "preprocessed" not in parts:
            first.setdefault((parts[0] if len(parts) > 1 else path.name, path.suffix.lower()), path)
    return list(first.values())


def poisoned(folder: Path) -> Iterator[tuple[str, str]]:
    """(what was tried, problem or "") for every class that reads a folder, every kind of file, every poison."""
    owned = folder / "owned"
    for kind, layout in layouts.layouts().items():
        yield from poisoned_layout(kind, layout, folder, owned)


def poisoned_layout(kind: type, layout: Layout, folder: Path, owned: Path) -> Iterator[tuple[str, str]]:
    root = laid(kind, layout, folder)
    if not layout.published:
        yield f"{kind.__name__}, nothing wrong", "" if served(layout, root) == "accepted" else served(layout, root)
    for path in files_of_each_kind(root):
        sound = path.read_bytes()
        for how, content in poisons(path, owned).items():
            if layout.headers and how == "is cut in half":
                continue
            path.write_bytes(content)
            problem = served(layout, root)
            if owned.exists():
                owned.rmdir()
                problem = "it was executed"
            yield f"{kind.__name__}, {path.relative_to(root)} {how}", problem
        path.write_bytes(sound)


def laid(kind: type, layout: Layout, folder: Path) -> Path:
    """A new folder with the layout's files."""
    root = folder / f"{kind.__module__}.{kind.__name__}"
    root.mkdir(parents=True)
    layout.lay(root)
    return root


def served(layout: Layout, root: Path) -> str:
    """What is wrong with the way in which a folder is refused; `accepted` where it is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of a picture that is merely odd
        return refused(partial(layout.read, root))


def damaged(folder: Path, rng: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """Bits that fell over, cuts and gaps in files of every kind: served or refused in one line, and nothing else."""
    for kind, layout in layouts.layouts().items():
        if layout.published:
            continue
        root = laid(kind, layout, folder)
        for path in files_of_each_kind(root):
            yield from _damaged(
                f"{kind.__name__}, {path.relative_to(root)}", path, partial(layout.read, root), rng, each
            )


def damaged_pictures(folder: Path, rng: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """As `damaged`, for each format of picture."""
    for ending in FORMATS:
        root = folder / ending
        for split in ("train", "val"):
            layouts.photo(root / split / "a" / f"0.{ending}", side=64)
        read = partial(_read_pictures, root)
        yield from _damaged(f"a {ending} file", root / "train" / "a" / f"0.{ending}", read, rng, each)


def _read_pictures(root: Path) -> None:
    layouts.serve(ImageFolder(str(root), batch_size=2, image_size=16, num_workers=0))


def _damaged(
    name: str, path: Path, read: Callable[[], Any], rng: random.Random, each: int
) -> Iterator[tuple[str, str]]:
    sound = path.read_bytes()
    for _ in range(each):
        how, content = mutated(sound, rng)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = refused(read)
        yield f"{name} {how}", "" if problem == "accepted" else problem
    path.write_bytes(sound)


def mutated(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(how, content) with some bits turned, its end cut off, or a piece left out or twice there."""
    how = rng.choice(("bits", "cut", "gap", "twice"))
    if not content:
        return "that was empty", b"\0"
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    if how == "bits":
        changed = bytearray(content)
        places = [rng.randrange(len(content)) for _ in range(rng.randint(1, 8))]
        for place in places:
            changed[place] ^= 1 << rng.randrange(8)
        return f"with bits of bytes {places} turned", bytes(changed)
    if how == "cut":
        return f"cut after {first} bytes", content[:first]
    if how == "gap":
        return f"without bytes {first} to {last}", content[:first] + content[last:]
    return f"with bytes {first} to {last} twice", content[:last] + content[first:]
