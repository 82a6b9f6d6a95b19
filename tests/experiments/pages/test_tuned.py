"""How arms were tuned, as a page says it."""

from __future__ import annotations

from experiments.evidence import results
from experiments.pages import tuned

TABLE = {
    "arms": ["student", "continued"],
    "keys": ["stages.students.module.optimizer.lr"],
    "values": [0.003, 0.01, 0.1],
    "seeds": [1, 2],
    "by": "val/top1",
    "chosen": {
        "student": {"value": 0.1, "mean": 80.25, "edge": True},
        "continued": {"value": None, "mean": None, "edge": False},
    },
}


def test_a_grid_its_best_values_and_its_edges_are_told() -> None:
    assert tuned.told(TABLE) == (
        "students.module.optimizer.lr from 0.003, 0.01, 0.1 for all arms alike, by val/top1 of pilot seeds 1, 2; best: "
        "student at 0.1 (80.25, the grid's edge), continued at none, since it failed at each"
    )


def test_a_recorded_setting_tells_the_grid_or_the_reason_of_its_registration() -> None:
    def of(paper: str) -> str:
        entry = results.entry(paper, "mini")
        assert entry is not None
        return tuned.of(paper, "mini", entry.registered.hash)

    assert "student at 0.3" in of("meal_v2")
    assert of("zpe").startswith("none: ")
    assert tuned.of("meal_v2", "mini", "0" * 12) == ""  # no such registration is filed
