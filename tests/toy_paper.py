"""The toy paper (tests/toy): which of a paper's files each of its files becomes."""

from __future__ import annotations

from experiments.common.paths import ROOT

TOY = ROOT / "tests" / "toy"
PLACES = {
    "paper.yaml": ["conf/paper/toy.yaml"],
    "mini.yaml": ["conf/recipe/toy/mini.yaml"],
    "scale.yaml": ["conf/recipe/toy/smoke.yaml", "conf/recipe/toy/full.yaml"],
    "relabelled.yaml": ["conf/data/toy/relabelled.yaml"],
    "modules.py": ["modules/toy.py"],
    "datamodules.py": ["datamodules/toy.py"],
}
