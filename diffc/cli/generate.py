"""diffc generate: images from an output folder."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.errors import RequestError, unknown
from diffc_export import events

if TYPE_CHECKING:
    from diffc.generate.opening import OpenRequest
    from diffc_runtime import Pipeline
    from diffc_runtime.values import Array


@takes(
    *(
        "output_folder",
        "image_prompts",
        "negative_prompt",
        "image_count",
        "image_seed",
        "image_steps",
    ),
    *(
        "image_guidance",
        "image_sampler",
        "image_height",
        "image_width",
        "image_lora",
        "start_image",
        "strength",
        "mask",
        "label",
        "condition",
        "unconditional",
        "generate_target",
        "device",
        "dtype",
    ),
    *("dense", "compare", "grid", "image_out", "overwrite", "json", "quiet"),
)
def generate_(command: Command, output_folder: Path, **given: object) -> None:
    """Make images: by the fastest engine of OUT that runs here, else by torch.

    \b
      diffc generate OUT --out a.png
      diffc generate OUT --n 4 --out a.png          a-0.png to a-3.png
      diffc generate OUT --n 9 --grid --out a.png   one picture
      diffc generate OUT --n 4 --compare            dense above compressed
      diffc generate OUT --label 3,7 --guidance 4
      diffc generate OUT "a blue sneaker" --guidance 5 --out a.png
      diffc generate OUT "a blue boot" --image in.png --strength .6 [--mask m.png]

    Noise, sampler, steps and conditions are those of the report's pictures, so that image i of seed
    0 is one of them. A file that is there is not replaced without --force.
    """
    from diffc.cli.show import follow_measuring, print_json, write_answer
    from diffc.generate.opening import OpenRequest
    from diffc_runtime.saving import check_files, file_words, output_files
    from diffc_runtime.schedulers import NAMES

    out = command.out or Path("image.png")
    request = _ImageOptions(out=out, **given)  # type: ignore[arg-type]
    if request.sampler is not None and request.sampler not in NAMES:
        raise unknown("sampler", request.sampler, NAMES)  # the engine calls it a scheduler
    images = request.n * max(1, len(request.prompts))
    files = output_files(request.out, 1 if request.compare else images, request.grid)
    check_files(files, request.force)
    opening = OpenRequest(
        output_folder,
        "dense" if request.dense else "compressed",
        request.target,
        request.device,
        request.dtype,
    )
    work = _make(opening, request)
    quiet = command.quiet or command.json or not sys.stderr.isatty()
    sides = events.drain(work) if quiet else follow_measuring(work, quiet=False)
    _save({name: side.samples for name, side in sides.items()}, files, request.compare)
    if command.json:
        print_json({"files": [str(file) for file in files], **_json(sides, opening.side)})
    elif not command.quiet:
        write_answer(f"{file_words(files)}  {_words(sides, opening.side)}")


@dataclass(frozen=True)
class _ImageOptions:
    """The command's own flags, as the flag table names them."""

    prompts: list[str]
    negative_prompt: str | None
    n: int
    seed: int
    steps: int | None
    guidance: float | None
    sampler: str | None
    lora: str | None
    height: int | None
    width: int | None
    image: Path | None
    strength: float | None
    mask: Path | None
    label: str | None
    condition: list[str] | None
    unconditional: list[str] | None
    target: str | None
    device: str | None
    dtype: str | None
    dense: bool
    compare: bool
    grid: bool
    out: Path
    force: bool


@dataclass(frozen=True)
class _Side:
    """One side's images.

    Attributes:
        samples: As the pipeline gives them, [images, channels, height, width].
        seconds: What all of them took.
        facts: How they were made.
    """

    samples: Array
    seconds: float
    facts: dict[str, object]

    @property
    def loop(self) -> str:
        """'ddim 50 steps, guidance 5'."""
        guided = f", guidance {self.facts['guidance']:g}" if self.facts["guidance"] != 1 else ""
        return f"{self.facts['sampler']} {self.facts['steps']} steps{guided}"


def _make(opening: OpenRequest, request: _ImageOptions) -> events.Work[dict[str, _Side]]:
    """Make the images, and tell meanwhile which ones: dense ones of fifty steps can take long."""
    yield events.Progress(0, note=f"opening {opening.out}")
    count = request.n * max(1, len(request.prompts))
    sides = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name, pipe in _open_sides(opening, request.compare).items():
            yield events.Progress(0, note=f"making {count} image{'s' * (count != 1)}, {name}")
            started = time.perf_counter()
            samples = _samples(pipe, request)
            seconds = time.perf_counter() - started
            sides[name] = _Side(samples, seconds, _facts(pipe, request))
    for note in dict.fromkeys(str(one.message) for one in said):
        print(f"diffc: note: {note}", file=sys.stderr)
    return sides


