"""Cells from the whole ranking, trained on other data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr

from modules.nasnet.module import TOP
from modules.nasnet.pictures import top_picture
from modules.nasnet.transfer import Ranking, top_curves
from tests.papers.nasnet.helpers import (
    TINY,
    children,
    search,
    table,
)


def test_ranking_takes_cells_evenly_and_reports_thirds(logged: Callable[..., dict[str, float]]) -> None:
    ppo, random = search(), search("random", replays=4)
    module = Ranking(table(), ppo, random, children(), cells=6)
    assert TINY.place(module.chosen[:-1]).tolist() == [0, 4, 8, 11, 15, 19]
    assert module.chosen[-1].tolist() == ppo.select()
    module.accuracies.copy_(torch.tensor([0.1, 0.2, 0.3, 0.5, 0.4, 0.6, 0.55]))
    values = logged(module)
    thirds = [values[f"test/{name}_third_top1"] for name in ("worst", "middle", "best")]
    assert thirds == pytest.approx([15, 40, 50], abs=1e-4)
    assert values["test/spearman"] == pytest.approx(1 - 6 * 2 / (6 * 35), abs=1e-6)
    sizes = [
        sum(p.numel() for p in children().network(genotype=TINY.decode(row)).parameters())
        for row in module.chosen.tolist()
    ]
    assert module.sizes.tolist() == sizes[:-1]
    assert values["test/spearman_parameters"] == pytest.approx(spearmanr(sizes[:-1], module.accuracies[:-1]).statistic)
    assert values["test/found_top1"] == pytest.approx(55, abs=1e-4)
    assert sum(p.numel() for p in module.parameters()) == 0  # the searches are no part of it
    from_search = Ranking(random, ppo, random, children(), cells=6)  # what a search has drawn can be ranked too
    assert torch.equal(from_search.chosen, module.chosen)
    with pytest.raises(ValueError, match="multiple of 3"):
        Ranking(ppo, ppo, random, children(), cells=4)


def test_both_searches_are_drawn_on_the_same_axes() -> None:
    module = search("random", samples=40)
    figure = top_picture(top_curves({"PPO": module, "random search": module}, points=4))
    assert [axes.get_title() for axes in figure.axes] == ["best 1", "best 5", "best 25"]
    for axes, number in zip(figure.axes, TOP, strict=True):
        assert [line.get_label() for line in axes.lines] == ["PPO", "random search"]
        x, y = axes.lines[0].get_data()
        assert list(x) == [10, 20, 30, 40]
        assert y[-1] == pytest.approx(100 * float(module.history.top(number)))
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
