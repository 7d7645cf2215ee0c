"""At no width of the terminal is a figure cut: half of 1.69x reads as another speed-up."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.reports import notes_of, rows_of

from diffc.cli import check as check_cli
from diffc.cli import doctor as doctor_cli
from diffc.cli import inspect as inspect_cli
from diffc.cli import progress as cli_progress
from diffc.cli import recipes as recipes_cli
from diffc.cli import report as report_cli
from diffc.cli import show as cli_show
from diffc.cli.command import Command
from diffc.gate.result import CheckResult, Figure, SelfComparison, overall, side
from diffc.measure.results import Comparison, EngineFigures, Latency, Memory, Row, Speedup
from diffc.report import side_by_side, terminal
from diffc.report.comparison import comparison_rows
from diffc.report.model import Report
from diffc.report.sections import parts
from diffc.report.tables import Column, lines, wrapped
from diffc.runner import StageEvent, StageResult
from diffc.stage_outcomes import StageOutcome
from diffc_export.events import Progress

WIDTHS = (20, 40, 60, 70, 79, 80, 100, 120, 200)
ROOT = Path(__file__).parents[2]
REPORTS = [
    ROOT / "tests/report/sample.json",
    ROOT / "tests/report/older.json",
    ROOT / "bench/results/demo-run.json",
]


class Screen:
    """Consoles of one width, in place of the command line's, and what was printed on them."""

    def __init__(self, width: int) -> None:
        self.file = io.StringIO()
        self.width = width

    def console(self) -> Console:
        return Console(file=self.file, width=self.width, highlight=False)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()

    def holds(self, cell: str) -> bool:
        """Whether the cell is in one line; each of its words is, where it is longer than one."""
        is_short = self.width >= 40 and len(cell) < self.width - 4
        parts = [cell] if is_short else cell.split()
        return all(any(part in line for line in self.lines) for part in parts)


@pytest.fixture(params=WIDTHS)
def screen(request, monkeypatch):
    found = Screen(request.param)
    for name in ("answers", "messages"):
        monkeypatch.setattr(cli_show, name, found.console)
    return found


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_reports_cells_are_whole(screen, path):
    report = Report.read(path)
    terminal.show(report, screen.console())
    for part in parts(report):
        for row in rows_of(part):
            for cell in row[1:]:
                assert screen.holds(cell), (cell, screen.width)
        for note in notes_of(part):
            assert all(screen.holds(word) for word in note.split())
    for part in parts(report)[1:]:  # what the terminal leaves out is named in a line
        assert all(screen.holds(word) for word in part.title.split()[1:]), part.title


def test_no_line_of_a_report_is_wider_than_the_terminal():
    for width in (40, 60, 80, 120):
        screen = Screen(width)
        terminal.show(Report.read(REPORTS[0]), screen.console())
        assert max(map(len, screen.lines)) <= width


def engine(p50: float) -> EngineFigures:
    latency = Latency(p50=p50, p90=p50, p95=p50, p99=p50 * 1.5, mean=p50, n=10)
    memory = Memory(engine_bytes=10, peak_bytes=123_456_789)
    return EngineFigures(latency_ms=latency, first_call_ms=p50 * 9, memory=memory,
                         build_seconds=0.1, precision_found="fp32")  # fmt: skip


def test_side_by_side_is_whole(screen):
    ratio = Speedup(median=1.69, ci95=(0.91, 2.22), ci99=(0.9, 2.3), pairs=10)
    rows = [
        Row(label="a/very/long/path/" * 4, target="ort-cpu", batch=1, figures=engine(12.3)),
        Row(label="b", target="ort-cpu", batch=1, figures=engine(7.31), speedup=ratio),
    ]
    side_by_side.show(Comparison(rows=rows, percentile_rule="trtexec's"), screen.console())
    for row in rows:
        assert all(screen.holds(cell) for cell in side_by_side.cells(row))
    assert screen.holds("1.69x ?"), "an interval that holds 1 is marked"


