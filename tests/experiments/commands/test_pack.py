"""Runs that move: a half-done stage goes on elsewhere to the same bits, and what is not as packed is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from experiments.commands import pack, setting, unpack
from experiments.common.errors import InputError, RunError
from experiments.config import compose
from experiments.evidence import registration, results
from experiments.running import engine, packing
from experiments.running.manifest import finished, hash_metrics
from experiments.running.plan import SEEDS, Plan, Stage, plan

SETTING = ["paper=meal_v2", "scale=smoke"]


def below(runs: Path, *lines: str) -> Plan:
    return plan(compose.compose(compose.request([*SETTING, *lines, f"runs_dir={runs}"]).overrides), 0)


def some(whole: Plan, *names: str) -> Plan:
    return dataclasses.replace(whole, stages={name: whole.stages[name] for name in names})


def test_a_half_done_stage_goes_on_elsewhere_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.common.classifier import Classifier

    here, elsewhere, file = tmp_path / "here", tmp_path / "elsewhere", tmp_path / "moved.runs"
    undisturbed = some(below(tmp_path / "undisturbed"), "init").stages["init"].directory
    engine.run(some(below(tmp_path / "undisturbed"), "init"))
    original = Classifier.training_step

    def stopped(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (1, 5):
            raise RunError("stopped for the test")
        return original(self, batch, batch_idx)

    began = below(here, "checkpoint_seconds=0")
    engine.run(some(began, "teacher_a"))
    monkeypatch.setattr(Classifier, "training_step", stopped)
    outcome = engine.run(some(began, "init"))["init"]
    assert outcome.reason == "stopped for the test"
    monkeypatch.setattr(Classifier, "training_step", original)

    assert pack.main([*SETTING, f"runs_dir={here}", f"to={file}"]) == 0
    shutil.rmtree(here)
    assert unpack.main([f"file={file}", f"runs_dir={elsewhere}"]) == 0
    gone_on = below(elsewhere)
    folder = gone_on.stages["init"].directory
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 1
    assert not (folder / "manifest.json").exists()

    outcomes = engine.run(some(gone_on, "teacher_a", "init"))
    assert [outcome.cached for outcome in outcomes.values()] == [True, False]
    for name in ("last.ckpt", "metrics.json", "metrics.csv"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


# What is not as packed. Folders as a finished stage leaves them, without training one.


def leave_finished(stage: Stage) -> None:
    stage.directory.mkdir(parents=True, exist_ok=True)
    metrics = {"test/top1": 50.0}
    mark = {"fingerprint": stage.fingerprint, "metrics_hash": hash_metrics(metrics)}
    (stage.directory / "metrics.json").write_text(json.dumps(metrics))
    (stage.directory / "manifest.json").write_text(json.dumps(mark))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A file of one finished and one half-done stage."""
    stages = below(tmp_path / "here").stages
    for name in ("init", "teacher_a"):
        folder = stages[name].directory
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes(b"weights")
        if name == "init":
            leave_finished(stages[name])
    (folder / ".last.ckpt.12ab.part").write_bytes(b"half")
    (folder / "link").symlink_to("last.ckpt")
    pack.main([*SETTING, f"runs_dir={tmp_path / 'here'}", f"to={tmp_path / 'moved.runs'}"])
    return tmp_path / "moved.runs"


