"""What a terminal shows is text: names in square brackets stay as they are."""

from __future__ import annotations

import pytest

from experiments.commands import cli
from experiments.common.errors import InputError
from experiments.pages import console, display, numbers, view
from experiments.pages.progress import Board
from tests.experiments.pages.helpers import sample

NAME = "[/nothing][red]acc[0]"


@pytest.fixture
def entry() -> display.Entry:
    """An entry whose every name looks like markup."""
    record = sample().entries["mini"]
    for claim in record.claims:
        claim.name = claim.reason = claim.unit = NAME
    record.checks[0].name = NAME
    published = record.published[0]
    published.stage = published.metric = published.protocol = NAME
    metrics = {f"test/{NAME}": [1.0, 2.0, 3.0]}
    record.stages = {NAME: record.stages["student"].model_copy(update={"metrics": metrics})}
    record.stopped = NAME
    return view.of(record)


def test_names_that_look_like_markup_are_shown(entry: display.Entry) -> None:
    with console.out.capture() as captured:
        console.say(console.main_line(entry, NAME), console.first_line(entry, 0.0, 1), NAME)
        console.say(console.look_line(entry, 0.0, 1.0), console.beside(entry, entry, NAME))
    assert captured.get().count(NAME) == 10

    closing = console.closing_table([console.Ended(NAME, entry, 75.0, 130.0)])
    with console.out.capture() as captured:
        console.out.print(closing)
    assert "acc[0]" in captured.get()
    assert "75 s" in captured.get()
    assert "2 min" in captured.get()

    for table in console.tables(entry, NAME):
        with console.out.capture() as captured:
            console.out.print(table)
        assert NAME in captured.get().splitlines()[0]  # its title
        assert captured.get().count("acc[0]") > 1  # a cell


def test_progress_shows_names_that_look_like_markup() -> None:
    with console.out.capture() as captured, Board(NAME, 2) as board:
        board({"event": "warning", "text": NAME})
        board({"event": "stage", "stage": NAME, "seed": 0, "status": "failed", "reason": NAME, "cached": False})
    assert captured.get().count(NAME) == 3


def test_a_verdict_has_its_colour() -> None:
    assert str(console.word("supported", "bold").style) == "bold green"
    assert str(console.word("no such word").style) == "dim"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ("", "")),
        ([None, None], ("", "")),
        ([1.0, float("nan")], ("not finite", "")),
        ([2.0], ("2.000", "")),
        ([91.0, 93.0, 95.0], ("93.00", "4.968")),  # t(0.975; 2) * 2 / sqrt(3) = 4.3027 * 1.1547
    ],
)
def test_mean_and_half_of_the_interval(values: list[float | None], shown: tuple[str, str]) -> None:
    assert numbers.mean_and_half(values, numbers.number) == shown


def test_numbers_are_written_as_their_size_asks() -> None:
    assert [numbers.number(value) for value in (12.345, 0.12345, 0.012345)] == ["12.35", "0.123", "0.0123"]
    assert [numbers.signed(value) for value in (1.234, -0.1234, 0.0)] == ["+1.23", "-0.123", "+0.00"]
    assert [numbers.fixed(value, 2, sign=True) for value in (1.0, -1.0, -0.001)] == ["+1.00", "−1.00", "0.00"]
    assert numbers.span(None, None, "points") == "no difference"
    assert numbers.span(1.5, [1.0, 2.0], "") == "+1.50 [+1.00, +2.00]"
    assert numbers.decimals([None, 0.05, float("inf")], two_from=1) == 4


ACTING = "a\x1b[2J\x1b]0;title\x07b\u202ec\x00\u2066d\x9b1m\rz"


def test_no_character_of_a_name_acts_on_the_terminal() -> None:
    """In lines, tables and bars: escape sequences, a bell, a return to the line's start, a turned reading direction."""
    record = sample().entries["mini"]
    for claim in record.claims:
        claim.name = claim.reason = claim.unit = ACTING
    shown = view.of(record)
    with console.out.capture() as captured, Board(ACTING, 1) as board:
        console.say(ACTING, console.main_line(shown, ACTING))
        for table in console.tables(shown, ACTING):
            console.out.print(table)
        board({"event": "warning", "text": ACTING})
    text = captured.get()
    assert "a�[2J" in text
    assert not set(text) & {"\x07", "\x00", "\r", "\u202e", "\u2066", "\x9b"}
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text


def test_styles_of_its_own_still_reach_a_terminal() -> None:
    terminal = console.Terminal(force_terminal=True, color_system="standard", width=80)
    with terminal.capture() as captured:
        terminal.print(console.word("supported"))
    assert captured.get() == "\x1b[32msupported\x1b[0m\n"


def test_an_error_is_shown_shortened_and_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: list[str]) -> int:
        raise InputError(f"{ACTING}{'x' * 10_000}")

    assert cli.main(fail, "", []) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: a�[2J")
    assert told.endswith(f"x ... ({len(ACTING) + 10_000} letters)\n")
    assert "\x1b" not in told
