"""diffc adapt: a LoRA of the dense model for the compressed one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.errors import InputError, RequestError

if TYPE_CHECKING:
    from diffc.models.loras.files import LoraFile
    from diffc.stages.adapt import AdaptedLora
    from diffc.stages.engine_loras import AdaptedEngine

_SHOWN = 4


@takes(
    *("lora_file", "output_folder", "lora_out", "to_engines", "lora_name", "overwrite"),
    *("json", "quiet"),
)
def adapt_(
    command: Command,
    lora_file: str,
    output_folder: Path,
    engines: bool,
    name: str | None,
    force: bool,
) -> None:
    """Cut a LoRA of the dense model by OUT's plan, for OUT/model.

    \b
      diffc adapt style.safetensors OUT
      diffc adapt style.safetensors:0.8 OUT --out style-small.safetensors
      diffc adapt style.safetensors:0.8 OUT --engines

    The file has diffusers' names: diffc.load("OUT/model").load_lora_weights(FILE) takes it where
    peft is installed, and diffc compile OUT/model --lora FILE. It says what was left out with
    branches. diffc build OUT --lora makes engines with a LoRA of the dense model at once.

    With --engines the LoRA is for OUT's engines, which stay as they are: diffc generate OUT --lora
    style, and diffc.pipeline(OUT)(..., lora="style"), change from call to call.
    """
    from diffc.follows import check_model
    from diffc.models.loras.files import find_lora
    from diffc.output import read_lock
    from diffc.stages.adapt import adapt_lora

    read_lock(output_folder)
    try:
        lora = find_lora(lora_file)
    except ValueError as error:
        raise RequestError(str(error)) from None
    if engines:
        _adapt_to_engines(command, lora, output_folder, name, force)
        return
    if name is not None:
        raise RequestError("--name is for --engines", hint="--out names the file")
    goal = command.out or output_folder / "loras" / lora.path.name
    if goal.is_dir():
        raise InputError(f"--out {goal} is a folder", hint="give a file")
    if goal.exists() and not force:
        raise InputError(f"{goal} is there already", hint="give another --out, or --force")
    check_model(output_folder)
    adapted = adapt_lora(lora, output_folder, goal)
    if command.json:
        from diffc.cli.show import print_json

        print_json({**asdict(adapted), "path": str(goal)})
    elif not command.quiet:
        _show(adapted, output_folder)


def _adapt_to_engines(
    command: Command, lora: LoraFile, out: Path, name: str | None, force: bool
) -> None:
    from diffc.cli.show import answers, print_json
    from diffc.follows import check_model
    from diffc.report.tables import print_whole
    from diffc.stages.engine_loras import adapt_to_engines, check_name

    if command.out is not None:
        raise RequestError("--out has no effect with --engines", hint="--name names the LoRA")
    name = check_name(name or lora.name)
    check_model(out)
    rows = adapt_to_engines(lora, out, name, force)
    if command.json:
        print_json({"name": name, "engines": [_row(row) for row in rows]})
    elif not command.quiet:
        screen = answers()
        for row in rows:
            words = row.reason and f"does not take it: {row.reason}"
            left = f", {row.left_out} left out with branches" if row.left_out else ""
            words = words or f"{name}  {row.layers} layers{left}"
            print_whole(screen, f"{row.target} {row.side}  {words}")


def _row(row: AdaptedEngine) -> dict[str, object]:
    return {**asdict(row), "path": None if row.path is None else str(row.path)}


def _show(adapted: AdaptedLora, out: Path) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole

    screen = answers()
    words = f"{adapted.path}  {adapted.kept} layers, {adapted.narrowed} of them cut"
    if adapted.texts:
        words += f"; {adapted.texts} layers of text encoders, as they were"
    print_whole(screen, words)
    if adapted.left_out:
        more = len(adapted.left_out) - _SHOWN
        names = ", ".join(adapted.left_out[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        print_whole(
            screen,
            f"left out, for the compressed model does not have them: "
            f"{len(adapted.left_out)} layers ({names})",
        )
    if not adapted.loader:
        print_whole(
            screen,
            f"diffusers loads no LoRA into this class: peft does, or diffc compile {out / 'model'} "
            f"--lora {adapted.path}",
        )