def test_a_checks_table_is_whole(screen):
    figure = Figure(
        target="ort-cpu", precision="fp32", batch=1, name="loop p50, 10 steps",
        verdict="regressed", unit="ms", baseline=5.125, candidate=1234.5, ratio=1.102,
        ci99=(1.091, 1.113), pairs=20, limit="+5%", note="",
    )  # fmt: skip
    noise = SelfComparison(target="ort-cpu", precision="fp32", batch=1, verdict="pass", ratio=1.0,
                  ci99=(0.99, 1.01), pairs=20, spread=1.2)  # fmt: skip
    half = side("before", "output", "m", None)
    result = CheckResult(
        diffc="0", created="2026-01-01T00:00:00+00:00", verdict=overall([figure]), exit_code=1,
        candidate=half, baseline=half, figures=[figure], noise=[noise], seconds=1.5,
        environment={"cpu": "x", "cores": 2},
    )  # fmt: skip
    check_cli._table(result)
    from diffc.gate.outputs import cells

    assert all(screen.holds(cell) for cell in cells(figure))


def test_doctors_reasons_and_versions_are_whole(screen):
    reason = "no NVIDIA GPU here: engines are built ahead of time for sm86, sm89 and sm120"
    statuses = {
        "ort-cpu": {"buildable": True, "runnable": True, "reason": "",
                    "versions": {"onnxruntime": "1.32.0"}},
        "trt-rtx": {"buildable": True, "runnable": False, "reason": reason, "versions": {}},
    }  # fmt: skip
    environment = {"cpu": "A very long name of a processor with 3.25GHz", "cores": 16,
                   "python": "3.11.7", "gpus": [], "packages": {"torch": "2.13.0+cpu"}}  # fmt: skip
    doctor_cli._show(statuses, environment, {})
    for word in (*reason.split(), "1.32.0", "3.25GHz", "2.13.0+cpu", "3.11.7"):
        assert screen.holds(word), word


def test_the_groups_of_inspect_are_whole(screen):
    model = {"name": "demo", "class_name": "UNet2DModel", "params": 4_435_393, "macs": 989331456.0}
    name = "down_blocks.10.attentions.1.transformer_blocks.0.attn1.to_out.0"
    row = {"name": name, "kind": "channels", "channels": 1280, "blocks": 16,
           "macs_per_channel": 1.234e6, "importance": 0.1234}  # fmt: skip
    inspect_cli._show_groups(model, [row])
    assert all(screen.holds(cell) for cell in ("1280", "16", "1.23 M", "12.34%"))
    assert name in "".join(line.split("  ")[0].strip() for line in screen.lines), screen.lines


NUMBERS = re.compile(r"\d[\d.,]*")
NAMES = ("down_blocks.10.attentions.1.transformer_blocks.0.attn1.to_out.0", "conv_in")


def plan_of(macs: float) -> dict:
    groups = [
        {"name": name, "kind": "heads", "size": 1280, "kept": 656, "step": 16} for name in NAMES
    ]
    cost = {"macs": macs, "params": macs / 200}
    return {"model": {"macs": 98.9e9, "params": 4_435_393}, "compressed": cost,
            "groups": groups, "why": {"importance": None}}  # fmt: skip


def show_plan(monkeypatch):
    inspect_cli._show_plan("demo", plan_of(49.45e9), ESTIMATES, Command())


def show_plans(monkeypatch):
    recipes = iter([0.21, 0.34])
    source = SimpleNamespace(name="demo")
    monkeypatch.setattr(inspect_cli, "resolve_command", lambda *_, **__: (
        source, SimpleNamespace(prune=SimpleNamespace(ratio=next(recipes))), Path()))  # fmt: skip
    monkeypatch.setattr(inspect_cli, "_plan", lambda *_: plan_of(49.45e9))
    monkeypatch.setattr(inspect_cli, "fitted_estimates", lambda *_: ESTIMATES)
    inspect_cli._show_ratios([Command(), Command()])


def show_recipes(monkeypatch):
    diffc_list = vars(recipes_cli._list)["__wrapped__"]
    diffc_list(Command(), SimpleNamespace(invoked_subcommand=None))


def show_reports(monkeypatch):
    for path in REPORTS:
        terminal.show(Report.read(path).model_copy(update={"frontiers": []}), cli_show.answers())


