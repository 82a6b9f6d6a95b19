"""`make check-results`: re-derive every interval, verdict and table of the records.

Every claim, check and published number is computed again from the metrics of its stages, every summary from the
manifests of the runs that are at hand, sizes of networks by building them, what README and docs/ repeat of the
records, and what a record says of its paper from the paper's file. Whatever differs is named. Torch is imported only
where a paper has sizes of networks and its files changed since they were last counted.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.commands import catalog, cli, counts, readme
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.memory import CONFIGURATION, remember
from experiments.common.overlay import current, home
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.config import claims, compose, vary
from experiments.evidence import (
    assembly,
    images,
    lost_commits,
    naming,
    order,
    pictures,
    registration,
    registrations,
    replication,
    restarts,
    results,
    statements,
    words,
)
from experiments.evidence import counts as recorded_counts
from experiments.evidence.records import Entry, Record
from experiments.running.manifest import hash_metrics
from experiments.running.plan import SEEDS

HELP = """\
Re-derive every recorded interval, verdict and table from per-seed values.

  python -m experiments.commands.check_results            all papers
  python -m experiments.commands.check_results meal_v2    one of them

  --require-history  fail where git cannot tell what came first (a shallow clone, a tarball)

"""


def main(argv: list[str]) -> int:
    from experiments.pages import console

    required = "--require-history" in argv
    argv = [word for word in argv if word != "--require-history"]
    papers = cli.papers_named(argv) or [path.stem for path in sorted(results.base().glob("*.json"))]
    wrong, entries, filed = [], 0, 0
    records: dict[str, Record] = {}
    for paper in papers:
        record = results.read(paper)
        if record is None:
            raise InputError(f"{paper} has no record in {results.base()}")
        records[paper] = record
        entries += len(record.entries)
        filed += sum(entry.registered.filed for entry in record.entries.values())
        wrong += list(check(record))
        wrong += list(kept(paper))
        wrong += list(pictures.problems(paper))
        wrong += list(counted(paper))
    wrong += list(statements.copies(records))
    lost = lost_commits.read()
    if not argv:
        wrong += list(_lost(records.values(), lost))
        wrong += [] if current() else list(_readme())
    for line in wrong:
        console.say(console.Text.assemble(("differs", "red"), f" {line}"))
    console.say(f"{entries} entries of {len(papers)} papers re-derived, {len(wrong)} differences")
    for item in lost.values():
        console.say(f"{item.commit[:12]} is in no clone; {item.same_code[:12]} has its code: {item.why}")
    unknown = order.of(home()).unknown
    if unknown:
        console.say(
            f"whether {filed} registrations came before their results, what records held before and whether their "
            f"commits exist is not checked: {unknown}"
        )
    return 1 if wrong or (unknown and required) else 0


def check(record: Record) -> Iterator[str]:
    """Everything in a record that does not follow from its per-seed values or is not what its paper's file says."""
    paper = record.key
    for part, said in results.told(paper).items():
        if getattr(record, part) != said:
            yield f"{paper}: {part}: not what conf/paper/{paper}.yaml says; make readme writes it"
    for title, entry in record.entries.items():
        where = f"{paper}: {title}"
        yield from _shape(entry, where)
        if not _fits(entry):
            continue  # what follows would only say it again
        again = assembly.judged_now(entry)
        for part in ("claims", "checks", "published"):
            recorded, derived = ([item.model_dump() for item in getattr(e, part)] for e in (entry, again))
            yield from differences(recorded, derived, f"{where}: {part}")
        main = assembly.asked(entry).main
        for line in restarts.problems(main, entry.stages, entry.table(), entry.seeds, entry.restarts):
            yield f"{where}: restarts: {line}"
        yield from _registered(paper, title, entry, where)
        yield from (f"{where}: {line}" for line in _stated(entry))
        yield from _declared(paper, title, entry, where)
        yield from _runs(paper, entry, where)
        yield from differing_images(paper, title, entry, where)


