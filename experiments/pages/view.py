"""How an entry of a record is read into what is shown of it (display). Imports no torch.

The renderers (terminal, HTML, W&B) only lay it out: whatever they need of a record is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pydantic import BaseModel

from experiments.common.plain import Arguments
from experiments.evidence import images, judged, merge, naming, ran, records
from experiments.evidence.sequences import deviation
from experiments.evidence.words import FAILS, HOLDS, NOT_RUN
from experiments.pages import numbers, scope
from experiments.pages.display import NOT_JUDGED, Claim, Comparison, Entry, Machine, Past, Published, Stage


def of(entry: records.Entry, declared: Mapping[str, Any] | None = None) -> Entry:
    """What is shown of an entry of a record.

    Args:
        declared: what its paper's file says now, or a resolved configuration.
    """
    stages = {name: _stage(name, item) for name, item in entry.stages.items()}
    return Entry(
        scale=entry.scale,
        variant=entry.variant or None,
        about=entry.about,
        seeds=entry.seeds,
        overrides=entry.overrides,
        registered=entry.registered,
        stopped=entry.stopped,
        claims=[claim(item) for item in entry.claims],
        checks=[_comparison(item.name, item) for item in entry.checks],
        published=[published(item, entry.scale, stages, len(entry.seeds)) for item in entry.published],
        stages=stages,
        machine=_machine(entry.provenance),
        history=[_past(item) for item in entry.history],
        elsewhere=[elsewhere(item) for item in entry.elsewhere],
        confirmed=_confirmed(entry.confirmed),
        joined=[_joined(item) for item in entry.joined],
        replication=_replication(entry),
        scope=_scope(entry, declared or {}),
        worth_reason=_worth_reason(entry, declared or {}),
    )


def _scope(entry: records.Entry, declared: Mapping[str, Any]) -> str:
    """As in `at mini+clean: digits, 400 for training, ...`."""
    data = naming.data_of(entry)
    told = scope.of(entry, scope.told(declared, entry.scale, entry.variant, data))
    return f"at {naming.title(entry.scale, entry.variant, data=data)}" + (f": {told}" if told else "")


def _worth_reason(entry: records.Entry, declared: Mapping[str, Any]) -> str:
    """Why the main claim's worth is what it is, where the paper's file still asks for the same."""
    main = entry.main_claim()
    if main is None:
        return ""

    def limits(claim: Mapping[str, Any]) -> tuple[Any, ...]:
        first = (claim.get("all") or [claim])[0]  # of several outcomes, what a record shows
        return claim["name"], first.get("worth"), first.get("within")

    asked = (main.name, main.worth, main.within)
    alike = (claim for claim in declared.get("claims") or [] if limits(claim) == asked)
    return next((str(claim.get("worth_reason") or "") for claim in alike), "")


def replication(found: records.Replication, recorded: judged.JudgedClaim) -> str:
    """What a replication says, in a sentence: the word, the difference, and how seeds and recipes scatter."""
    shown = claim(found.claim)
    signs = sum((value > 0) == ((recorded.difference or 0) > 0) for value in found.claim.per_seed)
    spreads = [deviation(item.per_seed) for item in (found.claim, recorded) if len(item.per_seed) > 1]
    spread = ""
    if len(spreads) == 2:
        spread = f"; they scatter by {spreads[0]:.2g}, those of the fixed recipe by {spreads[1]:.2g}"
    return (
        f"{found.word} over recipes: {shown.verdict}, {shown.span}; {signs} of {len(found.seeds)} draws of recipe and "
        f"seed have the recorded sign{spread}"
    )


def _replication(entry: records.Entry) -> str:
    main = entry.main_claim()
    if entry.replication is not None and main is not None:
        return replication(entry.replication, main)
    return "not yet" if entry.registered.filed else ""


def two_way(found: images.TwoWay, unit: str) -> str:
    """The difference for new seeds and new test images, and what it varies with."""
    estimate = found.estimate
    span = numbers.span(estimate.mean, (estimate.low, estimate.high), unit)
    return (
        f"for new seeds and new test images: {span} (95%, one look, {numbers.count(estimate.n, 'seed')}); standard "
        f"deviation over seeds {found.seed:.2g}, over images {found.image:.2g}, of the rest {found.rest:.2g}"
    )


def claim(item: judged.JudgedClaim) -> Claim:
    """A claim of a record's entry."""
    requires = [_comparison(required.text, required) for required in item.requires]
    requires += [_counted(required) for required in item.requires_each]
    shown = Claim(**{**_known(Claim, item), "requires": requires, "restarts": _restarts(item)})
    return replace(shown, rows=[*_against(item, shown, "against "), *_outcomes(item)])


def _against(item: judged.JudgedClaim, shown: Claim, before: str) -> list[Claim]:
    """A row for the comparison with the baseline and with each rival."""
    fixed = {"published": None, "needed": None, "found": None, "requires": (), "restarts": ""}
    rows = []
    for compared in item.against:
        told = {"name": before + compared.name, **_known(Claim, compared, without=("name",))}
        rows.append(replace(shown, **{**fixed, **told}))
    return rows


def _outcomes(item: judged.JudgedClaim) -> list[Claim]:
    """A row for each outcome, and for its comparisons."""
    rows: list[Claim] = []
    for part in item.parts:
        shown = replace(claim(part), rows=())
        rows += [replace(shown, is_heading=bool(part.against)), *_against(part, shown, f"{part.name}, against ")]
    return rows


