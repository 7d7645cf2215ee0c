"""Report sections of other distributions: the example of docs/extending.md, and broken ones."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.distributions import install

from diffc.report import terminal
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.sections import broken_sections, parts, section_names

ROOT = Path(__file__).parents[2]
DEMO_RUN = ROOT / "tests" / "report" / "older.json"
SECTION = (ROOT / "docs" / "extending.md").read_text().partition("## A report section")[2]
EXAMPLE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
POINTS = re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]
POINTS = POINTS.replace('project.entry-points."diffc.sections"', "diffc.sections").replace('"', "")
TITLE = "Dollars for a thousand images"


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Installs a distribution that brings a section: add(name, {module: source}, entry points)."""

    def write(name, modules, points=POINTS):
        install(monkeypatch, tmp_path / name, name, modules, points)

    return write


@pytest.fixture
def report():
    return Report.read(DEMO_RUN)


def renderings(report):
    screen = io.StringIO()
    terminal.show(report, Console(file=screen, width=80))
    return screen.getvalue(), to_markdown(report), to_html(report)


def test_the_example_is_in_every_rendering_at_its_place(add, report):
    add("prices", {"dollars": EXAMPLE})
    time = report.pipeline[0].dense.latency_ms.p50
    for text in renderings(report):
        assert TITLE in text and f"{time / 3.6e6 * 400:.4f}" in text
        assert "at 0.4 dollars an hour, one image after the other" in text
        assert text.index("Where the speed-up") < text.index(TITLE) < text.index("Stages")
    report.pipeline = []
    assert not any(TITLE in text for text in renderings(report))


@pytest.mark.slow
def test_the_verb_shows_the_example_and_doctor_lists_it(add, tmp_path):
    add("prices", {"dollars": EXAMPLE})
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "diffc"]
    done = subprocess.run(
        [*command, "report", DEMO_RUN, "--html", page], capture_output=True, text=True
    )
    assert done.returncode == 0 and TITLE in done.stdout and TITLE in page.read_text()
    done = subprocess.run([*command, "doctor", "--json"], capture_output=True, text=True)
    assert "dollars" in json.loads(done.stdout)["sections"]["usable"]


def test_without_it_no_rendering_has_it(report):
    assert not any(TITLE in text for text in renderings(report))
    assert broken_sections() == {} and "calls" in section_names()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('no exchange rate')", "OSError: no exchange rate"),
        ("", "it sets no SECTION"),
        ("SECTION = 'dollars'", "its SECTION is not a diffc.report.sections.Section"),
        (EXAMPLE.replace(", 65, build", ", build"), "TypeError"),
    ],
)
def test_a_broken_section_is_named_and_the_rest_is_shown(add, report, source, reason):
    add("prices", {"dollars": source})
    assert reason in broken_sections()["dollars"] and "prices 1.0" in broken_sections()["dollars"]
    for text in renderings(report):
        words = " ".join(text.replace("\\", "").split())
        assert "section 'dollars'" in words.replace("&#x27;", "'") and "Measured on" in words
        assert "\n" not in broken_sections()["dollars"]


@pytest.mark.parametrize(
    "blocks",
    ["1 / 0", "['a string']", "[Table([('a',)])]", "[Part('x', [report])]", "None"],
)
def test_a_section_that_fails_says_so_in_its_place(add, report, blocks):
    source = "from diffc.report.blocks import *\nfrom diffc.report.sections import Section\n"
    source += f"SECTION = Section('Toy', 65, lambda report: {blocks})\n"
    add("prices", {"dollars": source})
    for text in renderings(report):
        assert "Toy" in text and "cannot be shown" in text and "Measured on" in text


def test_a_foreign_sections_text_is_escaped(add, report):
    source = (
        "from diffc.report.blocks import *\nfrom diffc.report.sections import Section\n"
        "BAD = '<script>alert(1)</script> | *x*'\n"
        "BLOCKS = [Table([(BAD, BAD)], heads=(BAD, BAD)), Notes([BAD]), Code(BAD),\n"
        "          Details(BAD, [Notes([BAD])]), Chart(BAD, Table([(BAD,)], heads=('',)))]\n"
        "SECTION = Section(BAD, 65, lambda report: BLOCKS)\n"
    )
    add("prices", {"dollars": source})
    page, markdown = to_html(report), to_markdown(report)
    assert "cannot be shown" not in page
    assert "<script" not in page and page.count("&lt;script&gt;") == 11
    outside_code = "\n".join(x for x in markdown.splitlines() if not x.startswith("    "))
    assert not re.search(r"(?<!\\)<script", outside_code)


def test_two_sections_of_one_name_are_both_named(add, report):
    add("prices", {"dollars": EXAMPLE})
    add("costs", {"euros": EXAMPLE}, "[diffc.sections]\ndollars = euros\n")
    reason = broken_sections()["dollars"]
    assert "dollars (prices 1.0)" in reason and "euros (costs 1.0)" in reason
    assert [part.title for part in parts(report)][-1] == "Sections left out"
