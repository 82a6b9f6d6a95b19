"""What README.md and docs/ repeat of the records: a table of papers, counts, every setting, and a picture. No torch.

`make readme` writes it, `make check-results` compares it.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from experiments.commands.described import Compared, Main, Paper, Setting
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.config import compose
from experiments.evidence import results, suite
from experiments.evidence.counts import stored
from experiments.evidence.words import EFFECT_ONLY, NOT_RUN
from experiments.pages import forest, published
from experiments.pages.display import SYMBOLS
from experiments.pages.numbers import count, span

# The README's example of what a command prints: its verdict and difference are the record's.
EXAMPLE = re.compile(r"(?<=\$ make reproduce PAPER=)(\w+)\n  \.\.\.\n(?:.*\n)+?(?=  \.\.\.\n)")
WIDTH = 92  # letters that a block of code on GitHub has room for
# The rows of docs/decisions.md that docs/method.md repeats.
NO_EFFECT = re.compile(r"\| (normal \| 0(\.5)?|heavy tails \(t, 3\) \| 0|skewed to the left \| 0) \|")
EFFECT = re.compile(r"\| normal \| \S+ \| 2 x worth \|")
RESULTS = """\
# Results

Every recorded setting, made from `results/` by `make readme`. [Reading a verdict](verdicts.md) says what the words
mean; `make report` shows each with its seeds, rules and history.

![Every main claim: its difference, counted in what is worth the name, with its interval](claims.svg)