def _shape(entry: Entry, where: str) -> Iterator[str]:
    """Seeds, fingerprints and values belong together."""
    seeds = entry.seeds
    if len(set(seeds)) != len(seeds):
        yield f"{where}: a seed stands twice in {seeds}"
    for name, stage in entry.stages.items():
        if len(stage.fingerprints) != len(seeds):
            yield f"{where}: {name} has {len(stage.fingerprints)} fingerprints for {len(seeds)} seeds"
        for metric, values in stage.metrics.items():
            if len(values) != len(seeds):
                yield f"{where}: {name}/{metric} has {len(values)} values for {len(seeds)} seeds"
            for seed, value, mark in zip(seeds, values, stage.fingerprints, strict=False):
                if (value is None) != (mark is None) and value is not None:
                    yield f"{where}: {name}/{metric} of seed {seed} has a value and no fingerprint"
    if _fits(entry) and entry.seal != (expected := results.seal(entry)):
        yield f"{where}: the entry was edited after it was written (its seal is {entry.seal!r}, not {expected!r})"


def _fits(entry: Entry) -> bool:
    """Whether every list of a stage has a value for each seed, so that anything can be derived."""
    return all(
        {len(stage.fingerprints), len(stage.seconds), *map(len, stage.metrics.values())} == {len(entry.seeds)}
        for stage in entry.stages.values()
    )


def _stated(entry: Entry) -> Iterator[str]:
    """What an entry states beside its numbers."""
    yield from statements.shapes(entry)
    if not entry.registered.by_hand:
        yield from statements.under(entry)
    history = _history_of_code()
    if not history.unknown:
        yield from statements.commits(entry, history, lost_commits.read())


def _history_of_code() -> order.History:
    """An overlay's code is the suite's too."""
    return order.of(results.base().parent if current() is None else ROOT)


def _lost(records: Iterable[Record], lost: Mapping[str, lost_commits.Lost]) -> Iterator[str]:
    """What is wrong with the list of commits that records name and no clone has."""
    history = _history_of_code()
    if not history.unknown:
        entries = [entry for record in records for entry in record.entries.values()]
        named = {commit for entry in entries for _, commit in statements.named(entry)}
        yield from lost_commits.problems(lost, named, history)


def differing_images(paper: str, title: str, entry: Entry, where: str) -> Iterator[str]:
    """The answers on single images give the differences that an entry holds, and its pictures are of its own runs."""
    for look in (images.of, pictures.of):
        try:
            look(paper, title, entry)
        except InputError as error:
            yield f"{where}: {error}"


def _registered(paper: str, title: str, entry: Entry, where: str) -> Iterator[str]:
    """Registered entries have exactly the seeds of their registration, in order; none of them twice in the history."""
    registered = entry.registered
    if title != naming.title_of(entry):
        yield f"{where}: is an entry of {naming.title_of(entry)}"
    if registered.seen:
        yield f"{where}: says that its claims were written after its seeds had run; record it under a registration"
    if registered.seen or registered.by_hand:
        return
    if len(entry.seeds) > SEEDS:
        yield f"{where}: {len(entry.seeds)} seeds; a registration has {SEEDS}"
    elif list(entry.seeds) != [registration.seed(registered, index) for index in range(len(entry.seeds))]:
        yield f"{where}: seeds {entry.seeds} are not the first of registration {registered.hash}"
    if registered.filed:
        yield from _filed(paper, title, entry, where)
        return
    streams = [item.registered.stream for item in entry.history if not item.registered.seen]
    if registered.stream in streams and not any("recorded again" in item.why for item in entry.history):
        yield f"{where}: stream {registered.stream} was used before"


