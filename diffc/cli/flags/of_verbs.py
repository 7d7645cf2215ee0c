"""The flags that set no option of the recipe: what to work on, where to write, how to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffc.cli.flags import completion
from diffc.cli.flags.flag import IN_OUT, IN_TO, QUALITY, WHAT, WHERE, Flag, WritingPlace
from diffc.cli.flags.of_folders import BUNDLE, EXPORT
from diffc.cli.flags.of_images import GENERATE
from diffc.cli.flags.values import batch_sizes, price_per_hour

ARGUMENTS = (
    Flag(
        "model",
        str,
        "A diffusers folder, a hub id, or a model that ships: demo, demo-text.",
        metavar="MODEL",
        argument=True,
        values=completion.models_here,
    ),
    Flag(
        "hub_id",
        str,
        "A hub id: OWNER/NAME, or OWNER/NAME@REVISION.",
        name="model",
        metavar="MODEL",
        argument=True,
    ),
    Flag(
        "model_or_out",
        str,
        "A model, or an output folder to go on from.",
        name="model",
        metavar="MODEL|OUT",
        argument=True,
        values=completion.models_here,
    ),
    Flag(
        "output_folder",
        Path,
        "An output folder of diffc compile.",
        metavar="OUT",
        argument=True,
        values=completion.folders_here,
        place=IN_OUT,
    ),
    Flag(
        "output_folders",
        list[Path],
        "Output folders of diffc compile.",
        metavar="OUT...",
        argument=True,
        values=completion.folders_here,
        place=IN_OUT,
    ),
    Flag(
        "things",
        list[Path],
        "An output folder; or engines, ONNX files, output folders to compare.",
        metavar="OUT|A B...",
        argument=True,
        values=completion.folders_here,
        place=IN_OUT,
    ),
    Flag(
        "candidate",
        Path,
        "An output folder, an engine folder or a stored baseline.",
        metavar="CANDIDATE",
        argument=True,
        values=completion.folders_here,
    ),
    Flag(
        "baselines",
        Path,
        "The folder that holds the baselines.",
        default=Path("baselines"),
        metavar="FOLDER",
        argument=True,
    ),
    Flag("baseline_folder", Path, "A stored baseline.", metavar="BASELINE", argument=True),
    Flag(
        "recipe_name",
        str,
        "A shipped recipe.",
        metavar="NAME",
        argument=True,
        values=completion.shipped_recipes,
    ),
)
ADAPT = (
    Flag(
        "lora_file", str, "A LoRA of the dense model, FILE[:WEIGHT].", metavar="LORA", argument=True
    ),
    Flag(
        "lora_out",
        Path,
        "The file to write.",
        shown="OUT/loras/LORA",
        group=WHAT,
        name="out",
        options=("--out", "-o"),
        metavar="FILE",
        place=WritingPlace(unless="--engines"),
    ),
    Flag(
        "to_engines",
        bool,
        "For the engines of OUT: calls pick the LoRA by its name.",
        name="engines",
        group=WHAT,
    ),
    Flag(
        "lora_name",
        str,
        "With --engines: the LoRA's name.",
        shown="the file's",
        name="name",
        group=WHAT,
    ),
)
_RECIPE = Flag(
    "recipe",
    str,
    "A shipped recipe's name, or a YAML file.",
    group=WHAT,
    shown="the model's",
    values=completion.recipe_names,
)
COMMON = (
    Flag(
        "out",
        Path,
        "Output folder.",
        shown="diffc-out/NAME-RATIO",
        group=WHAT,
        options=("--out", "-o"),
        place=WritingPlace(),
    ),
    _RECIPE,
    replace(_RECIPE, key="recipe_over_out", name="recipe", shown="OUT's"),
    replace(_RECIPE, key="recipe_of_check", name="recipe", shown="CANDIDATE's"),
    Flag(
        "family",
        str,
        "Treat the denoiser as this diffusers class.",
        metavar="CLASS",
        values=completion.family_names,
    ),
    Flag("allow_pickle", bool, "Accept .bin weights from an origin you trust."),
    Flag("fresh", bool, "Do again what this verb does, whatever is cached."),
    Flag("json", bool, "One JSON object on stdout, nothing else."),
    Flag("quiet", bool, "No progress, no tables.", options=("--quiet", "-q")),
)
COMPILE = (
    Flag("replace", bool, "Replace OUT's finished run, if asked otherwise.", name="force"),
    Flag("no_build", bool, "Stop before the engines: build them elsewhere.", group=WHERE),
    Flag(
        "bundle",
        str,
        "OUT/bundle for a server: triton, ovms, none.",
        group=WHERE,
        values=completion.server_names,
    ),
)
RATIOS = (
    Flag(
        "ratios",
        list[str],
        "Shares to remove: 0.3, 30%, or several to compare: 0.2,0.3,0.5.",
        shown="the recipe's, else 0.5",
        group=WHAT,
        name="ratio",
        metavar="SHARE",
    ),
)
SEARCH = (
    Flag(
        "search_ratio",
        list[str],
        "Shares to remove: 0.2,0.35,0.5.",
        shown="0.2,0.35,0.5",
        group=WHAT,
        name="ratio",
        metavar="SHARE",
    ),
    Flag(
        "search_cut",
        list[str],
        "What may go: width, depth, or width,depth; several: repeat it.",
        shown="the recipe's",
        group=WHAT,
        name="cut",
        metavar="NAME",
        read=str,
    ),
    Flag(
        "search_precision",
        list[str],
        "Precisions to try: fp32,fp16,bf16,int8,fp8.",
        shown="fp32, and the target's half ones",
        group=WHAT,
        name="precision",
        values=completion.precisions,
    ),
    Flag(
        "search_loop",
        list[str],
        "Loops to try: dpm++:8,dpm++:4,ddim:10.",
        shown="12, 8, 6, 4, 3 steps of dpm++; with --distill-for loop 4, 2, 1 of own",
        group=WHAT,
        name="loop",
        metavar="LOOP",
        values=completion.loop_names,
    ),
    Flag("max_latency", str, "Of one image: 30ms, 1.5s.", group=QUALITY, metavar="TIME"),
    Flag("speedup", str, "Over the dense reference loop: 8.", group=QUALITY, metavar="FACTOR"),
    Flag(
        "goal_memory",
        str,
        "At the engine's peak: 500MB, 2GB.",
        group=QUALITY,
        name="max_memory",
        metavar="SIZE",
    ),
    Flag(
        "goal_ssim",
        str,
        "To the dense reference loop's images: 0.85.",
        group=QUALITY,
        name="min_ssim",
        metavar="SHARE",
    ),
    Flag(
        "max_distance",
        str,
        "To --data, times the dense model's own: 1.2.",
        group=QUALITY,
        metavar="FACTOR",
    ),
    Flag(
        "workers",
        str,
        "Who trains: ray (workers on this machine), or a cluster: ray://head:10001.",
        shown="this process",
        group=WHERE,
        metavar="RAY",
        values=completion.workers,
    ),
    Flag(
        "search_out",
        Path,
        "The winner's output folder.",
        shown="diffc-out/NAME-search",
        group=WHAT,
        name="out",
        options=("--out", "-o"),
        place=WritingPlace(),
    ),
)
CHECK = (
    Flag(
        "baseline",
        Path,
        "An output folder, an engine folder or a stored baseline.",
        group=WHAT,
    ),
    Flag("baseline_report", Path, "Figures alone (weaker): same machine only.", group=WHAT),
    Flag(
        "check_target",
        list[str],
        "Compare the engines of these targets alone.",
        shown="all built",
        group=WHERE,
        name="target",
        values=completion.target_names,
    ),
    Flag(
        "check_batch",
        str,
        "Batch sizes to measure: 1,4.",
        shown="all built",
        group=WHERE,
        name="batch",
        metavar="N",
        read=batch_sizes,
    ),
    Flag(
        "check_threads",
        int,
        "CPU threads of both sides.",
        shown="as built",
        group=WHERE,
        name="threads",
    ),
    Flag("markdown", Path, "Add the result here, as Markdown."),
    Flag("junit", Path, "Write the result here, as JUnit XML."),
    Flag("badge", Path, "Write an SVG badge here."),
    Flag("history", Path, "Add a line per engine to this .jsonl."),
)
BASELINE = (
    Flag(
        "baseline_to",
        Path,
        "The baseline's folder.",
        group=WHAT,
        name="to",
        default=Path("baselines/main"),
        place=IN_TO,
    ),
    Flag("figures_only", bool, "Small, without engines; checks are weaker.", group=QUALITY),
    Flag("csv", bool, "The history, as CSV on stdout."),
)
REPORT = (
    Flag(
        "open",
        bool,
        "Open the page in the browser.",
        group=WHAT,
        name="open_",
        options=("--open",),
    ),
    Flag(
        "html",
        Path,
        "Write the page here.",
        shown="with --open: OUT/report.html, or comparison.html",
        group=WHAT,
    ),
    Flag(
        "plot",
        Path,
        "Draw the frontier here: .png, .svg or .pdf.",
        group=WHAT,
    ),
    Flag(
        "report_history",
        Path,
        "A .jsonl of diffc check, drawn over time.",
        group=WHAT,
        name="history",
    ),
    Flag(
        "price",
        float,
        "Of this machine an hour, such as 0.71/h: the cost of 1,000 images is shown.",
        metavar="PRICE",
        group=WHAT,
        read=price_per_hour,
    ),
)
FETCH = (
    Flag("whole", bool, "The weights of every component, not only what a run uses.", group=WHAT),
    Flag("list_only", bool, "Show the files and their sizes alone.", group=WHAT, name="dry_run"),
)
CACHE = (
    Flag(
        "older_than", str, "What was not used for so long: 12h, 30d, 8w.", metavar="AGE", group=WHAT
    ),
    Flag(
        "keep", str, "The longest unused, until so much is left: 20GB.", metavar="SIZE", group=WHAT
    ),
    Flag("all", bool, "Every stage.", name="all_", options=("--all",), group=WHAT),
    Flag("dry_run", bool, "Say what would go; remove nothing.", group=WHAT),
)

VERB_FLAGS = (
    *(*ARGUMENTS, *ADAPT, *COMMON, *COMPILE, *RATIOS, *SEARCH, *BUNDLE, *EXPORT, *GENERATE),
    *(*CHECK, *BASELINE, *REPORT, *FETCH, *CACHE),
)
