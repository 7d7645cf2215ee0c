"""diffc bench: an output folder's engines, or anything side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.errors import CheckFailed, RequestError

if TYPE_CHECKING:
    from diffc.measure.results import Comparison


@takes(
    *("things", "target", "batch", "gpu", "threads", "explain", "frontier", "seconds"),
    *("measure_server", "fresh", "json", "quiet"),
    goes_on=True,
)
def bench_(command: Command, things: list[Path]) -> None:
    """Measure OUT's engines on this machine, dense and compressed interleaved; or compare anything.

    \b
      diffc bench OUT
      diffc bench OUT --target openvino --fresh
      diffc bench OUT --server triton
      diffc bench OUT-30 OUT-50 --target ort-cpu
      diffc bench theirs.onnx OUT/engines/ort-cpu/compressed --batch 1 --json

    Several things are measured in turn, each against the first; ONNX files are built for --target.
    """
    from diffc.cli.show import answers, write_answer
    from diffc.output import is_output

    if len(things) == 1 and (is_output(things[0]) or not things[0].exists()):
        from diffc.cli.run import finish_folder

        finish_folder(command, things[0], "bench")
        return
    _check_side_by_side(command)
    result = _compare(things, command)
    if command.json:
        write_answer(result.model_dump_json(indent=1))
    elif not command.quiet:
        from diffc.report.side_by_side import show

        show(result, answers())
    dead = [row for row in result.rows if row.fault]
    if dead:
        raise CheckFailed(
            f"{dead[0].label}: {dead[0].fault}", hint="it computes nothing: see how it was made"
        )


def _check_side_by_side(command: Command) -> None:
    measure = command.section("measure")
    words = [measure.get(name) for name in ("explain", "frontier", "server")]
    if command.fresh or any([*words, command.section("build").get("gpu")]):
        raise RequestError(
            "--explain, --frontier, --gpu, --server and --fresh belong to one output folder",
            hint="side by side, engines are measured as they are",
        )


def _compare(things: list[Path], command: Command) -> Comparison:
    from diffc.cli.show import follow_measuring
    from diffc.measure.engines import MeasureOptions
    from diffc.measure.latency import LatencyOptions
    from diffc.measure.side_by_side import side_by_side
    from diffc.recipe import BuildSection, validate

    given = command.section("build")
    build = validate(BuildSection, given, "the options")
    seconds = command.section("measure").get("seconds")
    latency = LatencyOptions(seconds=seconds) if isinstance(seconds, float) else LatencyOptions()
    options = MeasureOptions(
        batch=build.batch if given.get("batch") else (), threads=build.threads, latency=latency
    )
    targets = build.target if given.get("target") else ()
    return follow_measuring(side_by_side(things, targets, options), quiet=command.silent)
