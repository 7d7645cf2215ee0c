"""Refuses a bundle that would fail, before there are engines for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffc.bundle import ovms, triton_config
from diffc.bundle.build import SERVERS
from diffc.bundle.contents import check_servable, find_sampler
from diffc.bundle.folder import Destination
from diffc.errors import RequestError, unknown
from diffc_runtime.json_types import JsonObject

FLAG = "--bundle"
"""The flag that asks for a bundle of a run, in OUT/bundle."""


def check_ahead(
    server: str, targets: Sequence[str], named: bool, scheduler: JsonObject, to: Path
) -> str:
    """Check that a bundle can be made once the engines exist.

    Args:
        server: The inference server: a key of ``SERVERS``.
        targets: The targets whose engines will be built.
        named: True if the user named the targets on the command line.
        scheduler: The model's scheduler config.
        to: The bundle's folder.

    Returns:
        The target whose engine will be bundled: the first.

    Raises:
        RequestError: As ``write_bundle`` would at the end, and for several targets that come from a
            recipe.
        InputError: As ``write_bundle`` would at the end.
        UnavailableError: As ``write_bundle`` would at the end.
    """
    if server not in SERVERS:
        raise unknown("server", server, SERVERS)
    if len(targets) > 1 and not named:
        hint = "the first --target is bundled; or leave --bundle out and use `diffc bundle` after"
        raise RequestError(
            f"--bundle takes one engine, and the recipe builds {', '.join(targets)}", hint=hint
        )
    check_servable(targets[0])
    if server == "ovms":
        ovms.check_target(targets[0])
    if server == "triton":
        triton_config.config_messages()
    find_sampler({"mu": 1.0, **scheduler}, [{"kind": "timestep", "dtype": "float32"}])
    Destination(to, FLAG).check_replaceable()
    return targets[0]