def again(file: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], **how: Any) -> None:
    """Write an archive anew, its members and its listing changed."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    listing = json.loads(members.pop("pack.json"))
    change(members, listing)
    with zipfile.ZipFile(file, "w", **how) as archive:
        for name, content in {**members, "pack.json": json.dumps(listing).encode()}.items():
            archive.writestr(name, content)


def place(members: dict[str, bytes], listing: dict[str, Any], old: str, new: str) -> None:
    """Rename a member, here and in the listing."""
    members[new] = members.pop(old)
    for item in listing["files"]:
        item["path"] = new if item["path"] == old else item["path"]


def member(members: dict[str, bytes], ending: str) -> str:
    return next(name for name in members if name.endswith(ending))


def test_links_and_halves_stay_behind_and_the_rest_arrives(packed: Path, tmp_path: Path) -> None:
    assert unpack.main([f"file={packed}", f"runs_dir={tmp_path / 'there'}"]) == 0
    arrived = {p.relative_to(tmp_path / "there") for p in (tmp_path / "there").rglob("*") if p.is_file()}
    left = {p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*") if p.is_file()}
    assert arrived == {p for p in left if not p.name.startswith(".") and p.name != "link"}


def test_without_weights_finished_stages_alone_are_packed_but_those_that_others_start_from(
    packed: Path, tmp_path: Path
) -> None:
    """`teacher_a` is half done and being trained; `init` has finished, and `student` will start from it."""
    file, here = tmp_path / "light.runs", below(tmp_path / "here")
    light = [*SETTING, f"runs_dir={tmp_path / 'here'}", f"to={file}", "weights=false"]
    with pytest.raises(InputError, match="no stage has finished whose weights nothing needs"):
        pack.main(light)

    init = here.stages["init"]
    successors = [stage for stage in here.stages.values() if init.name in stage.predecessors]
    assert successors
    for stage in successors:
        leave_finished(stage)
    folder = here.stages["teacher_a"].directory
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        assert pack.main(light) == 0
    assert unpack.main([f"file={file}", f"runs_dir={tmp_path / 'there'}"]) == 0
    there = below(tmp_path / "there").stages
    assert {name for name in there if finished(there[name])} == {"init", *(stage.name for stage in successors)}
    assert not [path for path in (tmp_path / "there").rglob("*") if path.suffix == ".ckpt"]


def test_a_stage_that_has_begun_here_is_not_written_over(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(init|teacher_a) has begun here too"):
        unpack.main([f"file={packed}", f"runs_dir={tmp_path / 'here'}"])


def test_a_stage_that_is_being_trained_is_not_packed(packed: Path, tmp_path: Path) -> None:
    folder = below(tmp_path / "here").stages["init"].directory
    with FileLock(folder.with_name(f".{folder.name}.lock")), pytest.raises(InputError, match="is being trained"):
        pack.main([*SETTING, f"runs_dir={tmp_path / 'here'}", f"to={tmp_path / 'other.runs'}"])
    assert not (tmp_path / "other.runs").exists()


def _out(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    place(members, listing, member(members, "last.ckpt"), "../../escaped")


def _further_out(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    old = member(members, "last.ckpt")
    place(members, listing, old, f"{old}/../../../escaped")


def _other_code(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    old = member(members, "manifest.json")
    place(members, listing, old, "seed=0/init-000000000000/manifest.json")


def _other_stage(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    place(members, listing, member(members, "last.ckpt"), "seed=0/nobody-000000000000/last.ckpt")


def _other_bytes(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    members[member(members, "last.ckpt")] = b"WEIGHTS"


def _longer(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    members[member(members, "last.ckpt")] += b"!"


def _other_numbers(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    """As somebody would who rewrites the listing too."""
    import hashlib

    name = member(members, "metrics.json")
    members[name] = members[name].replace(b"50.0", b"99.0")
    item = next(item for item in listing["files"] if item["path"] == name)
    item["sha256"] = hashlib.sha256(members[name]).hexdigest()


def _unlisted(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    members["extra"] = b"x"


def _other_paper(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    listing["paper"] = "meal_v3"


def _later_format(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    listing["format"] = 2


def _no_seed(members: dict[str, bytes], listing: dict[str, Any]) -> None:
    listing["seeds"] = []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_out, "leads out of the runs' folder"),
        (_further_out, "leads out of the runs' folder"),
        (_other_code, "init of seed=0 rests on other code, data or settings than here"),
        (_other_stage, "belongs to no stage of meal_v2/smoke"),
        (_other_bytes, "is not what was packed, by its SHA-256"),
        (_longer, "is not as it is listed"),
        (_other_numbers, "init of seed 0: its manifest does not fit its metrics"),
        (_unlisted, "it holds other files than pack.json lists"),
        (_other_paper, "did you mean 'meal_v2'"),
        (_later_format, "format 2; expected 1"),
        (_no_seed, "0 seeds; expected 1 to"),
    ],
)
def test_what_is_not_as_packed_is_refused_and_nothing_placed(
    change: Callable[[dict[str, bytes], dict[str, Any]], None], told: str, packed: Path, tmp_path: Path
) -> None:
    again(packed, change)
    with pytest.raises(InputError, match=told) as error:
        unpack.main([f"file={packed}", f"runs_dir={tmp_path / 'there' / 'runs'}"])
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert not (tmp_path / "escaped").exists()


def test_links_compression_and_damage_are_refused(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    again(packed, lambda members, listing: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed or encrypted"):
        unpack.main([f"file={packed}"])

    packed.write_bytes(whole)
    with zipfile.ZipFile(packed) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(packed, "w") as archive:
        for info, content in members.items():
            if info.filename.endswith("last.ckpt"):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    with pytest.raises(InputError, match="is a link or no plain file"):
        unpack.main([f"file={packed}"])

    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole file of make pack"):
        unpack.main([f"file={packed}"])


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        (pack, [*SETTING, "stages.init.trainer.max_epochs=1"], "a setting is packed as its files say it"),
        (pack, [*SETTING, "runs_dir=/nowhere"], "no seed of meal_v2/smoke in"),
        (unpack, [], "file=FILE is missing"),
        (unpack, ["file=/nowhere/x.runs"], "no such file"),
        (unpack, ["file=x", "paper=meal_v2"], "the file says what was run"),
    ],
)
def test_wrong_words_end_in_one_line(command: Any, words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        command.main(words)


@pytest.mark.parametrize("file", sorted(results.unfinished().glob("*")), ids=lambda file: file.name)
def test_recordings_under_way_go_on_with_the_code_as_it_is(file: Path, tmp_path: Path) -> None:
    """Each stage fits the setting's registration, and the file goes once they are recorded."""
    stored = packing.listing(file)
    assert file.name == packing.file_name(stored.paper, stored.scale, stored.variant)
    assert unpack.main([f"file={file}", f"runs_dir={tmp_path}"]) == 0

    lines = [f"paper={stored.paper}", f"scale={stored.scale}"]
    asked = setting.read([*lines, *([f"variant={stored.variant}"] if stored.variant else [])])
    assert asked.registered is not None
    stream = [registration.seed(asked.registered, index) for index in range(SEEDS)]
    assert set(stored.seeds) <= set(stream)
    recorded = results.entry(asked.paper, asked.title)
    assert recorded is None or not set(stored.seeds) & set(recorded.seeds)
