"""diffc bundle: the folder for an inference server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from diffc.cli import options as o


def bundle_(
    out: o.OutFolder,
    to: Annotated[
        Path,
        typer.Option("--to", metavar="FOLDER", help="Where the bundle goes.", parser=o.user_path),
    ],
    server: Annotated[
        str,
        typer.Option(
            "--server",
            help="triton: a model repository; ovms: OpenVINO Model Server's; none: a plain folder.",
        ),
    ] = "triton",
    target: Annotated[
        str | None, typer.Option("--target", help="Whose engine.  [the only one in OUT]")
    ] = None,
    side: Annotated[str, typer.Option("--side", help="compressed or dense.")] = "compressed",
    plan: Annotated[
        list[Path] | None,
        typer.Option(
            "--plan",
            metavar="ENGINE",
            parser=o.user_path,
            help="An engine folder of the same model for another GPU; repeatable.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Add to a folder that is not empty.")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write what an inference server loads: engine, sampling loop, configuration, client.

    The server needs neither diffc nor torch.

    \b
      diffc bundle OUT --server triton --to ./model-repository
      diffc bundle OUT --server ovms --target openvino --to ./models
      diffc bundle OUT --server none --to ./service
      diffc bundle OUT --plan ./built-on-a100/engines/trt/compressed --to ./model-repository
    """
    from diffc.bundle import write_bundle
    from diffc.cli.show import print_json

    made = write_bundle(
        out, to, server=server, target=target, side=side, gpu_engines=plan or (), force=force
    )
    say_notes(made.notes)
    if json:
        print_json({"folder": str(made.folder), "server": made.server, "target": made.target,
                    "side": made.side, "models": list(made.models),
                    "notes": list(made.notes)})  # fmt: skip
    elif not quiet:
        print(f"{made.folder}: {made.server}, {made.side} {made.target} engine; "
              f"{made.folder}/README.md says how to run it", file=sys.stderr)  # fmt: skip


def say_notes(notes: Iterable[str]) -> None:
    """What whoever serves a bundle should know, on stderr, --quiet or not."""
    for note in notes:
        print(f"diffc: note: {note}", file=sys.stderr)
