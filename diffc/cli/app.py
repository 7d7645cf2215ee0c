"""The typer application, and its verbs in the order of ``diffc --help``."""

from __future__ import annotations

import typer

from diffc import __version__
from diffc.cli import bench, bundle, check, compile, doctor, inspect, recipes, report, stages

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
        False, "--version", help="Print the version and exit.", callback=lambda v: _version(v),
        is_eager=True,
    ),
) -> None:  # fmt: skip
    pass


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diffc {__version__}")
        raise typer.Exit


app.command("compile")(compile.compile_)
app.command("inspect")(inspect.inspect_)
app.command("plan")(inspect.plan_)
app.command("prune")(stages.prune_)
app.command("distill")(stages.distill_)
app.command("export")(stages.export_)
app.command("build")(stages.build_)
app.command("bench")(bench.bench_)
app.command("eval")(stages.eval_)
app.command("check")(check.check_)
app.command("report")(report.report_)
app.command("bundle")(bundle.bundle_)
app.command("doctor")(doctor.doctor_)
app.add_typer(recipes.app, name="recipes")
app.add_typer(check.baseline_app, name="baseline")
