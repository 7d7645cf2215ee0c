"""diffc check and diffc baseline: the gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diffc.cli.command import Command, takes
from diffc.cli.help import VerbGroup
from diffc.cli.verb import VerbCommand
from diffc.errors import CheckFailed, Inconclusive, InputError, NotComparable, RequestError

if TYPE_CHECKING:
    from diffc.gate.check import CheckRequest
    from diffc.gate.pairing import Selection
    from diffc.gate.result import CheckResult
    from diffc.gate.subject import CheckedSide
    from diffc.recipe import Recipe


@takes(
    *("candidate", "baseline", "baseline_report", "max_slowdown", "max_mean_slowdown"),
    *("max_memory", "max_engine_size", "max_build_time", "max_worse", "min_ssim", "limit"),
    *("require_ahead", "check_target", "check_batch", "check_threads", "most_seconds", "time_loop"),
    *("recipe_of_check", "seed"),
    *("markdown", "junit", "badge", "history", "json", "quiet"),
)
def check_(
    command: Command,
    candidate: Path,
    baseline: Path | None,
    baseline_report: Path | None,
    target: list[str] | None,
    batch: list[int] | None,
    threads: int | None,
    **files: Path | None,
) -> None:
    """Is CANDIDATE slower, larger or worse than the baseline? Both are measured now, in turn.

    \b
      diffc check OUT --baseline baselines/main
      diffc check OUT --baseline OUT-BEFORE --max-slowdown 3% --min-ssim 0.85
      diffc check OUT --baseline baselines/main --require-ahead
      diffc check engines/new --baseline engines/old --junit junit.xml --json

    \b
    exit code  0 pass   1 regressed   2 wrong request   3 inconclusive
               4 not comparable, or this machine is too noisy to judge
               70 a bug in diffc
    """
    from diffc.cli.show import follow_measuring
    from diffc.gate.check import check, check_report
    from diffc.gate.pairing import Selection
    from diffc.gate.ready import check_wanted
    from diffc.gate.subject import open_report, open_side
    from diffc.result_files import check_outputs

    if (baseline is None) == (baseline_report is None):
        raise RequestError(
            "give one of --baseline and --baseline-report",
            hint="make a baseline of a good run: diffc baseline save OUT",
        )
    wanted = Selection(tuple(target or ()), tuple(batch or ()), threads)
    check_wanted(wanted, 0)  # the flag table has checked --seed
    ours = open_side(candidate)
    theirs = open_side(baseline) if baseline else open_report(baseline_report or Path())
    if baseline and not theirs.engines:
        _figures_only(theirs)
    request = _request(ours, theirs, _recipe(ours, command), wanted)
    outputs = {f"--{name}": path for name, path in files.items()}
    check_outputs(outputs)
    work = check(request) if baseline else check_report(request)
    result = follow_measuring(work, quiet=command.silent)
    _show(result, command)
    failures = _write(result, outputs)
    _raise_verdict(result, failures)


def _recipe(ours: CheckedSide, command: Command) -> Recipe:
    """The candidate's own recipe < --recipe < flags."""
    from diffc.recipe import resolve

    base = {"check": ours.options.model_dump(mode="json")} if ours.options else {}
    return resolve(family="", recipe=command.recipe, flags=command.options, base=base)


def _request(
    ours: CheckedSide, theirs: CheckedSide, recipe: Recipe, wanted: Selection
) -> CheckRequest:
    from diffc.gate.check import CheckRequest
    from diffc.gate.limits import limits_of
    from diffc.gate.rule import RuleOptions

    options = recipe.check
    allowed = limits_of(options)
    rule = RuleOptions(
        limit=allowed.slowdown,
        pairs=options.pairs,
        most_pairs=options.most_pairs,
        seconds=options.seconds,
        seed=recipe.seed,
    )
    return CheckRequest(
        ours,
        theirs,
        allowed,
        rule,
        targets=wanted.targets,
        threads=wanted.threads,
        batch=wanted.batch,
        time_loop=options.time_loop,
        require_ahead=options.require_ahead,
    )


def _figures_only(theirs: CheckedSide) -> None:
    raise InputError(
        f"{theirs.path} was saved without its engines, so it cannot be measured again",
        hint=f"--baseline-report {theirs.path} compares with its figures alone (weaker)",
    )


def _write(result: CheckResult, ends: Mapping[str, Path | None]) -> list[InputError]:
    """Write every output file; return the errors of those that could not be written."""
    from diffc.gate import outputs
    from diffc.gate.history import append_history, rows_of
    from diffc.result_files import append_text, write_whole, writing

    ways: dict[str, Callable[[Path], None]] = {
        # a summary page has the text of other steps already
        "--markdown": lambda path: append_text(path, outputs.to_markdown(result)),
        "--junit": lambda path: write_whole(path, outputs.to_junit(result)),
        "--badge": lambda path: write_whole(path, outputs.badge(result)),
        "--history": lambda path: append_history(path, rows_of(result)),
    }
    failures = []
    for flag, path in ends.items():
        if path is None:
            continue
        try:
            with writing(path, flag):
                ways[flag](path)
        except InputError as error:  # write the other files all the same
            failures.append(error)
    return failures


def _show(result: CheckResult, command: Command) -> None:
    from diffc.cli.show import print_json
    from diffc.cli.stdout import answer_stream
    from diffc.gate import outputs

    github = os.environ.get("GITHUB_ACTIONS") == "true"
    lines = outputs.annotation_lines(result, github=github)
    if command.json:
        print_json(result.model_dump(mode="json"))
        answer_stream().flush()  # before the files: a failure there loses nothing here
    elif not command.quiet:
        _table(result)
    if lines and (github or command.quiet):  # GitHub reads commands from both streams
        print("\n".join(lines), file=sys.stderr)


