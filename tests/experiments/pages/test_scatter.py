"""Our differences beside the published ones: what counts as agreement, and where points and labels lie."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

from experiments.pages import forest, scatter
from experiments.pages.scatter import Point


def point(key: str, ours: float, interval: tuple[float, float] | None, published: float) -> Point:
    return Point(forest.Row(key, "supported", ours, interval, worth=2.0, unit="points"), published)


SAME = point("same", 4.0, (1.0, 7.0), 2.0)
OPEN = point("open", 0.5, (-1.0, 2.0), 2.0)
BELOW = point("below", -4.0, (-6.0, -2.0), -1.0)
OTHER = point("other", -4.0, (-6.0, -2.0), 1.0)


def test_signs_agree_and_intervals_lie_on_the_side() -> None:
    told = scatter.sentence([SAME, OPEN, BELOW, OTHER])
    assert told.startswith(
        "4 papers report the main claim's difference: 3 of 4 lie on the same side of the margin here, 2 w"
    )
    assert scatter.sentence([SAME]).startswith("1 paper reports ")
    assert scatter.sentence([]) == ""


def test_a_side_is_counted_from_the_margin() -> None:
    """At most a point worse is claimed: 0.7 worse is published, 3 worse came out."""
    worse = Point(forest.Row("worse", "refuted", -3.0, (-4.0, -2.0), margin=-1.0, worth=1.0), -0.7)
    assert not worse.agrees
    nearly = Point(forest.Row("nearly", "supported", -0.5, (-0.9, -0.1), margin=-1.0, worth=1.0), -0.7)
    assert nearly.agrees
    assert nearly.is_sure


def test_points_lie_where_the_axes_say() -> None:
    picture = scatter.picture([SAME])
    root = ElementTree.fromstring(picture)
    (circle,) = [e for e in root.iter() if e.tag.endswith("circle")]
    # in worths: 1 published and 2 here, on the axis of the forest plot
    assert float(circle.get("cx", "")) == scatter.LEFT + forest.place(1.0, scatter.SIDE)
    assert float(circle.get("cy", "")) == round(scatter.SIDE - forest.place(2.0, scatter.SIDE), 6)
    assert "same: published +2.00, here +4.00 [+1.00, +7.00] points (supported)" in picture


def test_labels_do_not_lie_on_each_other() -> None:
    close = [point(f"paper_{number}", 4.0, None, 2.0) for number in range(4)]
    picture = scatter.picture(close)
    lines = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)">paper', picture))
    assert [round(b - a, 6) for a, b in itertools.pairwise(lines)] == [scatter.LINE] * 3


def test_a_claim_without_a_unit_of_worth_has_no_place() -> None:
    bare = Point(forest.Row("bare", "holds", 1.0, None), 1.0)
    assert "<circle" not in scatter.picture([bare])
    assert scatter.picture([point("<b>", 1.0, None, 1.0)]).count("<b>") == 0
