"""Markdown, JUnit, annotations, badge: well-formed whatever the names are."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import diffc
from diffc.gate.baseline import Baseline
from diffc.gate.outputs import (
    annotation_lines,
    badge,
    headline,
    said_below,
    to_junit,
    to_markdown,
)
from diffc.gate.result import CheckResult, Figure, SelfComparison, overall, side

NASTY = '<script>alert("1")</script> | & % , : `x`\n::error::\x07'


def result(*verdicts, path="before"):
    figures = [
        Figure(
            target="ort-cpu", precision="fp32", batch=1, name="latency p50", verdict=verdict,
            unit="ms", baseline=5.0, candidate=5.0 * (1 + i / 10), ratio=1 + i / 10,
            ci99=(1 + i / 10 - 0.01, 1 + i / 10 + 0.01), pairs=20, limit="+5%", note=path,
        )
        for i, verdict in enumerate(verdicts)
    ]  # fmt: skip
    noise = SelfComparison(target="ort-cpu", precision="fp32", batch=1, verdict="pass", ratio=1.0,
                  ci99=(0.99, 1.01), pairs=20, spread=1.2)  # fmt: skip
    return CheckResult(
        diffc="0", created="2026-01-01T00:00:00+00:00", verdict=overall(figures), exit_code=0,
        candidate=side(path, "output", path, None), baseline=side(path, "output", path, None),
        figures=figures, noise=[noise], seconds=1.5, environment={"cpu": path, "cores": 2},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [(("pass", "inconclusive", "unfit", "regressed"), "regressed"),
     (("pass", "inconclusive", "unfit"), "unfit"), (("inconclusive", "pass"), "inconclusive"),
     (("pass", "reported", "absent"), "pass")],
)  # fmt: skip
def test_the_worst_verdict_counts(verdicts, expected):
    assert result(*verdicts).verdict == expected


def test_a_change_is_told_apart_from_the_two_values_beside_it():
    """The median of paired ratios can have another sign than the difference of two medians."""
    words = "over pairs of calls in turn, which decides; baseline and candidate: the times of each"
    checked = result("pass")
    opposite = checked.figures[0].model_copy(update={"candidate": 4.9, "ratio": 1.01})
    paired = checked.model_copy(update={"figures": [opposite]})
    assert words in said_below(paired)[0] and words in to_markdown(paired)
    stored = paired.model_copy(update={"weaker": True})  # its ratio is that of the two medians
    sizes = paired.model_copy(update={"figures": [opposite.model_copy(update={"pairs": None})]})
    assert not any(words in line for one in (stored, sizes) for line in said_below(one))


def test_junit_counts_and_parses():
    found = ET.fromstring(
        to_junit(result("pass", "regressed", "inconclusive", "unfit", "reported"))
    )
    assert {k: found.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "4", "failures": "1", "skipped": "2",
    }  # fmt: skip
    assert len(found.findall("testcase")) == 4
    assert "+10.0 % [+9.0, +11.0]" in found.find("testcase/failure").get("message")


def test_junit_holds_any_text():
    found = ET.fromstring(to_junit(result("regressed", path=NASTY)))
    assert "<script>" in found.find("testcase/failure").text


def test_markdown_cells_hold_any_text():
    text = to_markdown(result("regressed", path=NASTY))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<script>" not in text


def test_github_annotations_cannot_be_broken_out_of():
    lines = annotation_lines(result("regressed", "inconclusive", path=NASTY), github=True)
    assert len(lines) == 2 and lines[0].startswith("::error title=") and "\n" not in lines[0]
    assert lines[1].startswith("::warning")
    assert "%0A" in lines[0] and "%25" in lines[0]


def test_annotations_are_the_worst_few():
    lines = annotation_lines(result(*["regressed"] * 9), github=False)
    assert len(lines) == 5 and "+80.0 %" in lines[0]


def test_headline():
    assert headline(result("pass", "pass")) == "pass: 2 figures within their limits"
    said = headline(result("pass", "regressed", "regressed"))
    assert said.startswith("REGRESSED: ort-cpu fp32 batch 1, latency p50: 5 ms -> 6 ms, +20.0 %")
    assert said.endswith("(and 1 more)")


def test_the_badge_is_xml_and_says_the_change():
    found = ET.fromstring(badge(result("pass", "regressed")))
    assert found.get("aria-label") == "latency: regressed +10.0 %"


def test_files_of_a_whole_check(tmp_path, run, before, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    names = {name: tmp_path / name for name in ("s.md", "j.xml", "b.svg")}
    names["s.md"].write_text("what was there\n")
    code, out, err = run(
        "check", before, "--baseline", before, "--no-loop", "--min-ssim", "0.99",
        "--markdown", names["s.md"], "--junit", names["j.xml"], "--badge", names["b.svg"],
    )  # fmt: skip
    assert code == 1 and "latency p50" in out and "::error" not in out
    assert "::error title=" in err
    assert names["s.md"].read_text().startswith("what was there\n## diffc check: REGRESSED")
    assert ET.parse(names["j.xml"]).getroot().get("failures") == "1"
    ET.parse(names["b.svg"])


@pytest.mark.parametrize(("name", "kind"), [("check", CheckResult), ("baseline", Baseline)])
def test_the_schemas_that_ship_are_what_is_written(name, kind):
    path = Path(diffc.__file__).parent / "gate" / f"{name}.schema.json"
    assert json.loads(path.read_text()) == kind.model_json_schema()