"""


def write(papers: Sequence[Paper], root: Path = ROOT) -> None:
    """Write README.md and what docs/ repeats anew. Raises InputError where a file lacks a marker."""
    for name, text in texts(papers, root).items():
        files.write_text(root / name, text)


def texts(papers: Sequence[Paper], root: Path = ROOT) -> dict[str, str]:
    """File -> what it should say."""
    text = (root / "README.md").read_text(encoding="utf-8")
    text = _between(text, "counts", counts(papers))
    text = _between(text, "papers", table(papers))
    text = EXAMPLE.sub(lambda match: example(papers, match[1]), text)
    own_data = (root / "docs/own-data.md").read_text(encoding="utf-8")
    full_scale = (root / "docs/full-scale.md").read_text(encoding="utf-8")
    return {
        "docs/own-data.md": _between(own_data, "own data", own_data_table(), "docs/own-data.md"),
        "docs/full-scale.md": _between(full_scale, "published", published_tables(), "docs/full-scale.md"),
        "README.md": text,
        "docs/method.md": note(papers, root),
        "docs/results.md": f"{RESULTS}{settings_table(papers)}\n",
        "docs/claims.svg": forest.picture([row for paper in papers if (row := forest_row(paper)) is not None]),
    }


def note(papers: Sequence[Paper], root: Path) -> str:
    """docs/method.md with what it repeats of the records and of the simulation in docs/decisions.md."""
    path = "docs/method.md"
    simulated = (root / "docs/decisions.md").read_text(encoding="utf-8")
    parts = {
        "no effect": rows_of(simulated, "There is no effect", NO_EFFECT),
        "effect": rows_of(simulated, "There is an effect", EFFECT),
        "counts": counts(papers).replace("(docs/", "("),
        "patterns": patterns(papers),
    }
    text = (root / path).read_text(encoding="utf-8")
    for name, new in parts.items():
        text = _between(text, name, new, path)
    return text


def rows_of(text: str, section: str, wanted: re.Pattern[str]) -> str:
    """The table of a section of docs/decisions.md: its head, and the rows that begin as wanted.

    Raises InputError where the section has no such row.
    """
    _, _, rest = text.partition(f"## {section}")
    table = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [line for line in table[2:] if wanted.match(line)]
    if not rows:
        raise InputError(f"docs/decisions.md: {section}: no row that begins with {wanted.pattern}")
    return "\n".join([*table[:2], *rows])


def _between(text: str, name: str, new: str, where: str = "README.md") -> str:
    """The text with what stands between two markers replaced."""
    head, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise InputError(f"{where}: the markers <!-- {name} --> and <!-- /{name} --> are missing")
    return f"{head}{begin}{new}\n{end}{tail}"


def default(paper: Paper) -> tuple[str, Setting] | None:
    """The setting that stands for a paper, as in experiments.evidence.suite."""
    return next(((title, paper["entries"][title]) for title in suite.DEFAULT if title in paper["entries"]), None)


def counts(papers: Sequence[Paper]) -> str:
    """How many main claims have each verdict, how many were replicated, and how many rest on older code."""
    chosen = [found[1] for paper in papers if (found := default(paper)) is not None]
    verdicts = Counter(entry["main"]["verdict"] for entry in chosen if entry["main"])
    verdicts[NOT_RUN] += len(papers) - len(chosen)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in SYMBOLS if verdicts[verdict])
    words = Counter(entry["replication"] or "not yet" for entry in chosen)
    again = ", ".join(f"{words[word]} {word}" for word in sorted(words, key=lambda word: (word == "not yet", word)))
    standing = sum(1 for entry in chosen if entry["kept"])
    settings = sum(len(paper["entries"]) for paper in papers)
    stale = sum(1 for entry in chosen if entry["stale"])
    return (
        f"**{count(len(papers), 'main claim')}: {told}.**\n"
        f"Judged again on fresh seeds and recipes: {again}.\n"
        f"Kept when all papers are looked at together: {standing}. "
        f"Stale, since code or claims changed after the run: {stale}.\n"
        f"Recorded settings: {settings}, all in [docs/results.md](docs/results.md)."
    )


def patterns(papers: Sequence[Paper]) -> str:
    """What the papers show together: other settings' verdicts, rivals, and the published signs."""
    several = other = rivals = effect = signs = same = 0
    for paper in papers:
        mains = [entry["main"] for entry in paper["entries"].values() if entry["main"]]
        with_rivals = [m for m in mains if any(row["name"].startswith("against ") for row in m.get("rows", []))]
        rivals += len(with_rivals)
        effect += sum(main["verdict"] == EFFECT_ONLY for main in with_rivals)
        found = default(paper)
        chosen = found[1]["main"] if found is not None else None
        if chosen is None:
            continue
        alike = [main["verdict"] for main in mains if main["name"] == chosen["name"]]
        several += len(alike) > 1
        other += len(set(alike)) > 1
        reported = chosen.get("published")
        if reported and chosen["difference"] is not None:
            signs += 1
            margin = chosen["margin"]
            same += (reported["difference"] - margin) * (chosen["difference"] - margin) > 0
    return (
        f"- **Data decide.** {several} papers were asked the same in several settings; in {other} of them two settings "
        "give different verdicts.\n"
        f"- **Rivals decide.** Of {count(rivals, 'recorded setting')} with rivals, {effect} beat the baseline and not "
        "every rival.\n"
        f"- **The side lasts, the size does not.** {count(signs, 'paper')} report the difference that is "
        f"claimed; {same} lie on the same side of the claim's margin here. The index of `make report` has "
        "both, side by side."
    )


def table(papers: Sequence[Paper]) -> str:
    """The README's table: a row for each paper."""
    lines = ["| paper | what was found | verdict, and about what | replicated |", "|---|---|---|---|"]
    for paper in papers:
        finding = paper["finding"] or paper["main"] or ""
        chosen = default(paper)
        if chosen is None:
            lines.append(f"| {link(paper)} | {finding} | not run | |")
            continue
        title, entry = chosen
        about = f" at {title}: {entry['scope']}" if entry["scope"] else f" at {title}"
        lines.append(f"| {link(paper)} | {finding} | **{verdict(paper, title)}**{about} | {replicated(entry)} |")
    return "\n".join(lines)


def published_tables() -> str:
    """Published numbers beside ours, wherever a record or a count judges them."""
    papers = compose.papers()
    return published.section(
        {paper: results.entries(paper) for paper in papers}, {paper: stored(paper) for paper in papers}
    )


def own_data_table() -> str:
    """A row for each paper: whether plain labelled images can stand in place of its data, or why not."""
    lines = ["| paper | with `DATA=` |", "|---|---|"]
    for paper in compose.papers():
        lines.append(f"| `{paper}` | {_own_data(compose.paper_file(paper).get('own_data'))} |")
    return "\n".join(lines)


