"""When a report's pages are drawn again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffc.models.components import CARD
from diffc.models.source import PRUNING_FILE
from diffc.report.model import Report
from diffc.report.writing import PAGES, write_report

RUN = Path(__file__).parents[2] / "bench" / "results" / "demo-run.json"
FILES = ("report.json", *PAGES)


@pytest.fixture
def out(tmp_path):
    write_report(Report.read(RUN), tmp_path)
    for number, name in enumerate(reversed(FILES)):  # long ago, the report last
        os.utime(tmp_path / name, ns=(number, number))
    return tmp_path


def new_files(out: Path) -> list[str]:
    return [name for name in FILES if (out / name).stat().st_mtime_ns > 1e9]


def test_a_run_with_nothing_to_do_draws_nothing(out):
    report = Report.read(RUN)
    again = write_report(report.model_copy(update={"created": "later"}), out)
    assert new_files(out) == [] and again.created == report.created


def test_another_report_is_written_whole(out):
    report = Report.read(RUN)
    write_report(report.model_copy(update={"notes": ["a note"]}), out)
    assert new_files(out) == list(FILES)


def test_the_card_of_a_model_is_one_of_the_pages(out):
    (out / "model").mkdir()
    (out / "model" / PRUNING_FILE).write_text("{}")
    write_report(Report.read(RUN), out)
    card = out / "model" / CARD
    text = card.read_text()
    for name, when in ((card, 1), *((out / name, 2) for name in PAGES), (out / "report.json", 3)):
        os.utime(name, ns=(when, when))
    write_report(Report.read(RUN), out)
    assert new_files(out) == [] and card.stat().st_mtime_ns == 1
    card.unlink()
    write_report(Report.read(RUN), out)
    assert card.read_text() == text and new_files(out) == list(FILES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_is_not_there_is_drawn(out, page):
    (out / page).unlink()
    write_report(Report.read(RUN), out)
    assert new_files(out) == list(FILES)


@pytest.mark.parametrize("page", PAGES)
def test_pages_that_are_newer_than_the_report_are_drawn_again(out, page):
    """As where a run of another request was killed between its pages and its report."""
    (out / page).write_text("of another run")
    write_report(Report.read(RUN), out)
    assert "of another run" not in (out / page).read_text() and new_files(out) == list(FILES)
