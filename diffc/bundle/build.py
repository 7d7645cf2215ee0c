"""From an output folder's engine to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.bundle import folder as folders
from diffc.bundle import ovms, plain, triton
from diffc.bundle.contents import find_contents
from diffc.errors import unknown

SERVERS = {"triton": triton.write, "ovms": ovms.write, "none": plain.write}


@dataclass(frozen=True)
class Bundle:
    """What was written.

    files: paths relative to ``folder``; models: a server's model names; notes: what whoever serves
    it should know first, as in the bundle's README.
    """

    folder: Path
    server: str
    target: str
    side: str
    files: tuple[str, ...]
    models: tuple[str, ...]
    engine_bytes: int
    notes: tuple[str, ...] = ()


def write_bundle(
    out: Path,
    to: Path,
    *,
    server: str = "triton",
    target: str | None = None,
    side: str = "compressed",
    gpu_engines: Sequence[Path] = (),
    force: bool = False,
) -> Bundle:
    """Write ``to``: everything that a server needs to make images with an engine.

    out: an output folder (its engines/TARGET/SIDE is taken), or an engine folder itself.
    server: ``triton`` for a model repository, ``ovms`` for OpenVINO Model Server, ``none`` for a
        service of one's own.
    target: which of the output folder's targets; may be left out when there is one.
    plans: engine folders of the same model for other GPUs, picked by compute capability.
    force: write into a folder that is not empty. Files that diffc did not make are never touched,
        forced or not.
    Raises RequestError for an unknown server, target or side and a folder that is not empty,
    InputError for a damaged engine folder and a scheduler that the runtime cannot stand in for,
    UnavailableError without the package that a server's
    config needs.
    """
    if server not in SERVERS:
        raise unknown("server", server, SERVERS)
    folders.check_free(to, force)
    contents = find_contents(out, target, side, gpu_engines)
    notes = contents.notes() + (triton.notes(contents) if server == "triton" else [])
    with folders.staging_folder(to) as new:
        models = SERVERS[server](contents, new)
        about = {"server": server, "target": contents.target, "side": side, "models": list(models)}
        files = folders.move_in(new, to, about)
    size = int(contents.info["engine_bytes"])
    return Bundle(
        to, server, contents.target, side, tuple(files), tuple(models), size, tuple(notes)
    )
