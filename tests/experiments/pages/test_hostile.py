"""What must never get onto a page or into a command, whatever a record, a name or a folder holds."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.common import files
from experiments.common.errors import InputError
from experiments.pages import section
from tests import example
from tests.experiments.pages.helpers import HOSTILE, Seen, sample, stage, with_rivals, without_script


def test_the_name_of_a_rival_is_escaped(build: Any) -> None:
    for text in map(without_script, build(with_rivals(HOSTILE)).values()):
        assert "<script" not in text.lower()
        assert "<script>alert(1)</script>" in Seen(text).text


def test_hostile_text_is_escaped_everywhere(build: Any) -> None:
    record = sample()
    record.title = record.about = record.arxiv = HOSTILE
    record.deviations = [dict.fromkeys(("what", "paper", "code", "ours", "why"), HOSTILE)]
    entry = record.entries["mini"]
    for claim in entry.claims:
        claim.name = claim.rule = claim.refuted_by = claim.reason = HOSTILE
    published = entry.published[0]
    published.stage = published.metric = published.dataset = published.protocol = published.source = HOSTILE
    entry.stages[HOSTILE] = stage([HOSTILE], [1.0, 2.0, 3.0], about=HOSTILE, curves={HOSTILE: example.curve()})
    entry.overrides = [HOSTILE]
    entry.provenance.hardware.cpu = HOSTILE
    plain = build(sample())
    for name, text in build(record).items():
        text = without_script(text)
        seen = Seen(text)
        tags = {tag for tag, _ in seen.elements}
        assert "script" not in tags
        assert "<script" not in text.lower()
        attributes = {key for _, attributes in seen.elements for key in attributes}
        assert attributes <= {key for _, attributes in Seen(plain[name]).elements for key in attributes}
        assert "<script>alert(1)</script>" in seen.text  # it is shown, as text


def test_nothing_is_loaded_from_elsewhere(build: Any) -> None:
    for text in map(without_script, build(sample()).values()):
        assert "@import" not in text
        assert "url(" not in text
        for tag, attributes in Seen(text).elements:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base")
            target = attributes.get("href") or attributes.get("src") or attributes.get("xlink:href") or ""
            if ":" in target:
                assert tag == "a"
                assert target.startswith(("https://arxiv.org/abs/", "https://github.com/"))


def test_the_index_runs_its_own_script_alone(build: Any) -> None:
    """The hash that the page allows is that of the text between its tags."""
    pages = build(sample())
    (text,) = re.findall(r"<script>(.*?)</script>", pages["index"], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policies = {a.get("content") for _, a in Seen(pages["index"]).elements if a.get("http-equiv")}
    assert policies == {f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"}
    assert "<script" not in pages["meal_v2"]
    assert "script-src" not in pages["meal_v2"]


def test_a_linked_picture_and_one_outside_the_run_are_left_out(build: Any, tmp_path: Path) -> None:
    """By a link at any step, a stage's name that climbs, or a file that is no picture's size."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret of this machine")
    seeds = tmp_path / "runs/meal_v2/mini/seed=0"
    pictures = seeds / "student-f0/pictures"
    pictures.mkdir(parents=True)
    (pictures / "linked.png").symlink_to(secret)
    (pictures / "folder.png").mkdir()
    (pictures / "huge.png").write_bytes(bytes(section.MOST_PICTURE + 1))
    elsewhere = tmp_path / "elsewhere/pictures"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.png").write_bytes(b"secret of this machine")
    (seeds / "init-f0").symlink_to(elsewhere.parent)
    record = sample()
    climbing = record.entries["mini"].stages["ensemble"].model_copy(update={"fingerprints": ["/../" * 5, "b", "c"]})
    record.entries["mini"].stages["ensemble"] = climbing
    page = build(record)["meal_v2"]
    assert not [a for tag, a in Seen(page).elements if tag == "img"]


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a.png", True), ("..", False), ("a/b", False), ("a\\b", False), ("a\0b", False), ("", False), ("link", False)],
)
def test_a_name_from_elsewhere_is_one_step(name: str, inside: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert (files.inside(tmp_path, name) is not None) == inside
    assert files.inside(tmp_path, "a.png") == tmp_path / "a.png"


def test_characters_that_act_are_shown_as_signs(build: Any) -> None:
    record = sample()
    acting = "a\x1b[2J\u202eb\x00c\x07"
    record.title = acting
    record.entries["mini"].claims[0].name = acting
    record.entries["mini"].stages[acting] = stage([], [1.0, 2.0, 3.0], about=acting)
    page = build(record)["meal_v2"]
    assert "a\ufffd[2J\ufffdb\ufffdc\ufffd" in page
    assert not set(page) & {"\x1b", "\u202e", "\x00", "\x07"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": 5}, "settings: input should be a valid list"),
        ({"written": None}, "written: input should be a valid string"),
        ({"settings": [{"setting": "a", "seeds": [HOSTILE], "values": [1.0]}]}, "settings.0.seeds.0: "),
        ({"extra": 1}, "key 'extra' does not exist"),
        (None, "input should be a valid dictionary"),
    ],
)
def test_a_sweep_that_is_something_else_is_named(
    build: Any, tmp_path: Path, change: dict[str, Any] | None, told: str
) -> None:
    sweep = {"name": "w", "paper": "meal_v2", "scale": "smoke", "written": "2026", "objective": "o", "settings": []}
    path = tmp_path / "runs/meal_v2/smoke/sweeps/w.json"
    files.write_json(path, [1] if change is None else {**sweep, **change})
    with pytest.raises(InputError, match=re.escape(told)) as raised:
        build(sample())
    assert str(raised.value).startswith(f"{path}: ")
    path.write_text("{")  # not written to its end: as if it were not there
    build(sample())


@pytest.mark.parametrize("override", ["a=1", "a='x y'", 'a="b"', "a=${b}", "a=$HOME", "a=[1,{b:2}]", "a=b\\c"])
def test_command_survives_make_and_the_shell(override: str, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("reproduce:\n\t@printf '%s\\n' $(ARGS)\n")
    line = section.command_line("k", "mini", None, [override])
    # The suite itself is started by make, whose variables would make this one talk about folders.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True)
    assert done.stdout == override + "\n"