def _filed(paper: str, title: str, entry: Entry, where: str) -> Iterator[str]:
    """A registration's file is what its hash says, came first, and holds the claims that were judged."""
    files = [item for item in registrations.all_of(paper, title) if item.hash == entry.registered.hash]
    if not files:
        yield f"{where}: registration {entry.registered.hash} has no file in {registrations.folder(paper)}"
        return
    told = registrations.as_recorded(files[0])
    said = entry.registered
    if (said.at, said.stream, said.why) != (told.at, told.stream, told.why):
        yield f"{where}: what it says of its registration is not what {files[0].path.name} says"
    asked = [_comparable(content) for content in files[0].bound["claims"]]
    judged = [_comparable(claim.claim().content()) for claim in entry.claims]
    _leave_out_what_is_not_told(entry, asked, judged)
    if asked != judged:
        yield f"{where}: its claims are not those of {files[0].path.name}"
    yield from (f"{where}: {line}" for line in statements.registered(entry, files[0]))
    knobs = vary.read({"vary": files[0].bound["vary"]})
    yield from (f"{where}: {line}" for line in replication.problems(entry, assembly.asked(entry), knobs))
    root = results.base().parent
    history = order.of(root)
    if not history.unknown:
        registered = str(files[0].path.relative_to(root))
        record = str((results.base() / f"{paper}.json").relative_to(root))
        yield from (f"{where}: {line}" for line in order.problems(history, registered, record, files[0].hash, title))


def counted(paper: str) -> Iterator[str]:
    """Sizes of networks, counted anew; torch is imported only where the paper's files changed since."""
    for line in recorded_counts.differences(recorded_counts.stored(paper), counts.derive(paper)):
        yield f"{paper}: counts: {line}"


def kept(paper: str) -> Iterator[str]:
    """Nothing that a record once held is gone, as far as the history of the repository is at hand."""
    root = results.base().parent
    history = order.of(root)
    if not history.unknown:
        yield from order.losses(history, str((results.base() / f"{paper}.json").relative_to(root)))


def _declared(paper: str, title: str, entry: Entry, where: str) -> Iterator[str]:
    """The claims of an entry are those of its paper's file, wherever the file is still what was registered."""
    lines = [f"paper={paper}", f"scale={entry.scale}", *entry.overrides]
    lines += [f"variant={entry.variant}"] if entry.variant else []

    def differing() -> list[str]:
        try:
            return differing_claims(entry, compose.resolve(compose.compose(compose.request(lines).overrides), 0))
        except InputError:
            return []  # it no longer composes: it is stale, and told so

    for line in remember("claims", paper, f"{title} {entry.seal}", CONFIGURATION, differing):
        yield f"{where}: claims: {line}"


def differing_claims(entry: Entry, config: Mapping[str, Any]) -> list[str]:
    """How an entry's claims differ from those of a resolved configuration; nothing where it is registered no longer."""
    if not entry.registered.binds(registration.digest(config)):
        return []
    asked = {claim.name: _comparable(claim.content()) for claim in claims.read(config).claims}
    judged = {claim.name: _comparable(claim.claim().content()) for claim in entry.claims}
    lines = [f"{name!r} is missing" for name in asked if name not in judged]
    lines += [f"{name!r} is none of the paper's file" for name in judged if name not in asked]
    _leave_out_what_is_not_told(entry, asked.values(), judged.values())
    for name, content in asked.items():
        if name in judged and content != judged[name]:
            lines.append(f"{name!r}: {_first_key(content, judged[name])}")
    return lines


def _leave_out_what_is_not_told(entry: Entry, *contents: Iterable[Plain]) -> None:
    """Preconditions are recorded with what they came to, and so not at all for claims that were not run."""
    not_run = {claim.name for claim in entry.claims if claim.verdict == words.NOT_RUN}
    for content in itertools.chain(*contents):
        if content["name"] in not_run:
            for key in ("requires", "requires_each", "share_of_seeds"):
                content.pop(key, None)


def _comparable(content: Mapping[str, Any]) -> Plain:
    """What a claim says, without the settings it is about, as JSON holds it; an empty list of needs asks nothing."""
    said = {key: value for key, value in content.items() if key not in ("scale", "variant")}
    said = {key: value for key, value in said.items() if value or key not in ("requires", "requires_each")}
    plain: Plain = json.loads(json.dumps(said, default=dict))
    return plain


