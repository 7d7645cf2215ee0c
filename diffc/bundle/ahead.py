"""What would make a bundle fail, found before there are engines to put into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffc.bundle import folder as folders
from diffc.bundle import ovms, triton_config
from diffc.bundle.build import SERVERS
from diffc.bundle.contents import check_servable, find_sampler
from diffc.errors import RequestError, unknown
from diffc_runtime.json_types import JsonObject


def check_ahead(
    server: str, targets: Sequence[str], named: bool, scheduler: JsonObject, to: Path
) -> str:
    """The target whose engine will be bundled in ``to``: the first, if it was ``named``.

    targets: those that engines will be built for. scheduler: the model's scheduler config.
    Raises RequestError, InputError and UnavailableError as ``bundle`` would at the end.
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
    folders.check_replaceable(to)
    return targets[0]