def _table(result: CheckResult) -> None:
    from diffc.cli.show import answers
    from diffc.gate import outputs
    from diffc.report.tables import Column, print_table, print_whole

    screen = answers()
    heads = ("baseline", "candidate", "change", "99 %", "limit")
    columns = [Column(text=True), *map(Column, heads), Column("verdict", left=True)]
    rows: list[tuple[str, ...]] = []
    heading = ""
    for figure in result.figures:
        where = outputs.place(figure)
        if where != heading:
            rows.append((where, *("" for _ in columns[1:])))
            heading = where
        rows.append((f"  {figure.name}", *outputs.cells(figure)))
    print_table(screen, columns, rows)
    for note in outputs.said_below(result):
        print_whole(screen, f"  {note}", style="dim")
    if result.verdict == "pass":
        print_whole(screen, outputs.headline(result), style="bold")


def _raise_verdict(result: CheckResult, failures: Sequence[InputError]) -> None:
    """Raise the error that has the exit code; a verdict counts more than an unwritten file."""
    from diffc.gate.outputs import headline, noise_line

    for error in failures if result.verdict != "pass" else failures[1:]:
        print(f"diffc: {error}", file=sys.stderr)
    if result.verdict == "regressed":
        raise CheckFailed(headline(result))
    if result.verdict == "inconclusive":
        raise Inconclusive(headline(result), hint=_hint(result))
    if result.verdict == "unfit":
        worst = next(noise for noise in result.noise if noise.verdict == "unfit")
        raise NotComparable(
            f"this machine is too noisy to judge: {noise_line(worst, result)}",
            hint="end what else runs here, use fewer --threads, or allow a larger --max-slowdown",
        )
    if failures:
        raise failures[0]


def _hint(result: CheckResult) -> str:
    """A hint how to decide an undecided check."""
    if any(figure.verdict == "inconclusive" and figure.pairs for figure in result.figures):
        return "try a quieter machine, or --most-seconds 300"
    if any(
        figure.verdict == "inconclusive" and figure.name == "engine" for figure in result.figures
    ):
        return "build what is missing, or name what is to be judged with --target and --batch"
    return "measure what is missing, or leave it out"


baseline_app = typer.Typer(cls=VerbGroup, no_args_is_help=True, rich_markup_mode=None)


@baseline_app.command("save", cls=VerbCommand, short_help="Store OUT's engines and figures.")
@takes("output_folder", "baseline_to", "figures_only", "json", "quiet")
def save_(command: Command, output_folder: Path, to: Path, figures_only: bool) -> None:
    """Store OUT's compressed engines and figures, and add them to the history beside.

    \b
      diffc baseline save OUT --to baselines/main
    """
    from diffc.cli.show import answers, print_json
    from diffc.gate.baseline import save

    baseline = save(output_folder, to, engines=not figures_only)
    if command.json:
        print_json(baseline.model_dump(mode="json"))
    elif not command.quiet:
        counts = f"{_count(baseline.figures, 'figure')}, {_count(baseline.engines, 'engine')}"
        answers().print(f"{to}: {counts}", markup=False)


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


@baseline_app.command("list", cls=VerbCommand)
@takes("baselines", "csv", "json")
def list_(command: Command, baselines: Path, csv: bool) -> None:
    """List the baselines in FOLDER, or their history over time.

    \b
      diffc baseline list
      diffc baseline list baselines --csv
    """
    from diffc.cli.show import print_json, write_answer
    from diffc.cli.stdout import answer_stream
    from diffc.gate.baseline import HISTORY, list_baselines
    from diffc.gate.history import history_csv, read_history

    if csv:
        history = read_history(baselines / HISTORY)
        for note in history.notes:
            print(f"diffc: {note}", file=sys.stderr)
        answer_stream().write(history_csv(history.rows))
        return
    stored = list_baselines(baselines)
    if not stored:
        raise InputError(
            f"{baselines} holds no baselines", hint="make one: diffc baseline save OUT"
        )
    if command.json:
        keys = {"name", "created", "model", "digest", "engines"}
        rows = [
            {"folder": str(path), **baseline.model_dump(include=keys)} for path, baseline in stored
        ]
        print_json({"baselines": rows})
        return
    for path, baseline in stored:
        engines = ", ".join(dict.fromkeys(f"{f.target} {f.precision}" for f in baseline.figures))
        write_answer(f"{path}  {baseline.created}  {baseline.model}  {engines}")


@baseline_app.command("show", cls=VerbCommand)
@takes("baseline_folder", "json")
def show_(command: Command, baseline_folder: Path) -> None:
    """Show a baseline: what it is of, where it was measured, its figures.

    \b
      diffc baseline show baselines/main
    """
    from diffc.cli.show import print_json, write_answer
    from diffc.gate.baseline import Baseline
    from diffc.report.units import milliseconds, size

    baseline = Baseline.read(baseline_folder)
    if command.json:
        print_json(baseline.model_dump(mode="json"))
        return
    there = baseline.environment
    lines = [
        f"{baseline.name}: {baseline.model}, {baseline.digest[:12]}, saved {baseline.created}",
        f"measured on {there['cpu']}, {there['cores']} cores, {there['fingerprint']}",
    ]
    for one in baseline.figures:
        lines.append(
            f"  {one.target} {one.precision} batch {one.batch}: p50 {milliseconds(one.p50_ms)} "
            f"({len(one.samples_ms)} times), peak {size(one.peak_bytes)}, "
            f"engine {size(one.engine_bytes)}"
        )
    write_answer("\n".join(lines))
