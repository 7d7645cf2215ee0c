"""The typer application, and its verbs in the order of ``diffc --help``."""

from __future__ import annotations

import typer

from diffc import __version__
from diffc.cli import (
    bench,
    bundle,
    check,
    compile,
    doctor,
    generate,
    inspect,
    recipes,
    report,
    stages,
)

app = typer.Typer(
    name="diffc",
    help=(
        "A compression compiler for diffusion models: prune, distil, export, build, measure.\n\n"
        "\b\n"
        "  diffc compile demo --ratio 0.5\n"
        "  diffc compile google/ddpm-cifar10-32 --ratio 0.5 --target trt --precision fp16\n"
        "  diffc doctor"
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


app.command("compile", short_help="Prune, distil, export, build engines and measure, in one go.")(
    compile.compile_
)
app.command("inspect", short_help="Show what can be cut, what it costs, and the inputs.")(
    inspect.inspect_
)
app.command("plan", short_help="Show widths, MACs and parameters before and after.")(inspect.plan_)
app.command("prune", short_help="Cut the model: OUT/plan.json and OUT/pruned.")(stages.prune_)
app.command("distill", short_help="Distil the cut model from the dense one: OUT/model.")(
    stages.distill_
)
app.command("export", short_help="Export both models to ONNX: OUT/onnx.")(stages.export_)
app.command("build", short_help="Build engines from OUT/onnx alone: no model, no torch.")(
    stages.build_
)
app.command("bench", short_help="Measure OUT's engines on this machine, in turn.")(bench.bench_)
app.command("eval", short_help="Measure how close OUT/model is to the dense one.")(stages.eval_)
app.command("check", short_help="Is CANDIDATE slower, larger or worse than a baseline?")(
    check.check_
)
app.command("report", short_help="Show OUT's report, or compare several.")(report.report_)
app.command("generate", short_help="Make images with OUT: its engine, or torch.")(
    generate.generate_
)
app.command("bundle", short_help="Write what an inference server loads.")(bundle.bundle_)
app.command("doctor", short_help="Show what works on this machine, and why the rest does not.")(
    doctor.doctor_
)
app.add_typer(recipes.app, name="recipes")
app.add_typer(check.baseline_app, name="baseline")