def _own_data(said: str | Plain | None) -> str:
    """What a paper's file says of own data, in words: why it has no use for any, or what it needs besides."""
    if isinstance(said, str):
        return said
    asked = said or {}
    told = "works"
    if asked.get("needs"):
        told += ", with " + " and ".join(f"`{key}=`" for key in asked["needs"])
    if asked.get("images"):
        told += f", from {asked['images']} training images"
    return told


def settings_table(papers: Sequence[Paper]) -> str:
    """A line for each recorded setting, the paper and its main claim at its first."""
    lines = [
        "| paper | main claim | setting | verdict | difference | seeds | replicated | compute time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for paper in papers:
        if not paper["entries"]:
            lines.append(f"| {link(paper)} | {paper['main'] or ''} | | not run | | | | |")
        for number, (title, entry) in enumerate(ordered(paper["entries"])):
            first = f"{link(paper)} | {paper['main'] or ''}" if number == 0 else " | "
            setting = f"{title}: {entry['scope']}" if entry["scope"] else title
            told = f"{verdict(paper, title)} | {spans(entry['main'])} | {entry['seeds']} | {replicated(entry)}"
            lines.append(f"| {first} | {setting} | {told} | {cost(entry)} |")
    return "\n".join(lines)


def link(paper: Paper) -> str:
    return f"[{paper['title'].split(':')[0]}](https://arxiv.org/abs/{paper['arxiv']}) `{paper['key']}`"


def verdict(paper: Paper, title: str) -> str:
    """A setting's verdict, and in brackets what is to be known of it."""
    entry = paper["entries"][title]
    main = entry["main"]
    words = []
    if entry["stale"] and main and "+" not in title and main["name"] != paper["main"]:
        words.append("stale, of an earlier main claim")  # the one beside it was not judged yet
    elif entry["stale"]:
        words.append("stale")
    elif entry["seen"]:
        words.append("claims written after these seeds")
    if entry["kept"] is False:
        words.append("alone")
    marks = f" ({', '.join(words)})" if words else ""
    return (main["verdict"] if main else "no main claim") + marks


def replicated(entry: Setting) -> str:
    return entry["replication"] or "not yet"


def cost(entry: Setting) -> str:
    """What an entry's stages took: CPU time, or wall time where that was not measured."""
    if entry["cpu_seconds"] is not None:
        return _time(entry["cpu_seconds"])
    return f"{_time(entry['seconds'])} wall"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def ordered(entries: Mapping[str, Setting]) -> list[tuple[str, Setting]]:
    """The main settings first."""
    return sorted(entries.items(), key=lambda item: ("+" in item[0] or "by hand" in item[0], item[0]))


def spans(main: Main | Compared | None) -> str:
    """The difference, and after it what rivals or further outcomes say."""
    if main is None:
        return ""
    rows = cast(Main, main).get("rows", [])
    told = [f"{row['name']}: {row['verdict']}, {spans(row)}" for row in rows]
    return "; ".join([span(main["difference"], main["interval"], main["unit"]), *told])


def forest_row(paper: Paper) -> forest.Row | None:
    """A paper's main claim as the picture shows it."""
    chosen = default(paper)
    if chosen is None or chosen[1]["main"] is None:
        return None
    main = chosen[1]["main"]
    return forest.Row(
        key=paper["key"],
        verdict=main["verdict"],
        difference=main["difference"],
        interval=main["interval"],
        margin=main["margin"],
        worth=main["worth"],
        within=main["within"],
        unit=main["unit"],
        stale=bool(chosen[1]["stale"]),
    )


def example(papers: Sequence[Paper], key: str) -> str:
    """What EXAMPLE should match for a paper: the first lines of `make reproduce`, folded as a terminal does."""
    entry = next(p["entries"]["mini"] for p in papers if p["key"] == key)
    main = entry["main"]
    assert main is not None
    stopped = "" if main["verdict"] == "undecided" else "; stopped: decided"
    why = f" ({main['reason']})" if main["reason"] else ""
    sure = span(main["difference"], main["interval"], main["unit"])
    first = textwrap.fill(f"{main['verdict']}{why}: {main['name']}", WIDTH)
    return f"{key}\n  ...\n{first}\n  {sure}, {entry['seeds']} seeds{stopped}\n"
