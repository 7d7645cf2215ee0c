"""``--server none``: the engine, the runtime and a README, for a service of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import diffc_runtime

from diffc.bundle import readme
from diffc.bundle.folder import copy_package
from diffc.bundle.source import Source, copy_engine

RUNTIME = Path(diffc_runtime.__file__).parent


def write(source: Source, to: Path) -> tuple[str, ...]:
    """Write the bundle into ``to``; there are no server's models in it."""
    for name, engine in source.named():
        copy_engine(engine, to / name)
    copy_package(RUNTIME, to / "diffc_runtime")
    (to / "pipeline.json").write_text(json.dumps(source.settings(), indent=2) + "\n")
    (to / "README.md").write_text(readme.plain(source))
    return ()