def _first_key(asked: Mapping[str, Any], judged: Mapping[str, Any]) -> str:
    """The first key in which two claims differ, in words."""
    key = next(key for key in asked if asked[key] != judged.get(key))
    return f"{key} is {judged.get(key)!r}, the paper's file says {asked[key]!r}"


def _runs(paper: str, entry: Entry, where: str) -> Iterator[str]:
    """The metrics of runs that are at hand, tied to their manifests by hashes.

    A run that finished after the record was written is another one than the record's: it says nothing about it.
    """
    for name, stage in entry.stages.items():
        for position, (seed, mark) in enumerate(zip(entry.seeds, stage.fingerprints, strict=False)):
            folder = files.inside(home() / "runs", paper, entry.scale, f"seed={seed}", f"{name}-{mark}")
            if folder is None:
                continue
            recorded = {metric: values[position] for metric, values in stage.metrics.items()}
            yield from (f"{where}: {line}" for line in _run(folder, entry, name, seed, recorded))


def _run(folder: Path, entry: Entry, stage: str, seed: int, recorded: Mapping[str, float | None]) -> Iterator[str]:
    """Where the run in a folder is not what its manifest says, of another registration, or gave other numbers."""
    manifest = files.read_json(folder / "manifest.json")
    metrics = files.read_json(folder / "metrics.json")
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        return
    if manifest.get("metrics_hash") != hash_metrics(metrics):
        yield f"{folder / 'metrics.json'} is not what its manifest says"
    if str(manifest.get("finished")) > str(entry.provenance.written):
        return
    mark = manifest.get("registered")
    if mark and not entry.registered.by_hand and not entry.registered.binds(str(mark)):
        yield f"{folder} ran under registration {mark}, not {entry.registered.hash}"
    for metric, value in recorded.items():
        there = metrics.get(metric)
        if there is not None and not same(value, there):
            yield f"{stage}/{metric} of seed {seed} is {value}, its run says {there}"


def differences(recorded: Any, derived: Any, where: str) -> Iterator[str]:
    """The places where two nested values differ; numbers up to rounding of the last digits."""
    if isinstance(recorded, Mapping) and isinstance(derived, Mapping):
        for key in dict.fromkeys([*recorded, *derived]):
            yield from differences(recorded.get(key), derived.get(key), f"{where}: {recorded.get('name', key)}: {key}")
    elif _is_list(recorded) and _is_list(derived):
        if len(recorded) != len(derived):
            yield f"{where}: {len(recorded)} recorded, {len(derived)} derived"
        for index, (a, b) in enumerate(zip(recorded, derived, strict=False)):
            yield from differences(a, b, f"{where}: {index}")
    elif not same(recorded, derived):
        yield f"{where}: recorded {recorded!r}, derived {derived!r}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def same(a: Any, b: Any) -> bool:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    if numbers and not isinstance(a, bool) and not isinstance(b, bool):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _readme(root: Path = ROOT) -> Iterator[str]:
    """README.md and docs/ repeat what the records say."""
    for name, derived in readme.texts(catalog.describe_all(), root).items():
        path = root / name
        stands = path.read_text(encoding="utf-8") if path.exists() else ""
        yield from line_differences(stands.splitlines(), derived.splitlines(), name)


def line_differences(stands: Sequence[str], derived: Sequence[str], name: str = "README.md") -> Iterator[str]:
    """One difference for each line of a page that is missing, left over or another one."""
    matcher = difflib.SequenceMatcher(None, stands, derived, autojunk=False)
    for kind, first, last, begin, end in matcher.get_opcodes():
        if kind == "equal":
            continue
        for line, instead in itertools.zip_longest(stands[first:last], derived[begin:end]):
            if line is None:
                yield f"{name}: a line is missing; make readme writes {instead!r}"
            elif instead is None:
                yield f"{name}: {line!r} follows from no record; make readme takes it out"
            else:
                yield f"{name}: {line!r}; make readme writes {instead!r}"


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, exits="0 everything follows, 1 something differs, 2 wrong input"))
