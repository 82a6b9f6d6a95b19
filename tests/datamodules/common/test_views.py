"""What a datamodule on top of another one leaves as it is there."""

from __future__ import annotations

from pathlib import Path

from datamodules.common.base import Spec
from datamodules.common.digits import Digits
from datamodules.common.folders import ImageFolder
from datamodules.common.views import View


class Plain(View):
    @property
    def spec(self) -> Spec:
        return self.source.spec


def test_a_view_is_where_its_source_is() -> None:
    photos = Plain(ImageFolder("nowhere", 4), 8)
    assert photos.root == Path("nowhere")
    assert "nowhere" in photos.available()
    assert photos.batch_size == 8
    assert Plain(Digits(4), 8).root is None
    assert Plain(Digits(4), 8).available() == ""


def test_the_seed_is_the_sources_unless_it_is_given() -> None:
    assert Plain(Digits(4, seed=3), 8).seed == 3
    assert Plain(Digits(4, seed=3), 8, seed=0).seed == 0


def test_a_view_is_generated_where_its_source_is() -> None:
    """Also where this is said later, as a dry run does."""
    for said in (True, False):
        view = Plain(Digits(4), 8, generated=said)
        assert view.generated == view.source.generated == said
    view.generated = True
    assert view.source.generated
    assert Plain(Digits(4, generated=True), 8).generated
