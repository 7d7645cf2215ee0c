"""diffc cache: what the cache holds, and cleaning it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer

from diffc.cli.command import Command, takes
from diffc.cli.help import VerbGroup
from diffc.cli.verb import VerbCommand
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffc.cache_contents import CacheEntry, Cleaning

app = typer.Typer(cls=VerbGroup, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@takes("json", context=True)
def _show(command: Command, context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from diffc.cache_contents import cache_entries, other_bytes
    from diffc.cli.show import print_json

    cache = _cache()
    entries, others = cache_entries(cache), other_bytes(cache)
    if command.json:
        rows = [_as_json(entry) for entry in entries]
        print_json({"folder": str(cache), "entries": rows, "other_bytes": others})
    else:
        _table(cache, entries, others)


@app.command("clean", cls=VerbCommand)
@takes("older_than", "keep", "all", "dry_run", "json", "quiet")
def clean(
    command: Command, older_than: str | None, keep: str | None, all_: bool, dry_run: bool
) -> None:
    """Remove what was not used for long, or what is beyond a size; never what a run uses now.

    \b
      diffc cache clean --older-than 30d --dry-run
      diffc cache clean --keep 20GB

    What is gone is made again when it is needed. Output folders keep their own files.
    """
    from diffc.cache_contents import (
        bytes_of,
        cache_entries,
        chosen_entries,
        clean_cache,
        seconds_of,
    )
    from diffc.cli.show import print_json

    age = None if older_than is None else seconds_of(older_than)
    room = 0.0 if all_ else None if keep is None else bytes_of(keep)
    if age is None and room is None:
        raise RequestError("say what is to go", hint="--older-than 30d, --keep 20GB, or --all")
    cache = _cache()
    entries = cache_entries(cache)
    chosen = chosen_entries(entries, older_than=age, keep=room, now=time.time())
    cleaning = clean_cache(cache, chosen, dry_run=dry_run)
    if command.json:
        lists = {"removed": cleaning.removed, "in_use": cleaning.in_use}
        rows = {name: [_as_json(entry) for entry in some] for name, some in lists.items()}
        print_json({"folder": str(cache), "dry_run": dry_run, **rows})
    elif not command.quiet:
        _say(cleaning, len(entries), dry_run=dry_run)


def _cache() -> Path:
    """The cache's folder, which may be missing yet. Raises InputError where it is no folder."""
    from diffc_export.cache import cache_folder
    from diffc_export.disks import check_place

    cache = cache_folder()
    if os.path.lexists(cache) and not cache.is_dir():
        check_place(cache, "DIFFC_CACHE")
    return cache


def _say(cleaning: Cleaning, total: int, *, dry_run: bool) -> None:
    """One line: what is gone, and what could not go."""
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole
    from diffc.report.units import size

    gone = size(sum(entry.size for entry in cleaning.removed))
    words = "would remove" if dry_run else "removed"
    line = f"{words} {len(cleaning.removed)} of {total} entries, {gone}"
    if cleaning.in_use:
        line += f"; {len(cleaning.in_use)} in use by a run that goes on, left as they are"
    print_whole(answers(), line)


def _table(cache: Path, entries: Sequence[CacheEntry], others: int) -> None:
    """One row for each stage, and how to clean."""
    from diffc.cli.show import answers
    from diffc.report.tables import Column, print_table, print_whole
    from diffc.report.units import size

    columns = [
        Column("stage", text=True),
        Column("entries"),
        Column("size"),
        Column("last used, days ago"),
    ]
    by_stage: dict[str, list[CacheEntry]] = {}
    for entry in entries:
        by_stage.setdefault(entry.stage, []).append(entry)
    rows = [
        (name, str(len(some)), _bytes(some), _days(max(one.used for one in some)))
        for name, some in sorted(by_stage.items())
    ]
    total = sum(entry.size for entry in entries) + others
    rows += [
        ("checks and timings", "", size(others), ""),
        ("in all", str(len(entries)), size(total), ""),
    ]
    screen = answers()
    print_whole(screen, str(cache))
    print_table(screen, columns, rows)
    print_whole(screen, "diffc cache clean --older-than 30d removes what no run used since")


def _bytes(entries: Sequence[CacheEntry]) -> str:
    from diffc.report.units import size

    return size(sum(entry.size for entry in entries))


def _days(used: float) -> str:
    return f"{max(0.0, time.time() - used) / 86400:.1f}"


def _as_json(entry: CacheEntry) -> dict[str, object]:
    return {
        "stage": entry.stage,
        "kind": entry.kind,
        "folder": str(entry.folder),
        "bytes": entry.size,
        "used": entry.used,
    }
