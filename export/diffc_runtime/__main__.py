"""The bundle's own program.

    python FOLDER generate --n 4 --steps 50 --seed 0 --out a.png     a-0.png to a-3.png
    python FOLDER generate "a red sneaker" --out a.png               of a prompt
    python FOLDER generate "a boot" --image in.png --strength 0.6    of an image
    python FOLDER info

FOLDER is a bundle's; any working directory will do. ``python -m diffc_runtime`` is the same inside
the bundle's folder, or with --bundle FOLDER. A wrong request ends with one line
and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from .arguments import named_values
from .bundles import misfits, open_bundle, read_settings
from .engines import batches, read_info
from .errors import EXIT_INTERRUPTED, BadRequest, UnfitEngine
from .files import no_place
from .image_inputs import image_arguments
from .images import is_picture
from .pipeline import Pipeline
from .saving import check_files, file_words, holds_samples, output_files, save_samples
from .schedulers import NAMES, own_name
from .values import Array

_BROKEN_PIPE = 141
"""What a shell calls the end by SIGPIPE."""


def main(arguments: Sequence[str] | None = None, home: Path | None = None) -> int:
    """Run the program.

    Args:
        arguments: The command line; None: this process's.
        home: The bundle where --bundle names none; None: the folder beside this package.

    Returns:
        The exit code.
    """
    options = _parser(home).parse_args(arguments)
    try:
        {"generate": _generate, "info": _info}[options.verb](options)
        sys.stdout.flush()
    except (BadRequest, UnfitEngine) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
        return _BROKEN_PIPE
    return 0


def _parser(home: Path | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffc_runtime", description="Generate images.")
    # beside this package in a bundle; where the package is installed, the working directory
    places = (Path(__file__).resolve().parent.parent, Path.cwd())
    there = (place for place in places if (place / "pipeline.json").is_file())
    home = home or next(there, places[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    info = verbs.add_parser("info", help="what the bundle holds, and whether it fits here")
    make = verbs.add_parser("generate", help="make images")
    for verb in (info, make):
        verb.add_argument("--bundle", type=_path, default=home, help="the bundle's folder")
    make.add_argument("prompt", nargs="*", help="what the images show, for a text model")
    make.add_argument("--negative-prompt", help="what guidance leads away from")
    make.add_argument("--n", type=int, default=1, help="images, of each prompt")
    make.add_argument("--steps", type=int, help="default: as diffc's report, else 50")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--scheduler", help=f"one of {', '.join(NAMES)}; default: the model's own")
    make.add_argument(
        "--guidance", type=float, help="1 or less for none; default: as diffc's report"
    )
    make.add_argument("--height", type=int, help="in pixels, of a size that the engine serves")
    make.add_argument("--width", type=int, help="the same")
    make.add_argument("--image", type=_path, help="an image that the loop begins with")
    make.add_argument("--strength", type=float, help="how much of the loop is done to it, up to 1")
    make.add_argument("--mask", type=_path, help="white where the image is made anew")
    for name in ("condition", "unconditional"):
        help_ = "a number, or an .npy file of (n, ...) or (...); may be given again"
        make.add_argument(f"--{name}", action="append", default=[], metavar="NAME=V", help=help_)
    make.add_argument("--lora", help="a LoRA of the bundle, by its name")
    make.add_argument("--threads", type=int, help="of a processor; default: all")
    make.add_argument(
        "--out", type=_path, default=Path("image.png"), help=".png, .jpg, .webp, .npy"
    )
    make.add_argument("--grid", action="store_true", help="one picture of all images")
    make.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


def _path(text: str) -> Path:
    reason = no_place(text)
    if reason is not None:
        raise argparse.ArgumentTypeError(reason)
    return Path(text)


def _generate(options: argparse.Namespace) -> None:
    files = output_files(options.out, options.n * max(1, len(options.prompt)), options.grid)
    check_files(files, options.force)
    pipeline = open_bundle(options.bundle, options.threads)
    _check_picture(pipeline, options.out)
    pipeline = pipeline.with_lora(options.lora)
    usual = pipeline.defaults
    guidance = usual.guidance if options.guidance is None else options.guidance
    if options.unconditional and guidance <= 1:
        raise BadRequest("--unconditional has no effect without a --guidance above 1")
    start = time.perf_counter()
    samples = _samples(pipeline, options)
    seconds = time.perf_counter() - start
    save_samples(samples, files)
    count = "1 image" if len(samples) == 1 else f"{len(samples)} images"
    print(f"{file_words(files)}: {count} in {seconds:.2f} s", file=sys.stderr)


def _samples(pipeline: Pipeline, options: argparse.Namespace) -> Array:
    """Make the samples; a note on a prompt that was cut is a line of its own."""
    given, none = named_values(options.condition), named_values(options.unconditional)
    given |= image_arguments(options.image, options.mask, options.strength)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        samples = pipeline.sample(
            options.prompt or None,
            options.negative_prompt,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            scheduler=options.scheduler,
            n=options.n,
            seed=options.seed,
            height=options.height,
            width=options.width,
            **given,
            **{f"unconditional_{name}": value for name, value in none.items()},
        )
    for note in dict.fromkeys(str(one.message) for one in notes):
        print(f"note: {note}", file=sys.stderr)
    return samples


def _check_picture(pipeline: Pipeline, out: Path) -> None:
    """Raise BadRequest if the output is a picture and the samples are latents or video frames."""
    shape = pipeline.sample_shape
    if not holds_samples(out) and pipeline.decode is None and not is_picture(shape):
        raise BadRequest(f"samples of shape {shape} are no picture: name an .npy with --out")


def _info(options: argparse.Namespace) -> None:
    settings = read_settings(options.bundle)
    reasons = misfits(options.bundle, settings)
    fit = [folder for folder, reason in reasons.items() if reason is None]
    engine = read_info(fit[0] if fit else options.bundle / "engine")
    content = {
        "engine": fit[0].name if fit else None,
        "model": engine["source"].get("class_name"),
        "target": engine["target"],
        "precision": engine["precision_found"],
        "inputs": {item["name"]: [item["dtype"], *item["shape"]] for item in engine["inputs"]},
        "batches": batches(engine),
        "scheduler": settings.get("sampler") or own_name(settings["scheduler"]),
        "schedulers": NAMES,
        "fits_this_machine": bool(fit),
        "why_not": "; ".join(str(reason) for reason in reasons.values()) if not fit else None,
    }
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    sys.exit(main())
