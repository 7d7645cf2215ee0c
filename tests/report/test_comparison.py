"""Several runs side by side: what was asked of each, and which figures cannot be compared."""

from __future__ import annotations

import copy

import pytest

from diffc.report.blocks import Code, Notes, Table
from diffc.report.comparison import comparison_blocks, comparison_parts
from diffc.report.html import comparison_html
from diffc.report.model import Report
from diffc.report.protocols import load_words, unlike_images, unlike_times
from diffc.report.tables import Column, lines


def changed(content, change):
    other = copy.deepcopy(content)
    change(other)
    return Report.model_validate(other)


@pytest.fixture
def quiet(content):
    """The recorded run as if the machine had been quiet."""

    def make_quiet(one):
        for result in (*one["targets"], *one["pipeline"]):
            if result.get("noise"):
                result["noise"] |= {"load": 0.1, "steady": True, "gpu_busy": None}

    make_quiet(content)
    return content


def rows_of(named):
    table = next(block for block in comparison_blocks(named) if isinstance(block, Table))
    return {row[0]: row[1:] for row in table.rows}


def notes_of(named):
    blocks = [block for block in comparison_blocks(named) if isinstance(block, Notes)]
    return [sentence for block in blocks for sentence in block.sentences]


def test_what_was_asked_for_stands_above_the_figures(quiet):
    def other(one):
        one["plan"]["why"]["ratio"] = 0.3
        one["distillation"]["steps"] = 0

    named = [("A", Report.model_validate(quiet)), ("B", changed(quiet, other))]
    rows = rows_of(named)
    assert rows["ratio"][1] == "0.3"
    assert rows["distillation"][1] == "none"
    assert rows["distillation"][0].endswith(" steps")
    (judged,) = (note for note in notes_of(named) if "judged on" in note)
    assert judged.startswith("judged on ") and "DDIM" in judged
    assert rows["load when it was timed"][0].startswith("0.1 on ")
    assert not [name for name in rows if "(!)" in name]


def test_two_runs_stand_beside_each_other_at_80_columns(quiet):
    """A row of sentences was wider than any terminal, and took the table apart."""
    named = [("OUT-50", Report.model_validate(quiet)), ("OUT-30", Report.model_validate(quiet))]
    columns = [Column(text=True), Column("OUT-50"), Column("OUT-30")]
    table = next(block for block in comparison_blocks(named) if isinstance(block, Table))
    shown = [line.text for line in lines(columns, table.rows, 80)]
    assert shown[0].split() == ["OUT-50", "OUT-30"] and max(map(len, shown)) <= 80


def test_a_training_for_loops_is_a_training_too(quiet):
    def other(one):
        one["distillation"]["steps"] = 0
        one["loop_distillation"] = {"steps": 80, "loops": ["ddim:2"]}

    def third(one):
        one["loop_distillation"] = {"steps": 7, "loops": ["ddim:1", "ddim:2"]}

    named = [("A", changed(quiet, other)), ("B", changed(quiet, third))]
    ours, theirs = rows_of(named)["distillation"]
    assert ours == "80 steps for ddim:2"
    assert theirs.endswith(" steps, 7 steps for ddim:1, ddim:2")


def test_the_image_stands_before_the_step(quiet):
    names = list(rows_of([("A", Report.model_validate(quiet))]))
    image = next(i for i, name in enumerate(names) if name.startswith("one image"))
    step = next(i for i, name in enumerate(names) if name.startswith("one step"))
    assert image < step


def test_samples_that_were_judged_otherwise_are_marked(quiet):
    def other(one):
        for figure in one["quality"].values():
            if isinstance(figure, dict) and "steps" in figure:
                figure |= {"n": 8, "steps": 10}

    named = [("A", Report.model_validate(quiet)), ("B", changed(quiet, other))]
    assert unlike_times(named) == []
    (reason,) = unlike_images(named)
    assert "B: 8 images, 10 steps" in reason
    rows = rows_of(named)
    assert "SSIM (!)" in rows
    assert "SSIM" not in rows
    assert any(note.startswith("(!) samples were judged") for note in notes_of(named))
    assert "unbeaten: no other run" not in comparison_html(named)


def test_times_of_a_busy_machine_are_marked_and_speed_ups_are_not(quiet):
    def other(one):
        for result in (*one["targets"], *one["pipeline"]):
            if result.get("noise"):
                result["noise"] |= {"load": 68.0}

    named = [("A", Report.model_validate(quiet)), ("B", changed(quiet, other))]
    (reason,) = unlike_times(named)
    assert "when it measured B" in reason
    assert "A: load 0.1" in reason
    assert "B: load 68.0" in reason
    rows = rows_of(named)
    timed = [name for name in rows if name.startswith(("one ", "speed-up"))]
    assert timed
    for name in timed:
        assert name.endswith("(!)") == name.startswith("one ")


def test_other_dense_models_are_named(quiet):
    def with_digest(digest):
        return lambda one: one.update(digest=digest)

    named = [(name, changed(quiet, with_digest(name * 64))) for name in ("a", "b")]
    assert any("different dense models" in reason for reason in unlike_images(named))
    same = [(name, changed(quiet, with_digest("a" * 64))) for name in ("a", "b")]
    assert unlike_images(same) == []


def test_the_verb_that_measures_both_now_is_offered(quiet):
    named = [("OUT 1", Report.model_validate(quiet)), ("OUT-2", Report.model_validate(quiet))]
    codes = [block.text for block in comparison_blocks(named) if isinstance(block, Code)]
    assert codes == ["diffc bench 'OUT 1' OUT-2"]


def test_the_offered_verb_takes_what_it_names(quiet):
    """bench refuses folders without engines, and engines of other models."""

    def bare(one):
        one.update(targets=[], pipeline=[])

    def larger(one):
        one["model"]["macs"] *= 4

    ours = ("A", Report.model_validate(quiet))
    without, other = ("B", changed(quiet, bare)), ("C", changed(quiet, larger))

    def codes(*named):
        return [block.text for block in comparison_blocks(named) if isinstance(block, Code)]

    assert codes(ours, without, ("D", ours[1])) == ["diffc bench A D"]
    assert codes(ours, without) == codes(ours, other) == codes(without, without) == []


def test_the_share_of_what_stands_beside_the_ratio(quiet):
    def of_memory(one):
        one["plan"]["why"] |= {"ratio": 0.3, "ratio_of": "memory"}

    named = [("A", Report.model_validate(quiet)), ("B", changed(quiet, of_memory))]
    ours, theirs = rows_of(named)["ratio"]
    assert " of " not in ours and theirs == "0.3 of memory"


def test_a_run_without_figures_is_compared_too(quiet):
    def bare(one):
        one.update(targets=[], pipeline=[], quality=None, distillation=None, plan=None)

    named = [("A", Report.model_validate(quiet)), ("B", changed(quiet, bare))]
    rows = rows_of(named)
    assert (rows["ratio"][1], rows["SSIM"][1]) == ("-", "-")
    assert [note.partition("judged")[0] for note in notes_of(named)[:2]] == ["A: ", "B: not "]
    assert load_words(named[1][1]) == "-"
    assert (unlike_times(named), unlike_images(named)) == ([], [])
    assert all(part.blocks for part in comparison_parts(named))
