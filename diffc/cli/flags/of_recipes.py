"""The flags that set an option of the recipe, by section.

The recipe checks the values, so that a flag and a recipe file are refused with the same words.
"""

from __future__ import annotations

from diffc.cli.flags import completion
from diffc.cli.flags.flag import QUALITY, WHAT, WHERE, Flag
from diffc.cli.flags.values import batch_sizes, checked_seed, input_sizes, share
from diffc.prune.importance import own_score_names

PRUNE = (
    Flag(
        "ratio",
        float,
        "Share to remove: 0.3 or 30%.",
        path="prune.ratio",
        shown="0.5",
        group=WHAT,
        metavar="SHARE",
        read=share("--ratio"),
    ),
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
        group=QUALITY,
        values=completion.score_names,
    ),
    Flag(
        "threshold",
        float,
        "T: timesteps with L_t/L_max above it count.",
        path="prune.importance.threshold",
        shown="0.05",
        group=QUALITY,
        metavar="SHARE",
        read=share("--threshold"),
    ),
)
DATA = (
    Flag(
        "data",
        str,
        "Image folder, .npz, .safetensors, data set folder, or 'synthetic'.",
        path="data.source",
        shown="synthetic",
        group=WHAT,
        metavar="PATH",
        values=completion.data_here,
    ),
    Flag(
        "prompts",
        str,
        "A text file, one prompt a line, for text models.",
        path="data.prompts",
        group=WHAT,
        metavar="FILE",
    ),
    Flag(
        "guidance",
        float,
        "Classifier-free guidance of the dense model's own samples.",
        path="data.guidance",
        shown="4; 1 for few steps",
        group=QUALITY,
    ),
    Flag("fit", str, "Images of another size: skip, resize.", path="data.fit", shown="skip"),
)
REPAIR = (
    Flag(
        "repair",
        str,
        "on: least-squares weights right after the cut; off.",
        path="repair.mode",
        shown="on",
        group=QUALITY,
    ),
)
DISTILL = (
    Flag(
        "distill_steps",
        int,
        "Training steps of the distillation; 0 for none.",
        path="distill.steps",
        shown="the recipe's",
        group=QUALITY,
    ),
)
EXPORT = (
    Flag(
        "resolution",
        str,
        "Sides of the (latent) images that engines serve: 64, 64x96 (height x width), "
        "or 32,48,64; compressed at the first.",
        path="export.resolution",
        shown="the model's",
        group=WHERE,
        metavar="SIZE",
        read=input_sizes,
    ),
)
BUILD = (
    Flag(
        "target",
        list[str],
        "What engines are built for: targets that diffc doctor lists.",
        path="build.target",
        shown="the recipe's",
        group=WHERE,
        values=completion.target_names,
    ),
    Flag(
        "precision",
        str,
        "fp32, fp16, bf16, int8, fp8, or auto: measured.",
        path="build.precision",
        shown="fp32",
        group=WHERE,
    ),
    Flag(
        "batch",
        str,
        "Batch sizes to build and measure: 1,4,8.",
        path="build.batch",
        shown="1",
        group=WHERE,
        metavar="N",
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
        "gpu",
        str,
        "GPUs to build for ahead of time: sm86,sm89 or cards such as L4,A100.",
        path="build.gpu",
        group=WHERE,
        values=completion.gpu_names,
    ),
    Flag(
        "threads",
        int,
        "CPU threads of the engines, on pinned cores.",
        path="build.threads",
        shown="all cores",
        group=WHERE,
    ),
    Flag(
        "torch",
        str,
        "How --target torch runs: eager, compiled, graphs.",
        path="build.torch",
        shown="eager",
        group=WHERE,
    ),
)
MEASURE = (
    Flag(
        "explain",
        str,
        "Where the speed-up comes from: off, on, full (torch.compile too).",
        path="measure.explain",
        shown="on",
        metavar="WORD",
    ),
    Flag(
        "frontier",
        str,
        "Other loops of both sides, in time and quality: off, quick, full.",
        path="measure.frontier",
        shown="quick",
        metavar="WORD",
    ),
    Flag(
        "seconds",
        float,
        "Measure for at least this long.",
        path="measure.seconds",
        shown="3",
    ),
    Flag(
        "measure_server",
        str,
        "triton: through a server started here, too.",
        path="measure.server",
        shown="none",
        group=WHERE,
        name="server",
    ),
)
QUALITIES = (
    Flag(
        "images",
        int,
        "Images from the same noise.",
        path="quality.images",
        shown="32",
        group=QUALITY,
    ),
    Flag(
        "sampler_steps",
        int,
        "DDIM (Euler for flow) steps.",
        path="quality.steps",
        shown="50",
        group=QUALITY,
    ),
    Flag(
        "metric",
        list[str],
        "More metrics, by name.",
        path="quality.metrics",
        group=QUALITY,
        values=completion.metric_names,
    ),
    Flag("lpips", bool, "LPIPS between the pairs too.", path="quality.lpips", group=QUALITY),
    Flag(
        "reference",
        str,
        "Images (as for --data): FID and KID of both sides.",
        path="quality.reference",
        group=QUALITY,
        metavar="PATH",
    ),
    Flag(
        "features",
        str,
        "Features for --reference: an ONNX file.",
        path="quality.features",
        shown="inception",
        group=QUALITY,
        metavar="FILE",
    ),
    Flag(
        "quality_seed",
        int,
        "Seed of everything random.",
        path="quality.seed",
        shown="0",
        name="seed",
        read=checked_seed,
    ),
)
CHECK = (
    Flag(
        "max_slowdown",
        str,
        "Of the median latency.",
        path="check.max_slowdown",
        shown="5%",
        group=QUALITY,
        metavar="LIMIT",
    ),
    Flag(
        "max_mean_slowdown",
        str,
        "Of the mean.",
        path="check.max_mean_slowdown",
        shown="reported only",
        group=QUALITY,
        metavar="LIMIT",
    ),
    Flag(
        "max_memory",
        str,
        "5% or 500MB, at the peak.",
        path="check.max_memory",
        shown="5%",
        group=QUALITY,
        metavar="LIMIT",
    ),
    Flag(
        "max_engine_size",
        str,
        "5% or 500MB.",
        path="check.max_engine_size",
        shown="5%",
        group=QUALITY,
        metavar="LIMIT",
    ),
    Flag(
        "max_build_time",
        str,
        "50% or 90s.",
        path="check.max_build_time",
        shown="reported only",
        group=QUALITY,
        metavar="LIMIT",
    ),
    Flag(
        "min_ssim",
        float,
        "Of compressed to dense.",
        path="check.min_ssim",
        shown="reported only",
        group=QUALITY,
        metavar="SHARE",
        read=share("--min-ssim"),
    ),
    Flag(
        "max_worse",
        list[str],
        "How much worse than the baseline's: ssim=0.02, the default; ssim=off.",
        path="check.max_worse",
        group=QUALITY,
        metavar="NAME=VALUE",
    ),
    Flag(
        "limit",
        list[str],
        "Of a metric's value: lpips=0.1.",
        path="check.limits",
        group=QUALITY,
        metavar="NAME=VALUE",
    ),
    Flag("most_seconds", float, "For one figure's verdict.", path="check.seconds", shown="60"),
    Flag(
        "loop_steps", int, "Of the sampling loop; 0: skip it.", path="check.loop_steps", shown="10"
    ),
)
WHOLE = (
    Flag("seed", int, "Seed of everything random.", path="seed", shown="0", read=checked_seed),
)

RECIPE_FLAGS = (
    *PRUNE,
    *DATA,
    *REPAIR,
    *DISTILL,
    *EXPORT,
    *BUILD,
    *MEASURE,
    *QUALITIES,
    *CHECK,
    *WHOLE,
)
