"""The flags that set an option of the recipe, by section.

The recipe checks the values, so that a flag and a recipe file are refused with the same words.
"""

from __future__ import annotations

from diffc.cli.flags.flag import Flag
from diffc.cli.flags.values import batch_sizes, checked_seed, input_sizes
from diffc.prune.importance import own_score_names

PRUNE = (
    Flag("ratio", float, "Share to remove, between 0 and 1.", path="prune.ratio", shown="0.5"),
    Flag(
        "ratio_of",
        str,
        "Share of what: macs, params, channels, latency.",
        path="prune.ratio_of",
        shown="macs",
    ),
    Flag(
        "allocate",
        str,
        "Where it is removed: uniform, global, latency.",
        path="prune.allocate",
        shown="global",
    ),
    Flag(
        "rounding",
        str,
        "align: widths the target likes; paper: as published.",
        path="prune.rounding",
        shown="align",
    ),
    Flag(
        "importance",
        str,
        f"{', '.join(own_score_names())}.",
        path="prune.importance.method",
        shown="diff-pruning",
    ),
    Flag(
        "threshold",
        float,
        "T: timesteps with L_t/L_max above it count.",
        path="prune.importance.threshold",
        shown="0.05",
    ),
)
DATA = (
    Flag(
        "data",
        str,
        "Image folder, .npz, .safetensors, data set folder, or 'synthetic'.",
        path="data.source",
        shown="synthetic",
    ),
    Flag("prompts", str, "A text file, one prompt a line, for text models.", path="data.prompts"),
    Flag(
        "guidance",
        float,
        "Classifier-free guidance of the dense model's own samples.",
        path="data.guidance",
        shown="4; 1 for few steps",
    ),
    Flag("fit", str, "Images of another size: skip, resize.", path="data.fit", shown="skip"),
)
DISTILL = (Flag("steps", int, "Distillation steps; 0 for none.", path="distill.steps"),)
EXPORT = (
    Flag(
        "resolution",
        str,
        "Sides of the (latent) images that engines serve: 64, 64x96 (height x width), "
        "or 32,48,64; compressed at the first.",
        path="export.resolution",
        shown="the model's",
        read=input_sizes,
    ),
)
BUILD = (
    Flag(
        "target",
        list[str],
        "What engines are built for: a target that diffc doctor lists; repeatable.",
        path="build.target",
        metavar="NAME",
    ),
    Flag(
        "precision",
        str,
        "fp32, fp16, bf16, int8, fp8, or auto: measured.",
        path="build.precision",
        shown="fp32",
    ),
    Flag(
        "batch",
        str,
        "Batch sizes to build and measure: 1,4,8.",
        path="build.batch",
        shown="1",
        read=batch_sizes,
    ),
    Flag(
        "one_profile",
        bool,
        "One engine profile over all of --batch and --resolution, or one each.",
        path="build.one_profile",
        shown="each",
        options=("--one-profile/--profile-each",),
    ),
    Flag(
        "gpu", str, "Compute capabilities built ahead of time: sm86,sm89,sm120.", path="build.gpu"
    ),
    Flag(
        "threads",
        int,
        "CPU threads of the engines, on pinned cores.",
        path="build.threads",
        shown="all cores",
    ),
    Flag(
        "torch",
        str,
        "How --target torch runs: eager, compiled, graphs.",
        path="build.torch",
        shown="eager",
    ),
)
MEASURE = (
    Flag(
        "explain",
        str,
        "Where the speed-up comes from: off, on, full (torch.compile too).",
        path="measure.explain",
        shown="on",
    ),
    Flag(
        "seconds",
        float,
        "Measure for at least this long.",
        path="measure.seconds",
        shown="3",
        minimum=0.0,
    ),
    Flag(
        "measure_server",
        str,
        "triton: through a server started here, too.",
        path="measure.server",
        shown="none",
        name="server",
    ),
)
QUALITY = (
    Flag("images", int, "Images from the same noise.", path="quality.images", shown="32"),
    Flag("sampler_steps", int, "DDIM (Euler for flow) steps.", path="quality.steps", shown="50"),
    Flag(
        "metric",
        list[str],
        "One more metric, by name; repeatable.",
        path="quality.metrics",
        metavar="NAME",
    ),
    Flag("lpips", bool, "LPIPS between the pairs too.", path="quality.lpips"),
    Flag(
        "reference",
        str,
        "Images (as for --data): FID and KID of both sides.",
        path="quality.reference",
    ),
    Flag(
        "features",
        str,
        "Features for --reference: an ONNX file.",
        path="quality.features",
        shown="inception",
    ),
    Flag(
        "quality_seed",
        int,
        "Seed of everything random.",
        path="quality.seed",
        shown="0",
        name="seed",
        check=checked_seed,
    ),
)
CHECK = (
    Flag("max_slowdown", str, "Of the median latency.", path="check.max_slowdown", shown="5%"),
    Flag(
        "max_mean_slowdown",
        str,
        "Of the mean.",
        path="check.max_mean_slowdown",
        shown="reported only",
    ),
    Flag("max_memory", str, "5% or 500MB, at the peak.", path="check.max_memory", shown="5%"),
    Flag("max_engine_size", str, "5% or 500MB.", path="check.max_engine_size", shown="5%"),
    Flag("max_build_time", str, "50% or 90s.", path="check.max_build_time", shown="reported only"),
    Flag(
        "min_ssim", float, "Of compressed to dense.", path="check.min_ssim", shown="reported only"
    ),
    Flag(
        "limit",
        list[str],
        "Of a metric's value: lpips=0.1; repeatable.",
        path="check.limits",
        metavar="NAME=VALUE",
    ),
    Flag("most_seconds", float, "For one figure's verdict.", path="check.seconds", shown="60"),
    Flag(
        "loop_steps", int, "Of the sampling loop; 0: skip it.", path="check.loop_steps", shown="10"
    ),
)
WHOLE = (
    Flag("seed", int, "Seed of everything random.", path="seed", shown="0", check=checked_seed),
)

RECIPE_FLAGS = (*PRUNE, *DATA, *DISTILL, *EXPORT, *BUILD, *MEASURE, *QUALITY, *CHECK, *WHOLE)
