"""diffc bench: an output folder's engines, or anything side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffc.cli import options as o
from diffc.errors import CheckFailed, RequestError

if TYPE_CHECKING:
    from diffc.measure.results import Comparison


def bench_(
    things: Annotated[
        list[Path],
        typer.Argument(metavar="OUT|A B...", help="An output folder; or engines, ONNX files, "
                       "output folders to compare.", parser=o.user_path),
    ],
    target: o.Target = None,
    batch: o.Batch = None,
    gpu: o.Gpu = None,
    threads: o.Threads = None,
    explain: o.Explain = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Measure at least so long.  [3]")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", help="triton: through a server started here, too.  [none]"),
    ] = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Measure OUT's engines on this machine, dense and compressed interleaved; or compare anything.

    \b
      diffc bench OUT
      diffc bench OUT --target openvino --fresh
      diffc bench OUT --server triton
      diffc bench OUT-30 OUT-50 --target ort-cpu
      diffc bench theirs.onnx OUT/engines/ort-cpu/compressed --batch 1 --json

    Several things are measured in turn, each against the first; ONNX files are built for --target.
    """
    from diffc.output import is_output

    flags = o.recipe_flags(
        target=target, batch=batch, gpu=gpu, threads=threads, explain=explain
    )  # fmt: skip
    if len(things) == 1 and (is_output(things[0]) or not things[0].exists()):
        from diffc.cli.stages import finish_folder

        flags["measure"] |= {"seconds": seconds, "server": server}
        finish_folder(things[0], "bench", flags, fresh=fresh, json=json, quiet=quiet)
        return
    if explain or gpu or fresh or server:
        raise RequestError("--explain, --gpu, --server and --fresh belong to one output folder",
                           hint="side by side, engines are measured as they are")  # fmt: skip
    result = _compare(things, flags["build"], seconds, quiet=quiet or json)
    if json:
        sys.stdout.write(result.model_dump_json(indent=1) + "\n")
    elif not quiet:
        from diffc.cli.show import console
        from diffc.report.side_by_side import show

        show(result, console())
    dead = [row for row in result.rows if row.fault]
    if dead:
        raise CheckFailed(
            f"{dead[0].label}: {dead[0].fault}", hint="it computes nothing: see how it was made"
        )


def _compare(
    things: list[Path], build: dict[str, Any], seconds: float | None, *, quiet: bool
) -> Comparison:
    from diffc.cli.show import follow_measuring
    from diffc.measure.engines import MeasureOptions
    from diffc.measure.latency import LatencyOptions
    from diffc.measure.side_by_side import side_by_side
    from diffc.recipe import BuildSection, validate

    given = {key: value for key, value in build.items() if value is not None}
    checked = validate(BuildSection, given, "the flags")
    latency = LatencyOptions() if seconds is None else LatencyOptions(seconds=seconds)
    options = MeasureOptions(
        batch=checked.batch if build["batch"] else (), threads=checked.threads, latency=latency
    )
    targets = checked.target if build["target"] else ()
    return follow_measuring(side_by_side(things, targets, options), quiet=quiet)
