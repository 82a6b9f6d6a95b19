"""A record goes on without its runs: numbers and verdicts of an unbroken run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.commands import check_results, reproduce, seeds, setting, stopping
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.evidence import naming, registration, registrations, results, staleness
from experiments.evidence.records import Entry, Replication
from experiments.pages import view
from experiments.running import training
from experiments.running.plan import Plan, plan

PAPER = "case_based_prototypes"
TITLE = "smoke"


def record_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """From here on records are there, as if smoke were a scale that is recorded; and stages draw nothing."""
    patch.setattr(training, "_draw", lambda *_: None)
    patch.setattr(results, "RESULTS", folder)
    patch.setattr(setting, "is_recorded", lambda scale: True)
    patch.setattr(naming, "personal", lambda overrides: [])
    patch.setattr(reproduce, "_write_page", lambda paper: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registration, runs and record of two seeds, which every test takes a copy of."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        record_in(folder, patch)
        register()
        assert run(folder / "there", "most=2") == 0
    return folder


@pytest.fixture
def recorded(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record_in(tmp_path, monkeypatch)
    return stored()


@pytest.fixture
def _open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main claim stays open: trained for an epoch, no arm has the mechanism whose absence would end the seeds."""
    monkeypatch.setattr(stopping, "decided_claim", lambda main: "")


def register() -> None:
    """Write the setting's registration, as `make register` does before it commits it."""
    composed = compose.compose(compose.request([f"paper={PAPER}", "scale=smoke"]).overrides)
    registrations.write(registrations.describe(TITLE, compose.resolve(composed, 0), plan(composed, 0)))


def seeds_of(entry: Entry, count: int) -> list[int]:
    return [registration.seed(entry.registered, index) for index in range(count)]


def run(runs: Path, *words: str) -> int:
    return reproduce.main(
        [f"paper={PAPER}", "scale=smoke", "jobs=1", "seeds=null", "first=2", f"runs_dir={runs}", *words]
    )


def stored() -> Entry:
    return results.entries(PAPER)[TITLE]


def edit(change: Callable[[Entry], object]) -> None:
    """Change the entry on disk as a record of another machine or code would differ."""
    entry = stored()
    change(entry)
    put(entry)


def put(entry: Entry) -> None:
    results.update(PAPER, TITLE, lambda _: entry)


def test_the_main_claim_alone_and_then_all_others_are_the_same_record(recorded: Entry, tmp_path: Path) -> None:
    (tmp_path / f"{PAPER}.json").unlink()  # nothing is recorded yet
    assert run(tmp_path / "anew", "most=2", "only=main") == 0
    main = stored()
    without = {name for name, stage in main.stages.items() if not stage.metrics}
    assert without
    assert main.main_claim() == recorded.main_claim()
    assert {claim.verdict for claim in main.claims if not claim.main} == {"not run"}
    record = results.read(PAPER)
    assert record is not None
    assert list(check_results.check(record)) == []

    assert run(tmp_path / "anew", "most=2") == 0
    assert stored().claims == recorded.claims
    assert {name: stage.metrics for name, stage in stored().stages.items()} == {
        name: stage.metrics for name, stage in recorded.stages.items()
    }

    assert run(tmp_path / "elsewhere", "most=2", "only=main", "record=true") == 0
    assert stored().claims == recorded.claims  # what is recorded of the others stays


