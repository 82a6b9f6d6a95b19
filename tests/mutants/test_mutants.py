"""The tool that asks whether tests notice: what it mutates, what it leaves out, what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.common.errors import InputError
from experiments.common.paths import ROOT

pytest.importorskip("mutmut")

from tests.mutants import __main__ as command
from tests.mutants import mutations, room, score

TEXT = '''\
"""Of a file."""

LIMIT = 3


def area(width: float, height: float) -> float:
    if width < 0:
        raise ValueError("width" + str(width))
    return width * height


class Square:
    def __init__(self, side: int = 2) -> None:
        self.side = side

    def __repr__(self) -> str:
        return str(self.side + 1)

    @property
    def half(self) -> float:
        return self.side / 2

    def area(self) -> float:
        return self.side * self.side

    def pictures(self) -> dict[str, Figure]:
        return {"square": Figure(figsize=(3 * self.side, 3))}
'''


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[mutations.Place]:
    (tmp_path / "pyproject.toml").write_text('[tool.mutmut]\nsource_paths = ["shapes.py"]\n')
    monkeypatch.chdir(tmp_path)
    return list(mutations.of_text("modules/shapes.py", TEXT))


@pytest.fixture
def mutants(places: list[mutations.Place]) -> list[mutations.Mutant]:
    return [place.write() for place in places]


def test_each_mutant_is_one_change_with_its_line(mutants: list[mutations.Mutant]) -> None:
    changes = {(mutant.line, mutant.diff()) for mutant in mutants}
    assert (9, "- return width * height\n+ return width / height") in changes
    assert (7, "- if width < 0:\n+ if width <= 0:") in changes
    assert (24, "- return self.side * self.side\n+ return self.side / self.side") in changes
    assert all(len(mutant.removed) == len(mutant.added) == 1 for mutant in mutants)


def test_left_out_is_what_runs_at_import_or_is_there_to_be_read(
    mutants: list[mutations.Mutant],
) -> None:
    assert {mutant.line for mutant in mutants} == {7, 9, 13, 14, 24}


def test_names_are_those_of_mutmut(mutants: list[mutations.Mutant]) -> None:
    from mutmut.mutation.file_mutation import mutate_file_contents

    theirs = {f"modules.shapes.{name}" for name in mutate_file_contents("modules/shapes.py", TEXT).mutant_names}
    assert {mutant.name for mutant in mutants} < theirs
    left_out = theirs - {mutant.name for mutant in mutants}
    assert all(any(word in name for word in ("area", "__repr__", "pictures")) for name in left_out)


def test_an_equal_mutant_is_known_by_its_file_and_diff(tmp_path: Path) -> None:
    listed = tmp_path / "equal.yaml"
    listed.write_text('- {file: modules/a.py, diff: "- x * 1\\n+ x / 1", why: one divides nothing}\n')
    reasons = score.equal_ones(listed)
    same = mutations.Mutant("n", "modules/a.py", 4, ("x * 1",), ("x / 1",))
    assert score.is_equal(same, reasons)
    assert not score.is_equal(mutations.Mutant("n", "modules/b.py", 4, ("x * 1",), ("x / 1",)), reasons)
    assert not score.is_equal(mutations.Mutant("n", "modules/a.py", 4, ("x * 1",), ("x / 2",)), reasons)
    listed.write_text("- {file: modules/a.py, diff: x}\n")
    with pytest.raises(InputError, match=r"equal\.yaml: .* expected file, diff and why"):
        score.equal_ones(listed)


def test_again_asks_those_that_no_test_failed_and_one_could(places: list[mutations.Place]) -> None:
    words = ["killed", "timeout", "survived", "unreached", "survived"]
    results = dict(zip([place.name for place in places], words, strict=False))
    same = places[4].write()
    reasons = {(same.file, same.diff()): "because"}
    asked = [command.wanted(place, results, reasons) for place in places[:5]]
    assert asked == [False, True, True, True, False]


def outcome(name: str, killed: int, survived: int) -> score.Score:
    results = {f"k{n}": "killed" for n in range(killed)} | {f"s{n}": "survived" for n in range(survived)}
    alive = [mutations.Mutant(f"s{n}", "a.py", n, (), ()) for n in range(survived)]
    return score.Score(name, "2026-01-02", "0", 0, 500, results, alive[:1], alive[1:])


def test_a_score_leaves_equal_mutants_out() -> None:
    assert outcome("zpe", 9, 2).percent == pytest.approx(90)  # one of the two computes the same


def test_a_room_has_one_line_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "mutants.md"
    for each in (outcome("zpe", 9, 2), outcome("cda", 3, 1), outcome("zpe", 10, 1)):
        score.write_page(each, page)
    rows = score.rows_of(page.read_text())
    assert list(rows) == ["cda", "zpe"]
    assert rows["zpe"] == "| `zpe` | 500 | 11 | 10 | 0 | 1 | 0 | 100 | 2026-01-02 |"


def test_every_room_has_code_and_tests() -> None:
    for name in (*room.compose.papers(), room.COMMON):
        one = room.find(name)
        assert one.files, name
        assert one.tests, name
        assert not any(file.endswith(("__init__.py", "pictures.py")) for file in one.files)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paper=zep"], "did you mean 'zpe'"),
        (["paper=zpe", "count=0"], "count=0: expected a whole number from 1"),
        (["paper=zpe", "--agian"], "'--agian': expected"),
        (["paper=zpe", "only=x", "--write"], "expected no only="),
        ([], "paper=K is missing"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command.main(words)


@pytest.mark.slow
def test_mutants_live_and_die_in_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the learning rate's few lines, which are written out in tests, hardly any mutant survives."""
    file = ROOT / "modules" / "rotnet" / "schedules.py"
    before = file.read_bytes()
    assert command.main(["paper=rotnet", "only=schedules", "count=10", "jobs=1"]) in (0, 1)
    assert file.read_bytes() == before
    assert not (ROOT / "mutants").exists()
    said = capsys.readouterr().out.splitlines()[-1]
    killed, tested = (int(word) for word in said.split(": ")[1].split(" mutants")[0].split(" of "))
    assert tested == 10
    assert killed > 0.8 * tested
