"""``--server none``: the engine, the runtime and a README, for a service of one's own."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import diffc_runtime
from diffc.bundle import readme
from diffc.bundle.contents import BundleContents, copy_engine, copy_loras
from diffc.bundle.folder import copy_file, copy_package
from diffc_export.targets import target
from diffc_runtime.prompt_plan import TEXT_FOLDER

RUNTIME = Path(diffc_runtime.__file__).parent
_PROGRAM = """\
import sys
from pathlib import Path

from diffc_runtime.__main__ import main

sys.exit(main(home=Path(__file__).parent))
"""


def write(contents: BundleContents, to: Path) -> tuple[str, ...]:
    """Write the bundle into ``to``.

    Returns:
        (): there are no models of a server in it.
    """
    copy_engines(contents, to)
    copy_runtime(contents.target, to / "diffc_runtime")
    (to / "pipeline.json").write_text(json.dumps(contents.served_settings(), indent=2) + "\n")
    (to / "__main__.py").write_text(_PROGRAM)  # ``python FOLDER generate``, from anywhere
    (to / "README.md").write_text(readme.plain_readme(contents), "utf-8")
    return ()


def copy_engines(contents: BundleContents, to: Path) -> None:
    """Copy every engine of a pipeline, the text encoders and their tokenizers among them."""
    for name, engine in (*contents.folders(), *contents.texts.items()):
        copy_engine(engine, to / name)
    copy_tokenizers(contents, to)
    copy_loras(contents, to)


def copy_tokenizers(contents: BundleContents, to: Path) -> None:
    """Copy the plan of the prompts and the tokenizers; nothing without text encoders."""
    if contents.text is not None:
        for file in sorted(contents.text.iterdir()):
            copy_file(file, to / TEXT_FOLDER / file.name)


def copy_runtime(name: str, to: Path) -> None:
    """Copy the runtime, with the loader of target ``name`` if another package brings it."""
    copy_package(RUNTIME, to)
    for init in sorted(RUNTIME.glob("*/__init__.py")):
        if init.parent.name != "servers":  # templates, which a server's own bundle starts from
            copy_package(init.parent, to / init.parent.name)
    loader = target(name).facts.loader
    spec = find_spec(loader) if loader else None
    if spec is not None and spec.origin is not None:
        copy_file(Path(spec.origin), to / "loaders" / f"{name.replace('-', '_')}.py")
