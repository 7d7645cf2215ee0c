"""The record of a stage: what it read and wrote. In the cache as stage.json, in OUT/.diffc too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffc.digests import known_digest
from diffc_runtime.files import file_digest, write_text
from diffc_runtime.json_types import JsonDict

STATE = ".diffc"
"""The folder of OUT that holds the records."""
RECORD = "stage.json"
"""A record's name in the cache."""


@dataclass(frozen=True)
class StageRecord:
    """What is known of a stage that is done.

    Attributes:
        name: The stage's.
        key: sha256 of everything that decided the outcome.
        files: File of the stage -> its sha256.
        places: File or folder of the stage -> its place in OUT.
        result: The outcome, as JSON.
        seconds: How long the work took.
        peak_rss_bytes: The process's peak memory meanwhile.
        inputs: What the outcome follows from, as JSON.
    """

    name: str
    key: str
    files: dict[str, str]
    places: dict[str, str]
    result: JsonDict
    seconds: float
    peak_rss_bytes: int
    inputs: JsonDict = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_text(path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    def is_whole(self, folder: Path) -> bool:
        """Whether every file of the stage lies in ``folder`` as it was written."""
        return all(digest_or_none(folder / name) == sha for name, sha in self.files.items())


def read_record(path: Path) -> StageRecord | None:
    """The record at ``path``; None where there is none, or it is damaged."""
    try:
        return StageRecord(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def digest_or_none(path: Path) -> str | None:
    """sha256 of a file; None where there is no file."""
    return known_digest(path) if path.is_file() else None


def files_of(folder: Path) -> dict[str, str]:
    """Every file of a stage's folder, by its name inside, and its sha256."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): file_digest(path) for path in paths}


def place_of(name: str, places: Mapping[str, str]) -> str | None:
    """Where in OUT a file of a stage lies; None where it is kept in the cache alone."""
    for source, goal in places.items():
        if name == source:
            return goal
        if name.startswith(f"{source}/"):
            return goal + name[len(source) :]
    return None