def test_other_claims_join_a_main_claim_of_more_seeds(recorded: Entry, tmp_path: Path) -> None:
    """The main claim alone went on to three seeds; the others come later, for the seeds of the first look, from runs
    that a second machine made: what was committed of the main claim's stages stays, their times too."""
    (tmp_path / f"{PAPER}.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "decided_claim", lambda main: "")
        assert run(tmp_path / "anew", "most=3", "only=main") == 0
    main = stored()
    assert len(main.seeds) == 3
    joined = {name for name, stage in main.stages.items() if not stage.metrics}
    assert joined
    assert {name: main.table()[name] for name in joined} == {name: {} for name in joined}  # known not to have run

    assert run(tmp_path / "elsewhere", "most=2", "record=true") == 0
    whole = stored()
    assert whole.seeds == main.seeds
    assert whole.main_claim() == main.main_claim()
    assert [c for c in whole.claims if not c.main] == [c for c in recorded.claims if not c.main]
    for name, stage in whole.stages.items():
        if name in joined:
            assert stage.metrics == {key: [*v, None] for key, v in recorded.stages[name].metrics.items()}
        else:
            assert stage == main.stages[name]
    assert whole.provenance.seconds > main.provenance.seconds
    record = results.read(PAPER)
    assert record is not None
    assert list(check_results.check(record)) == []


@pytest.mark.usefixtures("_open")
def test_it_goes_on_as_if_its_runs_were_there(recorded: Entry, tmp_path: Path) -> None:
    assert run(tmp_path / "here", "most=4", "from_record=true") == 0
    onward = stored()
    assert [p.name for p in sorted((tmp_path / "here" / PAPER / "smoke").glob("seed=*"))] == [
        f"seed={seed}" for seed in seeds_of(recorded, 4)[2:]
    ]
    put(recorded)
    assert run(tmp_path / "there", "most=4") == 0  # its own runs: the record goes on by itself
    unbroken = stored()
    assert onward.seeds == unbroken.seeds == seeds_of(recorded, 4)
    for part in ("claims", "checks", "published", "looked", "registered"):
        assert getattr(onward, part) == getattr(unbroken, part)
    for name, stage in unbroken.stages.items():
        assert onward.stages[name].metrics == stage.metrics
        assert onward.stages[name].fingerprints == stage.fingerprints
        assert onward.stages[name].under == stage.under == [recorded.registered.hash]
        assert [s is None for s in onward.stages[name].seconds] == [s is None for s in stage.seconds]
    (joined,) = onward.joined
    assert joined.seeds == seeds_of(recorded, 4)[2:]
    (line,) = view.of(onward).joined
    assert f"seeds {joined.seeds[0]}, {joined.seeds[1]} ran on" in line
    put(onward)
    record = results.read(PAPER)
    assert record is not None
    assert list(check_results.check(record)) == []


@pytest.mark.usefixtures("_open")
def test_what_was_looked_at_is_recorded_when_the_next_seed_is_interrupted(
    recorded: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = seeds.Seeds._train

    def interrupt(self: seeds.Seeds, plans: Sequence[Plan]) -> bool:
        if plans[-1].seed == seeds_of(recorded, 4)[3]:
            raise KeyboardInterrupt
        return train(self, plans)

    monkeypatch.setattr(seeds.Seeds, "_train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "there", "most=4")
    assert stored().seeds == seeds_of(recorded, 3)
    record = results.read(PAPER)
    assert record is not None
    assert list(check_results.check(record)) == []


@pytest.mark.parametrize("place", ["trainer=cpu", "trainer.accelerator=cpu"])
def test_where_it_ran_makes_no_record_stale(recorded: Entry, tmp_path: Path, place: str) -> None:
    """Fingerprints hold the trainer; the entry says which it was, and its registration is the same."""
    (results.RESULTS / f"{PAPER}.json").unlink()
    assert run(tmp_path / "elsewhere", "most=2", place) == 0
    entry = stored()
    assert (entry.place, entry.registered) == ([place], recorded.registered)
    assert staleness.stale(PAPER, entry) == []


def test_another_place_goes_on_with_the_record(recorded: Entry, tmp_path: Path) -> None:
    """The fingerprints differ by the trainer alone: no change of the code, and what was replicated stays so."""
    claim = recorded.main_claim()
    assert claim is not None
    replication = Replication(registered="h", seeds=[1], drawn=[{}], metrics={}, claim=claim, word="open")
    edit(lambda entry: setattr(entry, "replication", replication))
    assert run(tmp_path / "elsewhere", "most=2", "trainer=cpu", "record=true") == 0
    entry = stored()
    assert entry.stages["dense"].fingerprints != recorded.stages["dense"].fingerprints
    assert (entry.place, entry.history) == (["trainer=cpu"], [])
    assert entry.replication is not None


@pytest.mark.usefixtures("_open")
def test_seeds_that_join_from_another_place_make_no_record_stale(recorded: Entry, tmp_path: Path) -> None:
    """As on a machine where the trainer is another one: the entry says which seeds ran there."""
    assert run(tmp_path / "here", "most=3", "from_record=true", "trainer=cpu") == 0
    entry = stored()
    assert entry.seeds == seeds_of(recorded, 3)
    assert (entry.place, [joined.place for joined in entry.joined]) == ([], [["trainer=cpu"]])
    assert staleness.stale(PAPER, entry) == []


def test_other_code_in_another_place_is_told_as_other_code(recorded: Entry, tmp_path: Path) -> None:
    edit(lambda entry: setattr(entry.stages["dense"], "fingerprints", ["0" * 12] * 2))
    assert run(tmp_path / "elsewhere", "most=2", "trainer=cpu", "record=true") == 0
    (past,) = stored().history
    assert past.why == "recorded again after a change of the code of dense"


def test_a_stale_record_is_confirmed_first(recorded: Entry, tmp_path: Path) -> None:
    edit(lambda entry: setattr(entry.stages["dense"], "fingerprints", ["0" * 12] * 2))
    before = stored()
    with pytest.raises(InputError, match=r"dense is stale.*make confirm PAPER=case_based_prototypes"):
        run(tmp_path / "here", "most=4", "from_record=true")
    assert stored() == before


def test_what_cannot_go_on_says_why(recorded: Entry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from_record=yes: expected true, for a record, or false"):
        run(tmp_path / "here", "from_record=yes")
    edit(lambda entry: setattr(entry.registered, "hash", "another"))
    with pytest.raises(InputError, match="has other claims or another recipe now"):
        run(tmp_path / "here", "from_record=true")
    (results.RESULTS / f"{PAPER}.json").unlink()
    with pytest.raises(InputError, match="has no recorded seed"):
        run(tmp_path / "here", "from_record=true")
