"""The typer application, and its verbs in the order of ``diffc --help``."""

from __future__ import annotations

from collections.abc import Callable

import typer

from diffc import __version__
from diffc.cli import (
    adapt,
    bench,
    bundle,
    cache,
    check,
    compile,
    doctor,
    fetch,
    generate,
    inspect,
    recipes,
    report,
    search,
    stages,
)
from diffc.cli.help import VerbCommand, VerbGroup

app = typer.Typer(
    name="diffc",
    cls=VerbGroup,
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


def _add(name: str, verb: Callable[..., None], short_help: str) -> None:
    app.command(name, cls=VerbCommand, short_help=short_help)(verb)


def goes_on(name: str = "") -> bool:
    """Whether a verb that was interrupted goes on by the same command; others start anew."""
    callbacks = [one.callback for one in app.registered_commands if one.name == name]
    return any(vars(callback).get("goes_on", False) for callback in callbacks)


_add("compile", compile.compile_, "Prune, distil, export, build engines and measure, in one go.")
_add("search", search.search_, "Goals in, the loop that reaches them out.")
_add("inspect", inspect.inspect_, "Show what can be cut, what it costs, and the inputs.")
_add("plan", inspect.plan_, "Show widths, MACs and parameters before and after.")
_add("prune", stages.prune_, "Cut the model: OUT/plan.json and OUT/pruned.")
_add("distill", stages.distill_, "Distil the cut model from the dense one: OUT/model.")
_add("export", stages.export_, "Export both models to ONNX: OUT/onnx.")
_add("build", stages.build_, "Build engines from OUT/onnx alone: no model, no torch.")
_add("adapt", adapt.adapt_, "Cut a LoRA of the dense model for OUT/model.")
_add("bench", bench.bench_, "Measure OUT's engines on this machine, in turn.")
_add("eval", stages.eval_, "Measure how close OUT/model is to the dense one.")
_add("check", check.check_, "Is CANDIDATE slower, larger or worse than a baseline?")
_add("report", report.report_, "Show OUT's report, or compare several.")
_add("generate", generate.generate_, "Make images with OUT: its engine, or torch.")
_add("bundle", bundle.bundle_, "Write what an inference server loads.")
_add("fetch", fetch.fetch_, "Download what a run uses of a hub id; show its size first.")
_add("doctor", doctor.doctor_, "Show what works on this machine, and why the rest does not.")
app.add_typer(recipes.app, name="recipes")
app.add_typer(cache.app, name="cache")
app.add_typer(check.baseline_app, name="baseline")
