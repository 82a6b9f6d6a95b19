"""The layouts of retrieval benchmarks, on small folders made here."""

from __future__ import annotations

from pathlib import Path

from datamodules.off_the_shelf.retrieval import Holidays, Landmarks, UKBench
from tests.datamodules.off_the_shelf.helpers import photo, ready, write


def test_landmarks_have_junk_and_square_queries(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "b_1", "b_2"):
        photo(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "gt/a_1_query.txt", "oxc1_a_1 4.0 8.0 14.0 12.0")
    write(tmp_path / "gt/a_1_good.txt", "a_1")
    write(tmp_path / "gt/a_1_ok.txt", "a_2")
    write(tmp_path / "gt/a_1_junk.txt", "b_2")
    data = ready(Landmarks(str(tmp_path), 2, title="Oxford5k", sizes=[4, 1]))
    assert data.targets["test"].tolist() == [[1, 1, 0, -1]]
    assert data.photos[int(data.rows["test"][0])].box == (4, 5, 14, 15)
    assert data.rows["train"].tolist() == [0, 1, 2, 3]
    assert [len(batch.row) for batch in data.train_dataloader()] == [2, 2, 1]  # and the query


def test_holidays_leaves_the_query_out_and_ukbench_does_not(tmp_path: Path) -> None:
    for n in (100000, 100001, 100100, 100101, 100102):
        photo(tmp_path / f"jpg/{n}.jpg")
    holidays = ready(Holidays(str(tmp_path), 2))
    assert holidays.targets["test"].tolist() == [[-1, 1, 0, 0, 0], [0, 0, -1, 1, 1]]
    assert holidays.rows["test"].tolist() == [0, 2]  # queries are references too: no image is read twice
    for n in range(8):
        photo(tmp_path / f"full/ukbench0000{n}.jpg")
    relevance = ready(UKBench(str(tmp_path), 2)).targets["test"]
    assert relevance[5].tolist() == [0] * 4 + [1] * 4
