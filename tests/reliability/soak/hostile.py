"""Input that means harm: each must be refused in one line, or shown as the text it is.

What runs a command does so in a fork, as it would by itself; nothing here acts on what it is given, and if something
does, it makes the folder that `Payload` names.
"""

from __future__ import annotations

import io
import pickle
import runpy
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from datamodules.common.folders import LARGEST, ImageFolder
from datamodules.common.torchvision_sets import MNIST
from experiments.commands import cli, export
from experiments.common import files
from experiments.common.errors import InputError, explain
from experiments.config import compose, instantiate, reading
from experiments.evidence import assembly, layout, results
from experiments.evidence.records import Entry, Record
from experiments.pages import console, report, view
from experiments.pages.progress import Board
from experiments.running import plan
from experiments.running.callbacks import check_data
from experiments.running.plan import Plan
from tests.reliability.soak.bench import PATIENCE, fork
from tests.reliability.soak.disturb import Payload

TARGETS: tuple[Any, ...] = (
    "os.system",
    "builtins.eval",
    "builtins.__import__",
    "subprocess.Popen",
    "importlib.import_module",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.nn.__builtins__.eval",
    "modules.__builtins__.eval",
    "modules.common.module.StageModule.__init__.__globals__",
    "experiments.common.files.write_text",
    "modulesx.thing",
    " modules.common.module.StageModule",
    "modules.",
    "modules..common",
    "torch.nn.functional",
    5,
    None,
    ["os.system"],
    # Other libraries' names, as they hang on modules that import them.
    "modules.common.module.torch.load",
    "modules.common.module.torch.hub.load",
    "datamodules.folders.io.open",
    "datamodules.folders.zipfile.ZipFile",
    "timm.models._helpers.os.system",
    "sklearn.os.system",
    "torchmetrics.os.system",
    "torchvision.models._api.importlib.import_module",
    "torch.nn.functional.importlib.import_module",
    "torch.nn." + "a." * 2000 + "b",
    "modules." + "a." * 2000 + "b",
    # Functions of allowed libraries that run, read or fetch what they are told.
    "monai.utils.run_cmd",
    "monai.utils.instantiate",
    "monai.bundle.run",
    "monai.bundle.ConfigParser",
    "sklearn.utils._testing.assert_run_python_script_without_output",
    "sklearn.datasets.load_svmlight_file",
    "sklearn.datasets.fetch_openml",
    "timm.models.load_state_dict",
    "timm.models.load_checkpoint",
    "timm.models.load_model_config_from_hf",
    "timm.create_model.__globals__",
    "torch.nn.modules.module.warnings.warn",
    "torch.optim.lr_scheduler.LRScheduler",
    "torchvision.models.get_weight",
    "torchmetrics.utilities.imports.import_module",
    # Names of this project that are no class or function, or private, or lie elsewhere.
    "modules.common.module.StageModule.load_from_checkpoint",
    "modules.common.module.Any",
    "modules.common.module",
    "modules./tmp/evil.Thing",
    "modules.common.augment.RandomCrop",
    "datamodules.common.augment._draw",
)
HTML = "<script>alert(1)</script>"
MARKUP = "[/nothing][red]"
TAG = "!!python/object/apply:os.mkdir"


def commands(victim: str, folder: Path) -> dict[str, str]:
    """Arguments of `run`, by what is wrong with them."""
    module = f"stages.{victim}.module"
    return {
        "target": f"{module}._target_=os.system",
        "number as target": f"{module}._target_=5",
        "list as target": f"{module}._target_=[os.system]",
        "target that cannot be checked": f"{module}._target_=torch.nn.functional.conv2d",
        "no target": f"{module}._target_=null",
        "target within a target": f"{module}.classes={{_target_:os.mkdir,path:{folder / 'owned'}}}",
        "paper outside its folder": "paper=../config",
        "scale outside its folder": "scale=../scale/smoke",
        "group outside its folder": "trainer=../scale/smoke",
        "word as seed": "seed=abc",
        "fraction as seed": "seed=1.5",
        "number as stages": "stages=5",
        "number as stage": f"stages.{victim}=5",
        "number as needs": f"+stages.{victim}.needs=5",
        "number as trainer": f"stages.{victim}.trainer=5",
        "word as seconds": "checkpoint_seconds=abc",
        "unknown resolver": f"{module}.classes=${{oc.nothing:x}}",
        "unclosed bracket": f"{module}.classes=[1",
    }


def typed(arguments: list[str]) -> int:
    """`python -m experiments.run` with these arguments."""
    sys.argv = ["run", *arguments]
    runpy.run_module("experiments.run", run_name="__main__", alter_sys=True)
    return 0


