"""The report: what a reader must find on the pages."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import report as commands_report
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import claims, compose
from experiments.evidence import hardware
from experiments.evidence.ran import Code, Dataset
from experiments.evidence.records import Replication
from experiments.pages import differences, section, view
from tests.experiments.pages.helpers import DATA, HOSTILE, Seen, judged, sample, stage, with_rivals


def test_verdicts_and_numbers_are_on_the_page(build: Any) -> None:
    page = Seen(build(sample())["meal_v2"]).text
    for text in ("✓ supported", "≈ undecided", "○ not run", "lost did not finish for every seed"):
        assert text in page
    assert "+2.00" in page  # the mean of 1, 2, 3
    assert "−0.48 to +4.48" in page
    assert "an interval below 0" in page
    # 91, 93, 95: s = 2, half = t(0.975, 2) * 2 / sqrt(3) = 4.3027 * 1.1547
    assert "93.00 ± 4.97" in page
    assert "80.67" in page
    assert "93.00 ± 1.00" in page
    assert "digits (real data): 400 train, 397 val, 1,000 test" in page
    assert "seed 1: loss is NaN" in page
    assert "0123456789 with uncommitted changes" in page
    assert "23,090" in page
    assert "make reproduce PAPER=meal_v2" in page


def test_each_rival_has_a_row_with_its_verdict(build: Any) -> None:
    pages = {name: Seen(text).text for name, text in build(with_rivals("soft labels alone")).items()}
    for text in pages.values():
        assert "◐ effect only" in text
        assert "against hard labels: ✓ supported +2.00 points" in text
        assert "against soft labels alone: = no gain" in text
    page = pages["meal_v2"]
    assert "none either way" in page
    assert "student/train/top1 > 20 in 90% of seeds" in page
    assert "2 of 3 seeds, 95% interval of the share 0.13 to 0.99; not in 1" in page
    assert "an arm without the paper's idea does as well" in pages["index"]


def test_mini_is_said_not_to_be_comparable_and_full_is_judged(build: Any) -> None:
    record = sample()
    mini = Seen(build(record)["meal_v2"]).text
    assert "not comparable" in mini
    assert "matched" not in mini
    full = record.entries["mini"]
    full.scale = "full"
    full.published[0].verdict = "matched"
    record.entries = {"full": full}
    pages = build(record)
    assert "not comparable" not in Seen(pages["meal_v2"]).text
    assert "✓ matched" in Seen(pages["meal_v2"]).text
    assert "make reproduce PAPER=meal_v2 SCALE=full" in Seen(pages["meal_v2"]).text


def test_settings_without_a_record_are_listed_with_their_commands(build: Any) -> None:
    record = sample()
    page = Seen(build(record)["meal_v2"]).text
    about = compose.paper_file("meal_v2")["variants"]["clean"]["about"]
    clean = f"mini+clean {about} make reproduce PAPER=meal_v2 VARIANT=clean"
    assert clean in page
    assert re.search(r"for one consumer GPU\S*( .*)? make reproduce PAPER=meal_v2 SCALE=lab", page)
    assert page.index(clean) < page.index(
        "full+cutmix with CutMix make reproduce PAPER=meal_v2 SCALE=full VARIANT=cutmix"
    )
    record.entries["mini+clean"] = record.entries["mini"].model_copy(update={"variant": "clean"})
    assert clean not in Seen(build(record)["meal_v2"]).text


def test_index_answers_with_the_main_claim_and_marks_what_is_stale(build: Any) -> None:
    """Does it hold, how sure, at what scale: without a click."""
    fresh = Seen(build(sample())["index"]).text
    for text in ("✓ supported the student is better", "+2.00 points", "−0.48 to +4.48", "3 seeds, mini"):
        assert text in fresh
    assert fresh.index("the whole 95% interval") < fresh.index("the student is better")  # words come first
    assert "no harm is done" not in fresh  # exploratory claims are on the page
    declared = compose.paper_file("meal_v2")
    assert declared["finding"]["text"] in fresh
    assert f"at mini: digits, 400 for training, 1,000 for the test; {declared['scope']['mini']}" in fresh
    pages = build(sample(), stale=["student"])
    assert Seen(pages["index"]).text.count("↻ stale") == fresh.count("↻ stale") + 1  # one explains the word
    assert "changed since this was recorded: student" in Seen(pages["meal_v2"]).text
    pages = build(sample(), beside=["student"])  # what the main claim does not rest on
    assert Seen(pages["index"]).text.count("↻ stale") == fresh.count("↻ stale")
    page = Seen(pages["meal_v2"]).text
    assert "Beside the main claim a stage has changed since this was recorded, or was not run: student." in page


def test_a_page_begins_with_the_finding_and_says_what_each_verdict_is_about(build: Any) -> None:
    page = Seen(build(sample())["meal_v2"]).text
    declared = compose.paper_file("meal_v2")
    finding = declared["finding"]["text"]
    about = f"at mini: digits, 400 for training, 1,000 for the test; {declared['scope']['mini']}"
    assert page.index(finding) < page.index("✓ supported") < page.index(about)
    assert "random effects" not in page  # there is one setting


def test_a_page_folds_out_what_of_the_paper_was_run(build: Any) -> None:
    """The sample's record is of another claim than those of the paper's file: of them nothing was run."""
    html = build(sample())["meal_v2"]
    folded = html[html.index('<h2 id="covers">') :].partition("</section>")[0]
    items = compose.paper_file("meal_v2")["covers"]
    assert folded.count('<tr role="row"><th scope="row"') == len(items)
    assert f"of {len(items)} run: tables, figures and claims" in folded
    assert "the sweep hard_labels varies them" in folded
    assert "mini and full, not run yet" in folded


def test_a_page_says_what_the_paper_takes_on_a_card(build: Any, tmp_path: Path) -> None:
    """Whatever a driver and a failure say is shown as text."""
    reason = hardware.Failed(reason="<b>out of memory</b>")
    code = Code(commit="0123456789", dirty=True)
    at = "2026-11-30T10:00:00+00:00"
    row = hardware.Row(
        part="steps", paper="meal_v2", what="student", how="bf16-mixed", at=at, code=code, seconds=1, found=reason
    )
    card = hardware.Card(name="Some & Other", memory=2**34, cpu="", versions={}, asked=1, rows=[row])
    hardware.write(card, tmp_path / "results" / "hardware" / "some-other.json")
    html = build(sample())["meal_v2"]
    shown = html[html.index('<h2 id="card-1">') :].partition("</section>")[0]
    assert "What it takes on Some &amp; Other</h2>" in shown
    assert "On one card of 16 GiB" in shown
    assert "failed: &lt;b&gt;out of memory&lt;/b&gt;" in shown
    assert "2026-11-30 01234567+" in shown


def test_a_page_says_how_settings_differ(build: Any) -> None:
    record = sample()
    again = record.entries["mini"].model_copy(deep=True, update={"variant": "clean"})
    again.claims[0].per_seed = [-1.0, 0.0, 1.0]
    record.entries["mini+clean"] = again
    page = Seen(build(record)["meal_v2"]).text
    # means 2 and 0, each with a variance of 1/3: 5/3 between settings, standard error 1, t(1) = 12.71
    assert "over 2 settings that ask it in the same words: +1.00 [-11.71, +13.71] points in the mean" in page
    assert "scatters by 1.3 (standard deviation)" in page
    assert "at mini+clean: digits, 400 for training, 1,000 for the test; 8x8; 23,090 parameters" in page


def test_a_page_shows_an_interval_for_new_images_beside_that_of_the_seeds(build: Any, tmp_path: Path) -> None:
    """Bits of four images, two seeds of three, as they are kept beside a record: +25 and +75 points."""
    record = sample()
    record.entries["mini"].claims[0].per_seed = [25.0, 75.0, 0.0]
    bits = {"student": ["8A==", "8A=="], "init": ["cA==", "EA=="]}  # 1111, 1111 and 0111, 0001
    outcomes = {"registration": "abc", "better": "student", "than": "init", "images": "m", "count": 4, "seeds": [0, 1]}
    files.write_json(tmp_path / "results" / "images" / "meal_v2" / "mini.json", {**outcomes, "right": bits})
    page = Seen(build(record)["meal_v2"]).text
    # seeds 25 and 75, images 100, 50, 50, 0: mean squares 5000, 3333 and 1667, the mean's variance 6667 / 8
    assert "for new seeds and new test images: +50.00 [-" in page
    assert "2 seeds); standard deviation over seeds 29, over images 29, of the rest 41" in page


def test_a_paper_that_was_never_run_is_listed_with_its_claims(build: Any) -> None:
    pages = build(None)
    declared = compose.paper_file("meal_v2")
    listed = Seen(pages["index"])
    assert any(attributes.get("title") == declared["title"] for _, attributes in listed.elements)
    main = next(claim["name"] for claim in declared["claims"] if claim.get("main"))
    assert f"MEAL V2 meal_v2 {main} ○ not run" in listed.text
    rows = [attributes for tag, attributes in listed.elements if tag == "tr" and "id" in attributes]
    assert [row["id"] for row in rows] == compose.papers()
    assert {row["data-verdict"] for row in rows} == {"not-run"}
    page = Seen(pages["meal_v2"]).text
    for claim in claims.read(compose.resolve(compose.compose(["paper=meal_v2", "scale=mini"]), 0)).claims:
        assert claim.name in page
    assert "○ not run" in page


def test_rows_can_be_filtered_by_what_stands_in_them(build: Any) -> None:
    elements = Seen(build(sample(), stale=["student"])["index"]).elements
    row = next(attributes for tag, attributes in elements if tag == "tr" and attributes.get("id") == "meal_v2")
    assert row["data-verdict"] == "supported stale"
    assert row["data-replication"] == "not-yet"
    assert row["data-topic"] == "distillation"
    assert (row["data-scale"] or "").split() == ["mini"]
    wanted = {a["data-sort"] for tag, a in elements if tag == "td" and "data-sort" in a}
    assert "2.0000" in wanted  # the difference of 2, counted in a worth of 1


def test_every_main_claim_stands_beside_the_index_as_data(build: Any, tmp_path: Path) -> None:
    record = sample()
    again = record.entries["mini"].model_copy(deep=True, update={"variant": "clean"})
    record.entries = {"mini+clean": again, "mini": record.entries["mini"]}
    build(record)
    rows = json.loads((tmp_path / "site" / "results.json").read_text(encoding="utf-8"))
    assert [row["setting"] for row in rows] == ["mini", "mini+clean"]
    assert rows[0]["difference"] == 2.0
    assert (rows[0]["low"], rows[0]["high"], rows[0]["seeds"]) == (-0.48, 4.48, 3)
    with (tmp_path / "site" / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{name: str("" if value is None else value) for name, value in row.items()} for row in rows] == table


def test_links_lead_somewhere(build: Any) -> None:
    pages = build(sample())
    ids = {name: {a["id"] for _, a in Seen(text).elements if "id" in a} for name, text in pages.items()}
    for name, text in pages.items():
        for tag, attributes in Seen(text).elements:
            target = attributes.get("href") or ""
            if tag == "a" and ":" not in target:
                page, _, anchor = target.partition("#")
                if page in ("results.csv", "results.json", "meal_v2.json"):
                    continue
                assert (page.rpartition(".")[0] or name) in pages
                assert not anchor or anchor in ids[page.removesuffix(".html") or name]


def test_pages_lead_to_the_documentation_that_was_built(build: Any, tmp_path: Path) -> None:
    """And name the file of what was not built."""
    files.write_text(tmp_path / "site/docs/own-data.html", "")
    files.write_text(tmp_path / "site/docs/full/meal_v2.html", "")
    pages = {name: Seen(text) for name, text in build(sample()).items()}
    hrefs = {name: [a.get("href") for tag, a in page.elements if tag == "a"] for name, page in pages.items()}
    assert "docs/own-data.html" in hrefs["index"]
    assert {"docs/own-data.html", "docs/full/meal_v2.html"} <= set(hrefs["meal_v2"])
    assert "your own arm ( docs/own-arm.md )" in pages["meal_v2"].text


def test_stages_that_the_main_claim_does_not_compare_unfold(build: Any) -> None:
    """Where a setting has many: their numbers, their data and their curves."""
    record = sample()
    stages = record.entries["mini"].stages
    other = Dataset(**{**DATA, "name": "letters"})
    for number in range(section.MOST_STAGES):
        stages[f"probe{number}"] = stage([], [50.0 + number] * 3, data=other)
    for number in range(section.MOST_DATA):
        stages[f"probe{number}"].data = Dataset(**{**DATA, "name": f"letters {number}"})
    html = build(record)["meal_v2"]
    shown, _, folded = html.partition("which the main claim does not compare</summary>")
    measured = shown[shown.index("<h3>Measured</h3>") :]
    assert '<th scope="row">student<' in measured
    assert '<th scope="row">probe0<' not in measured
    assert '<th scope="row">probe0<' in folded.partition("</details>")[0]
    run = html[html.index("<h3>Run</h3>") :]
    assert (
        run.index("digits (real data)") < run.index("data of other stages: 4 more") < run.index("letters (real data)")
    )
    at_once = html[html.index("<h3>Learning curves</h3>") :].partition("<summary>")[0]
    assert "train/loss by epoch for init, student" in at_once
    assert "probe0" not in at_once
    assert "train/loss by epoch for probe0" in html


def test_a_stage_that_was_not_run_is_told_from_one_that_failed(build: Any) -> None:
    record = sample()
    lost = record.entries["mini"].stages["lost"]
    assert "seed 1: loss is NaN" in build(record)["meal_v2"]
    lost.failed = ""
    told = build(record)["meal_v2"]
    assert "the main claim&#39;s stages were run alone" in told
    assert "did not finish for every seed</td>" not in told
    lost.fingerprints[0] = "0123456789ab"  # of one seed alone
    assert "did not finish for every seed</td>" in build(record)["meal_v2"]


def test_a_table_is_no_wider_than_a_screen_and_unfolds_its_further_metrics(build: Any) -> None:
    record = sample()
    student = record.entries["mini"].stages["student"]
    names = [f"test/m{number:02}" for number in range(2 * section.MOST_METRICS + 1)]
    student.metrics.update({name: [float(number)] * 3 for number, name in enumerate(names)})
    html = build(record)["meal_v2"]
    measured = html[html.index("<h3>Measured</h3>") :].partition("<h3>")[2].partition("<h3>")[0]
    heads = [re.findall(r"<th [^>]*>([^<]+)</th>", row) for row in re.findall(r"<thead>.*?</thead>", measured)]
    sizes = ["Epochs", "Parameters", "Seconds"]
    assert all(len([name for name in row if name not in ("Stage", *sizes)]) <= section.MOST_METRICS for row in heads)
    assert set(names) <= {f"test/{name}" for row in heads for name in row}
    at_once, _, folded = measured.partition(" further metrics</summary>")
    assert "Epochs" in at_once
    assert "Epochs" not in folded.partition("</details>")[0]


def test_a_curve_of_one_epoch_is_no_figure(build: Any) -> None:
    record = sample()
    for item in record.entries["mini"].stages.values():
        item.curves = {
            name: curve.model_copy(update={key: getattr(curve, key)[:1] for key in ("epoch", "mean", "low", "high")})
            for name, curve in item.curves.items()
        }
    assert "Learning curves" not in build(record)["meal_v2"]


def test_the_baseline_is_drawn_once(build: Any) -> None:
    """Its numbers are those of the claim itself."""
    record = with_rivals("soft labels alone")
    main = record.entries["mini"].claims[0]
    main.interval = main.against[0].interval
    html = build(record)["meal_v2"]
    answer = html[html.index('<div class="answer"') :].partition("rule and registration")[0]
    assert answer.count('class="difference"') == 2  # the claim, and its rival


def test_same_data_same_strings(build: Any) -> None:
    assert build(sample()) == build(sample())
    first, second = (view.claim(sample().entries["mini"].claims[0]) for _ in range(2))
    assert differences.draw_claim(first, (-1, 5)) == differences.draw_claim(second, (-1, 5))


def test_every_svg_is_labelled_and_every_table_has_a_caption(build: Any) -> None:
    elements = Seen(build(sample())["meal_v2"]).elements
    outer = [a for tag, a in elements if tag == "svg" and "viewbox" in a and "class" in a]
    assert len(outer) == 2 + 3 + 1  # claims with values, metrics, diagram
    assert all(a["role"] == "img" and a["aria-label"] for a in outer)
    tags = [tag for tag, _ in elements]
    assert tags.count("table") == tags.count("caption")


def test_pictures_of_the_first_seed_are_embedded(build: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs/meal_v2/mini/seed=0/student-f0/pictures"
    folder.mkdir(parents=True)
    (folder / "soft_labels.png").write_bytes(b"not looked into")
    images = [a for tag, a in Seen(build(sample())["meal_v2"]).elements if tag == "img"]
    assert [a["src"] for a in images] == ["data:image/png;base64,bm90IGxvb2tlZCBpbnRv"]
    assert "soft_labels" in (images[0]["alt"] or "")


def test_pictures_of_the_record_are_shown_without_its_runs(build: Any, tmp_path: Path) -> None:
    picture = tmp_path / "results/pictures/meal_v2/mini/student-map.webp"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"not looked into")
    told = {
        "stage": "student",
        "name": "map",
        "fingerprint": "f0",
        "file": picture.name,
        "sha256": files.sha256(picture),
    }
    record = sample()
    mark = record.entries["mini"].registered.hash
    files.write_json(picture.parent.with_suffix(".json"), {"registration": mark, "seed": 0, "pictures": [told]})
    page = Seen(build(record)["meal_v2"])
    (image,) = [a for tag, a in page.elements if tag == "img"]
    assert image == {"src": "data:image/webp;base64,bm90IGxvb2tlZCBpbnRv", "alt": "map, drawn by student"}
    assert "Drawn by the stages of the first recorded seed" in page.text


@pytest.mark.parametrize(
    ("commit", "shown"),
    [(None, "no commit"), ("None", "no commit"), ("a" * 40 + " " + "b" * 40, "a" * 10 + ", " + "b" * 10)],
)
def test_commits(commit: str | None, shown: str) -> None:
    entry = sample().entries["mini"]
    entry.provenance.code.commit = commit
    assert view.of(entry).machine.code == shown


@pytest.mark.parametrize(
    ("variant", "overrides", "expected"),
    [
        (None, [], "make reproduce PAPER=k"),
        ("clean", [], "make reproduce PAPER=k VARIANT=clean"),
        (None, ["seeds=[0,1]"], "make reproduce PAPER=k ARGS=\"'seeds=[0,1]'\""),
    ],
)
def test_command(variant: str | None, overrides: list[str], expected: str) -> None:
    assert section.command_line("k", "mini", variant, overrides) == expected


def test_command_line(build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(sample())
    with pytest.raises(InputError, match="did you mean 'meal_v2'"):
        commands_report.main(["meal_v3", f"site={tmp_path / 'other'}"])
    assert not (tmp_path / "other").exists()
    assert commands_report.main([f"site={tmp_path / 'other'}"]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "other" / f"{n}.html") for n in ("index", *compose.papers())
    ]


def test_importing_the_report_does_not_import_torch() -> None:
    code = "import sys, experiments.pages.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_sweeps_are_shown_with_every_setting(build: Any, tmp_path: Path) -> None:
    rows = [
        {"setting": f"w={HOSTILE}", "seeds": [0, 1], "values": [1.0, 3.0], "mean": 2.0, "interval": [-10.7, 14.7]},
        {"setting": "w=2", "seeds": [], "values": [], "mean": None, "interval": None},
    ]
    rows = [{**row, "failed": [] if row["values"] else ["seed 0: the loss is nan"]} for row in rows]
    actual = {"name": "weights", "paper": "meal_v2", "scale": "smoke", "written": "2026", "objective": "a/test/top1"}
    files.write_json(tmp_path / "runs" / "meal_v2" / "smoke" / "sweeps" / "weights.json", {**actual, "settings": rows})
    page = build(sample())["meal_v2"]
    assert "Sweep weights" in page
    assert "w=2" in page
    assert "the loss is nan" in page
    assert "<script>" not in page


def test_a_replication_is_drawn_with_what_each_seed_drew(build: Any) -> None:
    record = sample()
    entry = record.entries["mini"]
    claims = [judged("the student is better", "supported", [0.5, 1.5, 2.5], [0.1, 2.9], main=True)]
    claims[0].seeds = [10, 11, 12]
    drawn = [{"lr": 0.51234, "epochs": 12}, {"lr": 1.9}, {"lr": 1.0, "epochs": 7}]
    told = {"registered": "ab", "seeds": [10, 11, 12], "drawn": drawn, "metrics": {}, "claim": claims[0]}
    entry.replication = Replication(**told, word="replicated")
    page = Seen(build(record)["meal_v2"])
    assert "replicated over recipes: supported, +1.50 [+0.100, +2.90] points; 3 of 3 draws" in page.text
    assert "11 1.9 – +1.50" in page.text  # this seed drew no epochs
    assert "10 0.512 12 +0.500" in page.text
    assert "Replication" in page.text


def test_a_page_links_the_authors_code(build: Any) -> None:
    page = Seen(build(sample())["meal_v2"])
    assert "https://github.com/szq0214/MEAL-V2" in [a.get("href") for tag, a in page.elements if tag == "a"]
    assert "modules/meal_v2" in page.text
