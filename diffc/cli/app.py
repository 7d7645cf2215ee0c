"""The typer application, and its verbs in the order of ``diffc --help``."""

from __future__ import annotations

import typer

from diffc import __version__
from diffc.cli.verbs import LazyGroup, VerbRow

VERBS = (
    VerbRow(
        "compile",
        "Prune, distil, export, build engines and measure, in one go.",
        "compile:compile_",
    ),
    VerbRow("search", "Goals in, the loop that reaches them out.", "search:search_"),
    VerbRow("inspect", "Show what can be cut, what it costs, and the inputs.", "inspect:inspect_"),
    VerbRow("plan", "Show widths, MACs and parameters before and after.", "inspect:plan_"),
    VerbRow("prune", "Cut the model: OUT/plan.json and OUT/pruned.", "stages:prune_"),
    VerbRow("distill", "Distil the cut model from the dense one: OUT/model.", "stages:distill_"),
    VerbRow("export", "Export both models to ONNX: OUT/onnx.", "stages:export_"),
    VerbRow("build", "Build engines from OUT/onnx alone: no model, no torch.", "stages:build_"),
    VerbRow("adapt", "Cut a LoRA of the dense model for OUT/model.", "adapt:adapt_"),
    VerbRow("bench", "Measure OUT's engines on this machine, in turn.", "bench:bench_"),
    VerbRow("eval", "Measure how close OUT/model is to the dense one.", "stages:eval_"),
    VerbRow("check", "Is CANDIDATE slower, larger or worse than a baseline?", "check:check_"),
    VerbRow("report", "Show OUT's report, or compare several.", "report:report_"),
    VerbRow("generate", "Make images with OUT: its engine, or torch.", "generate:generate_"),
    VerbRow("bundle", "Write what an inference server loads.", "bundle:bundle_"),
    VerbRow("fetch", "Download what a run uses of a hub id; show its size first.", "fetch:fetch_"),
    VerbRow(
        "doctor", "Show what works on this machine, and why the rest does not.", "doctor:doctor_"
    ),
    VerbRow("recipes", "The recipes that ship with diffc.", "recipes:app"),
    VerbRow("cache", "Show what is kept to be reused, and clean it.", "cache:app"),
    VerbRow("baseline", "Stored baselines for diffc check.", "check:baseline_app"),
)
"""Every verb and group of verbs, in the order of help."""


class _Verbs(LazyGroup):
    rows = VERBS


app = typer.Typer(
    name="diffc",
    cls=_Verbs,
    help=(
        "A compression compiler for diffusion models: prune, distil, export, build, measure.\n\n"
        "\b\n"
        "  diffc compile demo --ratio 0.5\n"
        "  diffc doctor                       what works on this machine\n"
        "  diffc plan MODEL --ratio 0.5       what would be removed\n"
        "  diffc compile MODEL --ratio 0.5    the whole chain: MODEL may be demo\n"
        "  diffc report OUT                   what it is worth\n\n"
        "diffc VERB -h explains a verb; docs/verbs.md has them all."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=False)
def _root(
    version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and exit.",
        callback=lambda version: _print_version() if version else None,
        is_eager=True,
    ),
) -> None:
    pass


def _print_version() -> None:
    typer.echo(f"diffc {__version__}")
    raise typer.Exit


def goes_on(name: str = "") -> bool:
    """Whether a verb that was interrupted goes on by the same command; others start anew."""
    return any(vars(row.load()).get("goes_on", False) for row in VERBS if row.name == name)
