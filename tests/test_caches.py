"""Everything that is kept to be used again, and what says that it is still the right one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from experiments.common.paths import ROOT

# Within a process: no file of this project changes while one runs, but those that say so.
KEPT_IN_MEMORY = {
    "datamodules.common.digits.scans": "nothing: a data set of scikit-learn's package",
    "datamodules.common.folders._listings": "the folder, and the times of all folders below it",
    "datamodules.common.imagenet_classes.imagenet_classes": "nothing: a list in this project",
    "datamodules.common.loader.batch_type": "the columns",
    "datamodules.off_the_shelf.collection._READ": "the source's class and options; its files stay meanwhile",
    "datamodules.mswal.preprocessing.maker": "nothing: this project's code and its libraries' versions",
    "experiments.common.memory._marks": "nothing: the content of this project's files, until an overlay is opened",
    "experiments.common.overlay._of": "the variable of the environment that says what is open",
    "datamodules.common.own._open_all": "files and their times, side and colour",
    "experiments.benchmarks.card._on_processor": "the paper; this project's code, run on this machine",
    "experiments.commands.writing._templates": "nothing: files of this project",
    "experiments.config.compose._of_options": "the folder of the configuration, its files' times, and the lines",
    "experiments.config.compose._parsed": "the text, which it is a function of",
    "experiments.config.compose._without_values": "the folders of the configuration, and the lines",
    "experiments.config.frame._key_in_frame": "the line, which it is a function of",
    "experiments.config.frame._frames": "the lines, and the times of the frame's files",
    "experiments.config.instantiate._parameters": "the class or function itself",
    "experiments.config.instantiate._plain_arguments": "the class or function itself",
    "experiments.config.reading._for_hydra": "the file, and its time",
    "experiments.config.reading._recipe": "the folders of the configuration, the file, and its time",
    "experiments.config.reading._text_of": "the folders of the configuration, and the paper",
    "experiments.config.reading.default": "the group; a file of this project",
    "experiments.config.reading.known_stages": "the paper; files of this project",
    "experiments.config.reading.paper_file": "the paper; a file of this project",
    "experiments.config.written._adapter": "the type",
    "experiments.evidence.order._history": "the folder, and the commit that is its HEAD",
    "experiments.identity.content._digest": "the data's configuration, until `forget`: after each stage",
    "experiments.identity.definitions.read_module": "the module; this project's code",
    "experiments.identity.dependencies._run_on_import": "the module; this project's code",
    "experiments.identity.definitions.attribute": "the dotted name; this project's code",
    "experiments.identity.dependencies.content": "the definition; this project's code",
    "experiments.identity.dependencies.identity": "the dotted names; this project's code",
    "experiments.identity.definitions.locate": "the dotted name; this project's code",
    "experiments.identity.dependencies.reach": "the dotted names; this project's code",
    "experiments.identity.provenance.code_version": "nothing: this project's code",
    "experiments.identity.provenance.versions": "nothing: what is installed",
    "experiments.pages.index.citation": "nothing: a file of this project",
    "experiments.pages.index.script": "nothing: a file of this project",
    "experiments.pages.report._templates": "nothing: files of this project",
    "experiments.running.devices.gpus": "nothing: this machine",
    "experiments.running.readings._kept": "the dataset, its subset, and its files' sizes and times",
    "modules.cda.curriculum.shuffled_steps": "its arguments, which it is a function of",
    "modules.common.probes.decodable": "nothing: a data set of scikit-learn's package",
    "modules.robust_explainability.curves.blur_kernel": "its arguments, which it is a function of",
}

# Lists of a module that are no caches: what was asked for, and what came out.
ELSE = {
    "experiments.common.memory._off",
    "experiments.identity.content._off",
    "experiments.commands.run.CODES",
    "experiments.commands.run.ERRORS",
    "experiments.config.reading._searched",
}

# What modules and datamodules leave on disk or fetch, by the function that writes it.
KEPT_ON_DISK = {
    "datamodules.common.torchvision_sets.TorchvisionSet.prepare_data": "torchvision's checksum of each file",
    "datamodules.mswal.contents._write_ledger": "size and both times of change of each file",
    "datamodules.mswal.nnunet.NnUNetFolder._measure": "code, and content of all training scans and labels",
    "datamodules.mswal.preprocessing.preprocess": "code, plan, and content of scan and label",
    "modules.aria.matrix.Protocol.artifacts": "the stage's own folder: its fingerprint and seed",
    "modules.sparse.networks.efficientnet_b3": "the hash in the file's name, which is checked",
}

WRITES = {"save", "savez", "savez_compressed", "write_text", "write_bytes", "load_state_dict_from_url", "urlretrieve"}
IN_MEMORY = {"io.BytesIO()"}


def functions(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node
            yield from functions(node, f"{name}.{node.name}")


def is_memo(node: ast.stmt) -> bool:
    """An empty container of a module, filled later."""
    return isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(node.value or node) in ("{}", "[]", "dict()")


def writes(function: ast.FunctionDef) -> bool:
    """Whether it calls what leaves a file: not for one that is made in memory alone."""
    text = ast.unparse(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and any(
            k.arg == "download" and ast.unparse(k.value) == "True" for k in node.keywords
        ):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            return not any(made in text for made in IN_MEMORY)
    return False


def scanned() -> tuple[set[str], set[str]]:
    in_memory, on_disk = set(), set()
    for folder in ("experiments", "modules", "datamodules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in tree.body:
                if is_memo(node):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target  # type: ignore[attr-defined]
                    in_memory.add(f"{module}.{ast.unparse(target)}")
            for name, function in functions(tree, module):
                decorators = [ast.unparse(each).split("(")[0].split(".")[-1] for each in function.decorator_list]
                if {"cache", "lru_cache"} & set(decorators):
                    in_memory.add(name)
                if folder != "experiments" and writes(function):
                    on_disk.add(name)
    return in_memory, on_disk


def test_every_cache_is_listed_with_its_key() -> None:
    in_memory, on_disk = scanned()
    assert in_memory - ELSE == set(KEPT_IN_MEMORY)
    assert in_memory >= ELSE
    assert on_disk == set(KEPT_ON_DISK)


def test_the_scan_sees_what_it_should(tmp_path: Path) -> None:
    code = "@functools.lru_cache(maxsize=1)\ndef a(): ...\nb: dict[str, int] = {}\n"
    code += (
        "def c():\n    np.savez(path)\ndef d():\n    f = io.BytesIO()\n    x.save(f)\ndef e():\n    g(download=True)\n"
    )
    tree = ast.parse(code)
    assert [is_memo(node) for node in tree.body] == [False, True, False, False, False]
    assert [name for name, node in functions(tree, "m") if writes(node)] == ["m.c", "m.e"]