def _open_sides(opening: OpenRequest, compare: bool) -> dict[str, Pipeline]:
    """The pipelines by side; both by the same means where two are compared."""
    from diffc.generate.opening import open_output

    pipe, note = open_output(opening)
    if note is not None:
        print(f"diffc: note: {note}", file=sys.stderr)
    if not compare:
        return {opening.side: pipe}
    if opening.side == "dense":
        raise RequestError("--compare shows both sides: leave --dense out")
    same = replace(opening, target=pipe.runs_on.split()[0])
    return {"dense": open_output(replace(same, side="dense"))[0], "compressed": pipe}


def _samples(pipe: Pipeline, request: _ImageOptions) -> Array:
    from diffc_runtime.arguments import named_values
    from diffc_runtime.errors import BadRequest
    from diffc_runtime.image_inputs import image_arguments
    from diffc_runtime.images import is_picture
    from diffc_runtime.saving import holds_samples

    shape = tuple(pipe.sample_shape)
    if not holds_samples(request.out) and pipe.decode is None and not is_picture(shape):
        raise BadRequest(
            f"samples of shape {shape} are no pictures, and there is no VAE to decode them: "
            "name an .npy with --out"
        )
    conditions = named_values(request.condition or [])
    none = named_values(request.unconditional or [])
    conditions |= {f"unconditional_{name}": value for name, value in none.items()}
    if request.label is not None:
        conditions["class_labels"] = _labels(request.label, request.n)
    return pipe.sample(
        request.prompts or None,
        request.negative_prompt,
        n=request.n,
        seed=request.seed,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        scheduler=request.sampler,
        height=request.height,
        width=request.width,
        lora=request.lora,
        **conditions,
        **image_arguments(request.image, request.mask, request.strength),
    )


def _labels(text: str, n: int) -> list[int]:
    """The labels of n images: one after the other, from the first again at the end."""
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--label is a number, or several: 3,7; not '{text}'") from None
    if min(labels) < 0:  # an engine may count a negative one from the end of its classes
        raise RequestError(f"--label {text}: the first class is 0")
    return [labels[i % len(labels)] for i in range(max(n, 0))]


def _save(samples: dict[str, Array], files: list[Path], compare: bool) -> None:
    import numpy as np

    from diffc.output import SIDES
    from diffc_runtime.images import grid, to_uint8
    from diffc_runtime.saving import holds_samples, save_samples, write_picture

    if not compare:
        (only,) = samples.values()
        save_samples(only, files)
    elif holds_samples(files[0]):
        save_samples(np.stack([samples[side] for side in SIDES]), files)
    else:
        pixels = np.concatenate([to_uint8(samples[side]) for side in SIDES])
        count = len(pixels) // len(SIDES)
        write_picture(files[0], grid(pixels, columns=2 if count == 1 else count))


def _facts(pipe: Pipeline, request: _ImageOptions) -> dict[str, object]:
    """How the images were made, as the pipeline's defaults complete what was given."""
    usual = pipe.defaults
    return {
        "runs_on": pipe.runs_on,
        "sampler": request.sampler or pipe.scheduler_name,
        "steps": usual.steps if request.steps is None else request.steps,
        "guidance": usual.guidance if request.guidance is None else request.guidance,
        "seed": request.seed,
    }


def _json(sides: dict[str, _Side], own: str) -> dict[str, object]:
    """The facts of the side that was asked for; with ``--compare`` those of both, by side."""
    shown: dict[str, object] = {"seconds": sides[own].seconds, **sides[own].facts}
    if len(sides) > 1:
        shown["sides"] = {name: {"seconds": s.seconds, **s.facts} for name, s in sides.items()}
    return shown


def _words(sides: dict[str, _Side], own: str) -> str:
    import numpy as np

    from diffc.output import SIDES

    side = sides[own]
    height, width = side.samples.shape[-2:]
    words = (
        f"{width}x{height}  {side.seconds:.2f} s  {side.facts['runs_on']}, {side.loop}, "
        f"seed {side.facts['seed']}"
    )
    if len(sides) == 1:
        return words
    dense, compressed = (np.clip(sides[name].samples, -1, 1) for name in SIDES)
    place = "above" if len(dense) > 1 else "left of"
    mean = np.abs(dense - compressed).mean() * 127.5
    return (
        f"{words}\ndense {place} compressed: {sides['dense'].seconds:.2f} s, "
        f"{sides['dense'].loop}; they differ by {mean:.1f} of 255 in the mean"
    )