STAGE = {"memory_bytes": 403_000_000, "gpu_bytes": 0, "disk_bytes": 8_870_000, "seconds": 61.0}
ESTIMATES = {"seconds": 7932.0, "tried": {}, "training_bytes": 315_400_000, "out_bytes": 72_800_000,
             "activations": True, "by": "2 seconds of its calls, timed on 28 November",
             "stages": [{"stage": "prune", **STAGE}, {"stage": "distill", **STAGE}]}  # fmt: skip


@pytest.mark.parametrize("show", [show_plan, show_plans, show_recipes, show_reports])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_every_number_of_a_wide_screen_is_whole_on_a_narrow_one(monkeypatch, show, width):
    """And a narrow screen has no number that a wide one has not: half of one would be one."""
    numbers = []
    for columns in (400, width):
        screen = Screen(columns)
        monkeypatch.setattr(cli_show, "answers", screen.console)
        show(monkeypatch)
        numbers.append(set(NUMBERS.findall(screen.file.getvalue())))
        assert len(numbers[-1]) > 5
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("width", [14, 20, 30])
def test_a_long_name_is_broken_between_its_parts(width):
    shown = wrapped(f"  {NAMES[0]} 1.690x", width, anywhere=True)
    assert "".join(line.strip() for line in shown).replace(" ", "") == f"{NAMES[0]}1.690x"
    assert all(line.startswith("  ") and len(line) <= width for line in shown)
    assert all(line.rstrip()[-1] in "._x" for line in shown), shown
    assert any("1.690x" in line for line in shown)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_name_without_parts_is_not_broken(monkeypatch, width):
    screen = Screen(width)
    monkeypatch.setattr(cli_show, "answers", screen.console)
    show_recipes(monkeypatch)
    assert any("UNet2DConditionModel" in line for line in screen.lines)
    assert max(map(len, screen.lines)) <= width


def test_runs_beside_each_other_are_whole(screen):
    reports = [(path.stem, Report.read(path)) for path in REPORTS]
    report_cli._table(reports)
    for _, report in reports:
        cells = comparison_rows(report, times=True, images=True)
        assert all(screen.holds(cell) for cell in cells.values())


def test_a_stages_seconds_are_whole(screen):
    name = "precision-int8-asymmetric-compressed"
    done = StageResult(name, "key", Path(), StageOutcome(), 69.4, 1, False)
    event = StageEvent(done.name, "finished", done=done)
    screen.console().print(cli_progress.stage_line(event), soft_wrap=True)
    assert screen.holds("1 min 09 s")


@pytest.mark.parametrize("loss", [0.0012345, 123456.789, 1e-12])
def test_a_progress_note_ends_at_a_whole_word(loss):
    words = Progress(1, 4, "training the student now", {"loss": loss, "ssim": 0.9731}).note
    note = f"{words}  loss {loss:.4g}  ssim 0.9731"
    short = cli_progress.shortened(note)
    assert len(short) <= 30 and set(short.split()) <= {*note.split(), "..."}


def test_a_head_that_stands_twice_is_told_apart_below_each_other():
    columns = [Column(left=True), *map(Column, ("MACs", "change", "parameters", "change"))]
    row = ("0.5", "495 M", "-50.0 %", "2.33 M", "-47.4 %")
    assert "MACs" in lines(columns, [row], 80)[0].text and len(lines(columns, [row], 80)) == 2
    shown = [line.text.strip() for line in lines(columns, [row], 20)]
    assert " ".join(shown[2:4]) == "MACs, change: -50.0 %"
    assert " ".join(shown).endswith("parameters, change: -47.4 %")


CELLS = st.text("0123456789.x%[],- abc", min_size=0, max_size=24).map(str.strip)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=5),
    width=st.integers(1, 200),
)
@settings(max_examples=200, deadline=None)
def test_every_cell_is_whole_at_every_width(rows, width):
    columns = [Column(text=True), Column("dense", least=10), Column("kept"), Column("", least=19)]
    shown = [line.text for line in lines(columns, rows, width)]
    for row in rows:
        for cell in row[1:]:
            for word in cell.split() if width < 30 else [cell]:
                assert any(word in line for line in shown), (word, shown)
