"""The table that `make tune` prints."""

import io

from rich.console import Console

from experiments.commands import tune
from experiments.config.schema import Grid


def test_the_best_value_of_an_arm_is_bold_and_brackets_in_names_are_not_markup() -> None:
    grid = Grid(
        arms=["a[b]", "c"], keys=["stages.*.module.optimizer.lr"], values=[0.1, 0.2, 0.3], by="val/top1", seeds=[1, 2]
    )
    found = {"chosen": {"a[b]": {"value": 0.2, "means": [None, 71.25, 70.0]}}}
    written = io.StringIO()

    Console(file=written, force_terminal=True, markup=False).print(tune._show(grid, found, "paper/mini"))

    assert "a[b]" in written.getvalue()
    assert "failed" in written.getvalue()
    assert "\x1b[1m71.25\x1b[0m" in written.getvalue().replace(" ", "")
    assert "[bold]" not in written.getvalue()
