"""diffc fetch: what a run would download of a hub id, and the download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.cli.flags.flag import WritingPlace
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from diffc.models.hub import HubFile


_HUBS_CACHE = WritingPlace("or set HF_HOME to another folder; what was downloaded is kept")


@takes(
    *("hub_id", "whole", "allow_pickle", "list_only", "json", "quiet"),
    goes_on=True,
    place=_HUBS_CACHE,
)
def fetch_(command: Command, whole: bool, dry_run: bool) -> None:
    """Download what a run uses of a hub id: one set of weights of each component.

    The files and their sizes are shown first. A download that was interrupted goes on. compile and
    the other verbs fetch the same by themselves.

    \b
      diffc fetch google/ddpm-cifar10-32
      diffc fetch OWNER/NAME@REVISION --dry-run
    """
    from diffc.cli.show import answers, messages, print_json, write_answer
    from diffc.models.hub import download, plan_fetch
    from diffc.models.source import is_hub_id

    model = command.model
    if not is_hub_id(model):
        raise RequestError(
            f"'{model}' is no hub id such as google/ddpm-cifar10-32",
            hint="a folder that you have, and demo, need no download",
        )
    fetch = plan_fetch(model, allow_pickle=command.allow_pickle, whole=whole)
    if not command.silent:
        _show_files(model, fetch.weights, answers() if dry_run else messages())
    folder = None if dry_run else download(fetch)
    if command.json:
        rows = [{"name": f.name, "bytes": f.bytes, "is_here": f.is_here} for f in fetch.weights]
        print_json({"model": model, "files": rows, "folder": str(folder) if folder else None})
    elif folder is not None and not command.quiet:
        write_answer(folder)


def _show_files(model: str, files: Sequence[HubFile], screen: Console) -> None:
    """A row for each file of weights, and what is still to come."""
    from diffc.report.tables import Column, print_table, print_whole
    from diffc.report.units import size

    if not files:
        print_whole(screen, f"{model}: the weights that a run uses are here")
        return
    columns = [Column("weights", text=True), Column("size"), Column("", text=True)]
    rows = [(file.name, size(file.bytes), "here" if file.is_here else "") for file in files]
    print_table(screen, columns, rows)
    missing = [file for file in files if not file.is_here]
    total = sum(file.bytes or 0 for file in missing)
    unknown = "" if all(file.bytes is not None for file in missing) else " at least"
    print_whole(
        screen, f"to download: {len(missing)} of {len(files)} files,{unknown} {size(total)}"
    )
