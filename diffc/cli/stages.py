"""The stage verbs: each goes on from the folder that the one before it left."""

from __future__ import annotations

from pathlib import Path

from diffc.cli.command import Command, takes
from diffc.cli.run import evaluate, finish_folder, of_folder, run_chain
from diffc.errors import RequestError


@takes(
    *(
        "model_or_out",
        "ratio",
        "fit",
        "lora",
        "cut",
        "ratio_of",
        "allocate",
        "rounding",
        "importance",
        "threshold",
    ),
    *(
        "data",
        "prompts",
        "guidance",
        "image_fit",
        "target",
        "precision",
        "threads",
        "out",
        "recipe",
    ),
    *("seed", "shard", "memory", "allow_pickle", "fresh", "json", "quiet"),
    goes_on=True,
)
def prune_(command: Command) -> None:
    """Cut the model: OUT/plan.json and OUT/pruned.

    \b
      diffc prune demo --ratio 0.3 --out OUT
      diffc prune OUT --ratio 0.5
      diffc prune demo --ratio 0.5 --allocate latency --target ort-cpu --out OUT
    """
    run_chain(command, "prune")


@takes(
    *("output_folder", "loop", "repair", "distill_steps", "block_steps", "distill_rank"),
    *("distill_for", "recipe_over_out", "shard", "memory", "fresh", "json", "quiet"),
    goes_on=True,
)
def distill_(command: Command, output_folder: Path) -> None:
    """Distil the cut model from the dense one: OUT/model, and samples of both.

    \b
      diffc distill OUT --distill-steps 2000
      diffc distill OUT --recipe gentler.yaml
      diffc distill OUT --distill-for loop --loop own:1
    """
    run_chain(of_folder(command, output_folder), "distill", begins="distill")


@takes(
    *("output_folder", "layout", "layout_to", "side", "force"),
    *("recipe_over_out", "fresh", "json", "quiet"),
    goes_on=True,
)
def export_(
    command: Command,
    output_folder: Path,
    layout: str | None,
    to: Path | None,
    side: str,
    force: bool,
) -> None:
    """Export both models to ONNX: OUT/onnx.

    \b
      diffc export OUT
      diffc export OUT --layout optimum
      diffc export OUT --layout openvino --side dense --to ./dense

    With --layout, what OUT/onnx holds becomes a folder that another library opens: optimum's
    ORTDiffusionPipeline, or OpenVINO GenAI's Text2ImagePipeline.
    """
    if layout is None:
        if to is not None or force or side != "compressed":
            raise RequestError("--to, --side and --force go with --layout")
        run_chain(of_folder(command, output_folder), "export", begins="export")
        return
    from diffc.cli.show import print_json, write_answer
    from diffc.layouts.write import write_layout

    written = write_layout(output_folder, layout, side=side, to=to, force=force)
    if command.json:
        print_json(written.to_json())
    elif not command.quiet:
        write_answer(f"{written.folder}: the {side} {written.pipeline}, for {written.readers}")
        write_answer(f"  {written.usage}")


@takes(
    *("output_folder", "adapted_lora", "target", "precision", "batch", "one_profile", "gpu"),
    *("threads", "torch", "fresh", "json", "quiet"),
    goes_on=True,
)
def build_(command: Command, output_folder: Path) -> None:
    """Build engines from OUT/onnx alone: no model, no torch needed here.

    \b
      diffc build OUT --target trt
      diffc build OUT --target trt-rtx --gpu A10,L4
      diffc build OUT --target openvino --precision auto
      diffc build OUT --lora style.safetensors:0.8

    These options are kept for the targets that they are given for. With --lora, LoRAs of the dense
    model are cut by OUT's plan and fused into both models before the engines are built, which needs
    the model and torch; plan, cost tables and training are reused. --lora none takes them out.
    """
    if "adapted_loras" in command.options:
        run_chain(of_folder(command, output_folder), "build", begins="build")
    else:
        finish_folder(command, output_folder, "build")


@takes(
    *("output_folder", "images", "metric", "lpips", "reference", "features"),
    *("quality_seed", "fresh", "json", "quiet"),
    goes_on=True,
    anew=("features",),
)
def eval_(command: Command, output_folder: Path) -> None:
    """Measure how close OUT/model is to the dense one: SSIM and PSNR from the same noise, and more.

    The figures are added to the report, beside the run's own.

    \b
      diffc eval OUT --images 256
      diffc eval OUT --images 10000 --reference test-images/
      diffc eval OUT --reference test-images/ --features classifier.onnx
    """
    from diffc.follows import check_model

    command = of_folder(command, output_folder)
    check_model(output_folder)
    evaluate(command, output_folder, forget={"quality": _OF_ONE_EVALUATION})


_OF_ONE_EVALUATION = ("metrics", "lpips", "reference", "features")
"""Options of samples that an evaluation does not take over from the run."""