def refusals(done: Plan, lines: Sequence[str], victim: str, folder: Path) -> Iterator[tuple[str, str]]:
    """(what was tried, problem or "") for everything.

    Args:
        done: a finished run, whose records are given hostile names.
        lines: the command line it was made with, without runs_dir.
        victim: one of its stages.
        folder: where everything is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        yield f"_target_: {str(target)[:60]}", refused(partial(instantiate.locate, target, "stages.x.module"))
    for name, (member, content, changes) in archives(folder).items():
        path = archive(folder / "photos.zip", member, content, **changes)
        yield name, refused(partial(serve, path))
    for name, content in photos(folder).items():
        yield f"folder with a {name}", refused(partial(serve, unpacked(folder / "photos", content)))
    for name, content in weights(folder).items():
        yield f"weights that are {name}", refused(partial(load_weights, folder / "weights.safetensors", content))
    for name, change in digits().items():
        yield f"MNIST {name}", refused(partial(read_digits, folder / "digits", change))
    for name in ("../../outside", "a/b", "..", ""):
        yield f"stage named {name!r}", refused(partial(stage_named, name, lines, victim, folder))
    for name, line in commands(victim, folder).items():
        arguments = [*lines, f"runs_dir={folder / 'runs'}", line]
        yield f"command line, {name}: {line}", in_a_fork(partial(typed, arguments), folder, 2)
    for where in (f"paper/{done.paper}.yaml", f"recipe/{done.paper}/{done.scale}.yaml"):
        for text in (f"evil: {TAG} [{folder / 'owned'}]", "evil: [1"):
            yield f"{text[:20]!r} in {where}", in_a_fork(partial(configured, where, text, lines, folder), folder, 2)
    for how in (page, terminal):
        yield f"names on a {how.__name__}", in_a_fork(partial(how, done, folder), folder, 0)
    yield "code within all these", "it was executed" if (folder / "owned").exists() else ""


def refused(act: Callable[[], Any]) -> str:
    """What is wrong with the way something was refused."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it is, a command would show it like this
        told, code = explain(error)
        if code != InputError.exit_code:
            return told[:100]
        return "" if told and "\n" not in told.strip() else "it is not one line"
    return "accepted"


def in_a_fork(work: Callable[[], int], folder: Path, code: int) -> str:
    """What is wrong with how it ended."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    child = fork(work, log, folder / "temporary")
    child.join(PATIENCE.seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        return "it hangs"
    text = log.read_text(encoding="utf-8", errors="replace")
    said = [line for line in text.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    last = said[-1][:150] if said else "nothing"
    if "Traceback" in text or "Error executing job" in text:
        return f"traceback: {last}"
    return "" if child.exitcode == code else f"it ended with {child.exitcode}, not {code}: {last}"


def bomb() -> bytes:
    """A PNG file of 60,000 times 60,000 pixels in a hundred bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b""), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def archives(folder: Path) -> dict[str, tuple[str, bytes, dict[str, int]]]:
    """Zips that are no archive of photos: member, its content, changes to its entry in the directory."""
    name, html = "train/a/0.png", HTML.encode()
    return {
        "photo that is a pickle": (name, pickle.dumps(Payload(folder / "owned")), {}),
        "photo that is HTML": (name, html, {}),
        "photo of 3.6 billion pixels": (name, bomb(), {}),
        "zip with ../": (f"../{name}", photo(), {}),
        "zip with ../ inside": (f"x/../../{name}", photo(), {}),
        "zip with an absolute name": (f"/{name}", photo(), {}),
        "zip that is encrypted": (name, photo(), {"flag_bits": 1}),
        "zip with an unknown compression": (name, photo(), {"compress_type": 97}),
        "zip with a broken compression": (name, html, {"compress_type": zipfile.ZIP_DEFLATED}),
        "zip with a wrong checksum": (name, photo(), {"CRC": 1}),
        "zip with a wrong position": (name, photo(), {"header_offset": 7}),
        "zip with a photo of 8 GiB": (name, photo(), {"file_size": 2**33}),
        "zip with a photo that unpacks a thousandfold": (
            name,
            bytes(LARGEST + 1),
            {"compress_type": zipfile.ZIP_DEFLATED},
        ),
    }


def photos(folder: Path) -> dict[str, bytes]:
    """Files of a folder that are no photos, though their names say so."""
    named = archives(folder)
    return {name: named[name][1] for name in named if name.startswith("photo that is") or "billion" in name}


def unpacked(folder: Path, content: bytes) -> Path:
    """A folder with one sound photo to test on and one file to train on as given."""
    shutil.rmtree(folder, ignore_errors=True)
    for split, data in (("val", photo()), ("train", content)):
        (folder / split / "a").mkdir(parents=True)
        (folder / split / "a" / "0.png").write_bytes(data)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    """Files of tensors that are none: a header of eight bytes says how long the description is that follows."""
    huge = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    return {
        "a pickle": pickle.dumps(Payload(folder / "owned")),
        "of a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
        "of a header that is no JSON": struct.pack("<Q", 4) + b"[[[[",
        "of four terabytes": struct.pack("<Q", len(huge)) + huge,
        "empty": b"",
    }


