"""What was said of the data and on the way is in every rendering."""

import io

import pytest
from rich.console import Console
from support.reports import find_part, notes_of

from diffc.report import terminal
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown


def test_notes_of_the_run_its_data_and_distillation_are_in_every_rendering(report) -> None:
    report.notes = ["8 images are few"]
    report.data = {"origin": "3 images from faces", "notes": ["3 images used, 1 unreadable"]}
    report.distillation = {"notes": ["no curve of quality: no image"]}
    assert notes_of(find_part(report, report.model.name)) == ["8 images are few"]
    assert notes_of(find_part(report, "Data")) == [
        "clean samples: 3 images from faces",
        "3 images used, 1 unreadable",
    ]
    assert notes_of(find_part(report, "Distillation")) == ["no curve of quality: no image"]
    screen = io.StringIO()
    terminal.show(report, Console(file=screen, width=80))
    for text in (screen.getvalue(), to_markdown(report), to_html(report)):
        assert "3 images used, 1 unreadable" in text and "no curve of quality: no image" in text
        assert "clean samples: 3 images from faces" in text and "8 images are few" in text


@pytest.mark.parametrize("cut", ["width", "width,depth"])
def test_branches_that_went_are_named_with_what_is_inside_them_once(report, cut) -> None:
    kept = {"mid": 0, "mid.attn": 0, "up.0": 1, "up.1": 0}
    report.plan["groups"] = [
        {"name": name, "kind": "branch", "size": 1, "kept": n} for name, n in kept.items()
    ]
    report.plan["why"]["cut"] = cut
    (note,) = [
        line.rstrip() for line in to_markdown(report).splitlines() if "left out whole" in line
    ]
    assert note.endswith(": mid, up.1; 1 of 4 branches and blocks stay")
    # a recipe's own widths are no choice of the scores
    assert ("changes least" in note) == (cut == "width,depth")
    assert "mid, up.1; 1 of 4 branches" in to_html(report)
