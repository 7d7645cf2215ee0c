"""Makes a bundle from an output folder's engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.bundle import ovms, plain, triton
from diffc.bundle.contents import find_contents
from diffc.bundle.folder import TO, Destination
from diffc.errors import unknown

SERVERS = {"triton": triton.write, "ovms": ovms.write, "none": plain.write}


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written.

    Attributes:
        folder: The bundle's folder.
        server: The inference server that it is for.
        target: The target of its engine.
        side: ``dense`` or ``compressed``.
        files: The files' paths, relative to ``folder``.
        models: The names of the server's models.
        engine_bytes: The engine's size.
        notes: What people who serve it should know first, as in the bundle's README.
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
    flag: str = TO,
) -> Bundle:
    """Write everything that a server needs to make images with an engine.

    Args:
        out: An output folder (its engines/TARGET/SIDE is used), or an engine folder itself.
        to: The bundle's folder.
        server: ``triton`` for a model repository, ``ovms`` for OpenVINO Model Server, ``none`` for
            a service of one's own.
        target: One of the output folder's targets; may be left out if there is one.
        side: ``dense`` or ``compressed``.
        gpu_engines: Engine folders of the same model for other GPUs; the runtime picks one by
            compute capability.
        force: True writes into a folder that is not empty. Files that diffc did not make are never
            changed, with or without it.
        flag: The flag that ``to`` comes from, for errors.

    Raises:
        RequestError: The server, target or side is unknown, or the folder is not empty.
        InputError: The engine folder is damaged, or the runtime has no sampler for the scheduler.
        UnavailableError: The package for the server's config is missing.
    """
    if server not in SERVERS:
        raise unknown("server", server, SERVERS)
    destination = Destination(to, flag)
    destination.check_free(force)
    contents = find_contents(out, target, side, gpu_engines)
    notes = contents.notes() + (triton.notes(contents) if server == "triton" else [])
    with destination.staging() as new:
        models = SERVERS[server](contents, new)
        about = {"server": server, "target": contents.target, "side": side, "models": list(models)}
        files = destination.move_in(new, about)
    size = int(contents.info["engine_bytes"])
    return Bundle(
        to, server, contents.target, side, tuple(files), tuple(models), size, tuple(notes)
    )
