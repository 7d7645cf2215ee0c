"""diffc bundle: the folder for an inference server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from diffc.cli.command import Command, takes


@takes(
    *("output_folder", "bundle_to", "bundle_server", "bundle_target", "side", "plan", "force"),
    *("json", "quiet"),
)
def bundle_(
    command: Command,
    output_folder: Path,
    to: Path,
    server: str,
    target: str | None,
    side: str,
    plan: list[Path] | None,
    force: bool,
) -> None:
    """Write what an inference server loads: engine, sampling loop, configuration, client.

    The server needs neither diffc nor torch.

    \b
      diffc bundle OUT --server triton --to ./model-repository
      diffc bundle OUT --server ovms --target openvino --to ./models
      diffc bundle OUT --server none --to ./service
      diffc bundle OUT --plan ./a100/engines/trt/compressed --to ./repository
    """
    from diffc.bundle.build import write_bundle
    from diffc.cli.show import print_json, write_answer

    written = write_bundle(
        output_folder,
        to,
        server=server,
        target=target,
        side=side,
        gpu_engines=plan or (),
        force=force,
    )
    print_notes(written.notes)
    if command.json:
        print_json(
            {
                "folder": str(written.folder),
                "server": written.server,
                "target": written.target,
                "side": written.side,
                "models": list(written.models),
                "notes": list(written.notes),
            }
        )
    elif not command.quiet:
        write_answer(
            f"{written.folder}: {_for_whom(written.server)}, "
            f"{written.side} {written.target} engine; "
            f"{written.folder}/README.md says how to run it"
        )


def _for_whom(server: str) -> str:
    return "for no server" if server == "none" else f"for {server}"


def print_notes(notes: Iterable[str]) -> None:
    """Print on stderr what the operator of a server should know, even with --quiet."""
    for note in notes:
        print(f"diffc: note: {note}", file=sys.stderr)