def load_weights(path: Path, content: bytes) -> None:
    """Load an exported stage's weights."""
    path.write_bytes(content)
    export.read_weights(path)


def idx(numbers: np.ndarray, kind: int = 8, shape: Sequence[int] | None = None) -> bytes:
    """A file of the MNIST format with these bytes; `kind` and `shape` are what its header says."""
    shape = numbers.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + numbers.astype(np.uint8).tobytes()


def digits() -> dict[str, dict[str, bytes]]:
    """Ways in which MNIST's files can be wrong: file -> content."""
    images, labels = np.zeros((20, 28, 28)), np.arange(20) % 10
    x, y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    return {
        "cut in half": {x: idx(images)[: 20 * 28 * 14]},
        "empty": {x: b""},
        "that is HTML": {x: HTML.encode() * 50},
        "of an unknown number type": {x: idx(images, kind=7)},
        "of four billion images": {x: idx(images, shape=(2**32 - 1, 28, 28))},
        "of other sides": {x: idx(np.zeros((20, 5, 7)))},
        "with labels of 17": {y: idx(labels + 8)},
        "with fewer labels than images": {y: idx(labels[:10])},
        "that is missing": {},
    }


def read_digits(folder: Path, change: dict[str, bytes]) -> None:
    """Set MNIST up as the engine does, from files of which some are changed."""
    raw = folder / "MNIST" / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 10)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28))))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    for name, content in change.items():
        (raw / name).write_bytes(content)
    if not change:
        (raw / "train-images-idx3-ubyte").unlink()
    data = MNIST(4, str(folder), train_size=10, test_size=10)
    data.setup()
    check_data(data)


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    return buffer.getvalue()


def archive(path: Path, name: str, content: bytes, **changes: int) -> Path:
    """A zip with one sound photo to test on and one member as given."""
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("val/a/0.png", photo())
        opened.writestr(name, content)
        for key, value in changes.items():
            setattr(opened.infolist()[-1], key, value)
    return path


def serve(path: Path) -> None:
    """Read the first training photo of a zip."""
    data = ImageFolder(str(path), batch_size=1, image_size=8, num_workers=0)
    data.setup()
    next(iter(data.train_dataloader()))


def stage_named(name: str, lines: Sequence[str], victim: str, folder: Path) -> None:
    """A plan with one more stage."""
    config = compose.compose(compose.request([*lines, f"runs_dir={folder / 'runs'}"]).overrides)
    content: Any = OmegaConf.to_container(config)
    content["stages"][name] = content["stages"][victim]
    plan.plan(OmegaConf.create(content), 0)


def configured(where: str, text: str, lines: Sequence[str], folder: Path) -> int:
    """Run with one more line in one file of the configuration."""
    conf = folder / "conf"
    shutil.rmtree(conf, ignore_errors=True)
    shutil.copytree(compose.CONF, conf)
    with (conf / where).open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
    reading.CONF = conf
    reading.paper_file.cache_clear()
    reading.known_stages.cache_clear()

    def command(_: list[str]) -> int:
        plan.plan(compose.compose(compose.request(lines).overrides), 0)
        return 0

    return cli.main(command, "", [])


def renamed(done: Plan, text: str) -> Entry:
    """A run's entry with names that act on whoever shows them unescaped."""
    entry = assembly.build([done], 1, [text], {})
    for claim in entry.claims:
        claim.name = claim.refuted_by = claim.reason = text
    for item in entry.published:
        item.stage = item.protocol = item.source = text
    told = {"about": text, "needs": []}
    stages = {name + text: stage.model_copy(update=told) for name, stage in entry.stages.items()}
    return entry.model_copy(update={"stages": stages})


def page(done: Plan, folder: Path) -> int:
    """0 if the report shows hostile names as text."""
    entries = {done.scale: renamed(done, HTML)}
    record = Record(key=done.paper, title=HTML, arxiv=None, about=HTML, deviations=[], entries=entries)
    results.RESULTS = folder
    files.write_text(folder / f"{done.paper}.json", layout.text(record))
    written = report.build([done.paper], folder / "site")
    return int(any(HTML in path.read_text(encoding="utf-8") for path in written))


def terminal(done: Plan, folder: Path) -> int:
    """0 if the tables and the progress show hostile names as text."""
    entry = view.of(renamed(done, MARKUP))
    with console.out.capture() as captured, Board(MARKUP, 1) as board:
        board({"event": "warning", "text": MARKUP})
        board({"event": "stage", "stage": MARKUP, "seed": 0, "status": "failed", "reason": MARKUP, "cached": False})
        for table in (console.stage_table, console.claim_table, console.published_table):
            console.out.print(table(entry, MARKUP))
    return int(captured.get().count(MARKUP) < 5)
