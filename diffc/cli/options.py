"""The flags that keep their name everywhere, and how they become a recipe's options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffc.errors import RequestError
from diffc.prune.importance import own_score_names


def user_path(text: str) -> Path:
    """A path as it was typed: a shell leaves the ``~`` of ``--out=~/runs`` to us."""
    from diffc_export.disks import user_path

    return user_path(text)


def checked_seed(value: int | None) -> int | None:
    """The seed. Raises RequestError for one that no generator takes."""
    if value is not None and not 0 <= value < 2**63:
        raise RequestError(f"--seed {value}: a seed is a whole number from 0 to 2^63 - 1")
    return value


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A diffusers folder, a hub id, or 'demo'.")
]
ModelOrOut = Annotated[
    str, typer.Argument(metavar="MODEL|OUT", help="A model, or an output folder to go on from.")
]
OutFolder = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="An output folder of diffc compile.", parser=user_path),
]
Ratio = Annotated[
    float | None, typer.Option("--ratio", help="Share to remove, between 0 and 1.  [0.5]")
]
RatioOf = Annotated[
    str | None,
    typer.Option("--ratio-of", help="Share of what: macs, params, channels, latency.  [macs]"),
]
Allocate = Annotated[
    str | None,
    typer.Option("--allocate", help="Where it is removed: uniform, global, latency.  [global]"),
]
Rounding = Annotated[
    str | None,
    typer.Option(
        "--rounding", help="align: widths the target likes; paper: as published.  [align]"
    ),
]
ImportanceMethod = Annotated[
    str | None,
    typer.Option("--importance", help=f"{', '.join(own_score_names())}.  [diff-pruning]"),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="T: timesteps with L_t/L_max above it count.  [0.05]"),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="What engines are built for: a target that diffc doctor lists; repeatable.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="fp32, fp16, bf16, int8, fp8, or auto: measured.  [fp32]"),
]
Batch = Annotated[
    str | None, typer.Option("--batch", help="Batch sizes to build and measure: 1,4,8.  [1]")
]
OneProfile = Annotated[
    bool | None,
    typer.Option(
        "--one-profile/--profile-each",
        help="One engine profile over all of --batch and --resolution, or one each.  [each]",
    ),
]
Resolution = Annotated[
    str | None,
    typer.Option(
        "--resolution",
        help="Sides of the (latent) images that engines serve: 64, 64x96 (height x width), or "
        "32,48,64; compressed at the first.  [the model's]",
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option("--gpu", help="Compute capabilities built ahead of time: sm86,sm89,sm120."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads of the engines, on pinned cores.  [all cores]"),
]
TorchWay = Annotated[
    str | None,
    typer.Option("--torch", help="How --target torch runs: eager, compiled, graphs.  [eager]"),
]
Explain = Annotated[
    str | None,
    typer.Option(
        "--explain", help="Where the speed-up comes from: off, on, full (torch.compile too).  [on]"
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Image folder, .npz, .safetensors, data set folder, or 'synthetic'.  [synthetic]",
    ),
]
Prompts = Annotated[
    str | None, typer.Option("--prompts", help="A text file, one prompt a line, for text models.")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        help="Classifier-free guidance of the dense model's own samples.  [4; 1 for few steps]",
    ),
]
Fit = Annotated[
    str | None, typer.Option("--fit", help="Images of another size: skip, resize.  [skip]")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Distillation steps; 0 for none.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A shipped recipe's name, or a YAML file.")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of everything random.  [0]", callback=checked_seed),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Output folder.  [diffc-out/NAME-RATIO]",
        parser=user_path,
        metavar="PATH",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore what is cached.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Accept .bin weights from an origin you trust.")
]
FamilyName = Annotated[
    str | None, typer.Option("--family", help="Treat the denoiser as this diffusers class.")
]


def numbers(flag: str, text: str | None) -> list[int] | None:
    """'1,4,8' -> [1, 4, 8]; None stays None. Raises RequestError naming the flag."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"{flag} {text}: not a list of whole numbers such as 1,4,8") from None


def sides(text: str | None) -> list[int | str] | None:
    """'32,48x64' -> [32, '48x64']; None stays None. Raises RequestError."""
    from diffc.input_size import read_size, size_word

    if text is None:
        return None
    try:
        return [size_word(read_size(part)) for part in text.split(",")]
    except ValueError:
        raise RequestError(
            f"--resolution {text}: not a list of sides",
            hint="a side is 64, or 64x96 (height x width); several are 32,48,64",
        ) from None


def words(text: str | None) -> list[str] | None:
    """'sm86,sm89' -> ['sm86', 'sm89']; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def recipe_flags(
    *,
    ratio: float | None = None,
    ratio_of: str | None = None,
    allocate: str | None = None,
    rounding: str | None = None,
    importance: str | None = None,
    threshold: float | None = None,
    target: list[str] | None = None,
    precision: str | None = None,
    batch: str | None = None,
    one_profile: bool | None = None,
    resolution: str | None = None,
    gpu: str | None = None,
    threads: int | None = None,
    data: str | None = None,
    prompts: str | None = None,
    guidance: float | None = None,
    fit: str | None = None,
    steps: int | None = None,
    torch: str | None = None,
    explain: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Flags as a nested mapping like a recipe's; what was not given is None."""
    return {
        "prune": {
            "ratio": ratio,
            "ratio_of": ratio_of,
            "allocate": allocate,
            "rounding": rounding,
            "importance": {"method": importance, "threshold": threshold},
        },
        "data": {"source": data, "prompts": prompts, "guidance": guidance, "fit": fit},
        "distill": {"steps": steps},
        "export": {"resolution": sides(resolution)},
        "build": {
            "target": target or None,
            "precision": precision,
            "batch": numbers("--batch", batch),
            "one_profile": one_profile,
            "gpu": words(gpu),
            "threads": threads,
            "torch": torch,
        },
        "measure": {"explain": explain},
        "seed": seed,
    }
