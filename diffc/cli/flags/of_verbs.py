"""The flags that set no option of the recipe: what to work on, where to write, how to show."""

from __future__ import annotations

from pathlib import Path

from diffc.cli.flags.flag import Flag

ARGUMENTS = (
    Flag("model", str, "A diffusers folder, a hub id, or 'demo'.", metavar="MODEL", argument=True),
    Flag(
        "model_or_out",
        str,
        "A model, or an output folder to go on from.",
        name="model",
        metavar="MODEL|OUT",
        argument=True,
    ),
    Flag("output_folder", Path, "An output folder of diffc compile.", metavar="OUT", argument=True),
    Flag(
        "output_folders",
        list[Path],
        "Output folders of diffc compile.",
        metavar="OUT...",
        argument=True,
    ),
    Flag(
        "things",
        list[Path],
        "An output folder; or engines, ONNX files, output folders to compare.",
        metavar="OUT|A B...",
        argument=True,
    ),
    Flag(
        "candidate",
        Path,
        "An output folder or an engine folder.",
        metavar="CANDIDATE",
        argument=True,
    ),
    Flag("baselines", Path, "", default=Path("baselines"), metavar="FOLDER", argument=True),
    Flag("baseline_folder", Path, "", metavar="BASELINE", argument=True),
    Flag("recipe_name", str, "", metavar="NAME", argument=True),
)
COMMON = (
    Flag(
        "out",
        Path,
        "Output folder.",
        shown="diffc-out/NAME-RATIO",
        options=("--out", "-o"),
        metavar="PATH",
    ),
    Flag("recipe", str, "A shipped recipe's name, or a YAML file."),
    Flag("family", str, "Treat the denoiser as this diffusers class."),
    Flag("allow_pickle", bool, "Accept .bin weights from an origin you trust."),
    Flag("fresh", bool, "Ignore what is cached."),
    Flag("json", bool, "One JSON object on stdout, nothing else."),
    Flag("quiet", bool, "No progress, no tables.", options=("--quiet", "-q")),
)
COMPILE = (
    Flag("replace", bool, "Replace OUT's finished run, if asked otherwise.", name="force"),
    Flag("no_build", bool, "Stop before the engines: build them elsewhere."),
    Flag("bundle", str, "OUT/bundle for a server: triton, ovms, none."),
)
BUNDLE = (
    Flag("bundle_to", Path, "Where the bundle goes.", name="to", required=True, metavar="FOLDER"),
    Flag(
        "bundle_server",
        str,
        "triton: a model repository; ovms: OpenVINO Model Server's; none: a plain folder.",
        name="server",
        default="triton",
    ),
    Flag("bundle_target", str, "Whose engine.", shown="the only one in OUT", name="target"),
    Flag("side", str, "compressed or dense.", default="compressed"),
    Flag(
        "plan",
        list[Path],
        "An engine folder of the same model for another GPU; repeatable.",
        metavar="ENGINE",
    ),
    Flag("force", bool, "Add to a folder that is not empty."),
)
GENERATE = (
    Flag("image_count", int, "Images.", default=1, name="n", metavar="N"),
    Flag("image_seed", int, "Image i is image i of this seed.", default=0, name="seed"),
    Flag("image_steps", int, "Of the sampler.", shown="as the report's", name="steps"),
    Flag(
        "image_guidance",
        float,
        "Scale of classifier-free guidance; 1 for none.",
        shown="as the report's",
        name="guidance",
    ),
    Flag(
        "image_sampler",
        str,
        "ddpm, ddim, euler, dpm++ or flow-euler.",
        shown="the report's",
        name="sampler",
    ),
    Flag("label", str, "Class labels, one an image: 3,7.", shown="the report's"),
    Flag(
        "condition",
        list[str],
        "An input of the denoiser: a number, or an .npy of (n, ...) or (...); repeatable.",
        metavar="NAME=V",
    ),
    Flag(
        "unconditional",
        list[str],
        "Its value for 'none', which guidance leads away from; repeatable.",
        metavar="NAME=V",
    ),
    Flag(
        "generate_target",
        str,
        "Whose engine, or torch.",
        shown="the fastest that runs here",
        name="target",
    ),
    Flag("device", str, "cpu or cuda."),
    Flag("dtype", str, "fp32, fp16 or bf16."),
    Flag("dense", bool, "The dense model in place of the compressed one."),
    Flag("compare", bool, "One picture: dense above compressed, from the same noise."),
    Flag("grid", bool, "One picture of all images."),
    Flag(
        "image_out",
        Path,
        ".png, .jpg, .webp, or .npy of samples; several images are numbered.",
        shown="image.png",
        name="out",
        options=("--out", "-o"),
        metavar="FILE",
    ),
    Flag("overwrite", bool, "Replace files that are there.", name="force"),
)
CHECK = (
    Flag("baseline", Path, "An output folder, an engine folder or a stored baseline."),
    Flag("baseline_report", Path, "Figures alone (weaker): same machine only."),
    Flag(
        "check_target",
        list[str],
        "Compare the engines of this target alone; repeatable.",
        shown="all built",
        name="target",
        metavar="NAME",
    ),
    Flag("check_batch", str, "Batch sizes to measure: 1,4.", shown="all built", name="batch"),
    Flag("check_threads", int, "CPU threads of both sides.", shown="as built", name="threads"),
    Flag("markdown", Path, "Add the result here, as Markdown."),
    Flag("junit", Path, "Write the result here, as JUnit XML."),
    Flag("badge", Path, "Write an SVG badge here."),
    Flag("history", Path, "Add a line per engine to this .jsonl."),
)
BASELINE = (
    Flag("baseline_to", Path, "The baseline's folder.", name="to", default=Path("baselines/main")),
    Flag("figures_only", bool, "Small, without engines; checks are weaker."),
    Flag("csv", bool, "The history, as CSV on stdout."),
)
REPORT = (
    Flag("open", bool, "Open the page in the browser.", name="open_", options=("--open",)),
    Flag("html", Path, "Write the page here.", shown="OUT/report.html; comparison.html"),
    Flag("report_history", Path, "A .jsonl of diffc check, drawn over time.", name="history"),
)

VERB_FLAGS = (*ARGUMENTS, *COMMON, *COMPILE, *BUNDLE, *GENERATE, *CHECK, *BASELINE, *REPORT)