def _restarts(item: judged.JudgedClaim) -> str:
    """Which seeds started again, whether an arm stayed dead, and what the first tries alone would say."""
    if item.without_restarts is None:
        return ""
    first = item.without_restarts
    seeds = ", ".join(map(str, item.restarted))
    count = numbers.count(len(item.restarted), "seed")
    dead = f"; an arm was dead in the last try too in {', '.join(map(str, item.still_dead))}" if item.still_dead else ""
    span = numbers.span(first.difference, first.interval, item.unit)
    told = f"{count} of {len(item.seeds)} started again, an arm had {item.dead}: {seeds}{dead}"
    return f"{told}. Without restarts: {first.verdict}, {span}"


def _known(kind: type, item: BaseModel, without: Sequence[str] = ()) -> Arguments:
    """Of an item of a record, what a row of that kind has too, as its arguments."""
    names = {field.name for field in fields(kind)} & {*type(item).model_fields} - {*without}
    return {name: getattr(item, name) for name in names}


def _comparison(name: str, item: judged.Comparison | judged.CheckResult) -> Comparison:
    word = {True: HOLDS, False: FAILS, None: NOT_RUN}[item.holds]
    return Comparison(name, item.text, word, item.values or (), item.reason)


def _counted(item: judged.SeedsThatHold) -> Comparison:
    """A precondition that is asked of each seed: in how many it holds, and in which it does not."""
    text = f"{item.text} in {100 * item.share:g}% of seeds"
    if item.interval is None:
        return Comparison(item.text, text, item.verdict, (), item.reason)
    low, high = item.interval
    counted = f"{item.held} of {item.held + len(item.fails_in)} seeds"
    lacking = f"; not in {', '.join(map(str, item.fails_in))}" if item.fails_in else ""
    reason = f"{counted}, 95% interval of the share {low:.2f} to {high:.2f}{lacking}"
    return Comparison(item.text, text, item.verdict, (), reason, counted)


def published(item: judged.PublishedResult, scale: str, stages: Mapping[str, Stage], seeds: int) -> Published:
    """A published number of a record's entry."""
    stage = stages.get(item.stage)
    ours = stage.metrics.get(item.metric) if stage is not None else None
    is_judged = scale == "full" or item.kind == "exact"
    verdict = item.verdict if is_judged else NOT_JUDGED
    return Published(**{**_known(Published, item), "verdict": verdict, "per_seed": ours or [None] * seeds})


def _stage(name: str, item: ran.StageRecord) -> Stage:
    ran = [value for value in item.seconds if value is not None]
    return Stage(**{**_known(Stage, item), "name": name, "seconds": ran})


def _machine(provenance: ran.Provenance) -> Machine:
    commits = [commit for commit in (provenance.code.commit or "").split() if commit != "None"]
    return Machine(
        commits=commits,
        dirty=provenance.code.dirty,
        written=provenance.written,
        seconds=provenance.seconds,
        cpu_seconds=provenance.cpu_seconds,
        hardware=provenance.hardware,
        versions=provenance.versions,
    )


def _past(item: records.HistoryItem) -> Past:
    """An earlier record: when, why it ended, and what was seen."""
    commit = str(item.commit or "no commit")[:10]
    return Past(str(item.at)[:10], item.seeds, commit, item.why, "", "", _told(item.verdicts))


def elsewhere(item: records.Elsewhere) -> Past:
    """What another machine found under the same registration."""
    machine = f"{item.hardware.cpu}, {item.hardware.cores} cores"
    changes = [f"{name} {here} instead of {there}" for name, (there, here) in item.differs.items()]
    return Past(str(item.at)[:10], item.seeds, "", "", machine, ", ".join(changes), _told(item.claims))


def _told(judged: Mapping[str, judged.Verdict]) -> list[tuple[str, str, str]]:
    """Claims by name, with verdict and difference in words."""
    rows = []
    for name, item in judged.items():
        told = "" if item.difference is None else f"{item.difference:+.2f}"
        if told and item.interval:
            told += f" ({item.interval[0]:+.2f} to {item.interval[1]:+.2f})"
        rows.append((name, item.verdict, told))
    return rows


def _confirmed(stages: Mapping[str, ran.Confirmation]) -> list[str]:
    """What later code gave again, a sentence per commit: which seed, how many numbers, of which stages."""
    shown: dict[tuple[str, ...], dict[str, int]] = {}
    for name, item in stages.items():
        where = f" as {item.against[:10]} does on {item.cpu}" if item.against else ""
        key = (item.at[:10], str(item.commit)[:10], str(item.seed), where)
        shown.setdefault(key, {})[name] = item.numbers
    return [
        f"{at}, {commit}: seed {seed} run anew gave the same {sum(counts.values()):,} numbers{where}, "
        f"to the last bit; {', '.join(counts)}"
        for (at, commit, seed, where), counts in shown.items()
    ]


def _joined(item: ran.Joined) -> str:
    """Which seeds were added elsewhere, to a record whose runs were not at hand."""
    seeds = ", ".join(map(str, item.seeds))
    return f"seeds {seeds} ran on {item.hardware.cpu}, torch {item.versions['torch']}, and joined the others"


def machine_differs(recorded: records.Entry, entry: records.Entry) -> str:
    """What of machine and packages is not the recorded one, in words; empty if nothing."""
    changes = merge.differing(entry.provenance, recorded.provenance)
    return ", ".join(f"{name} {here} (recorded: {there})" for name, (there, here) in changes.items())
