"""The flags of ``diffc generate``: which images are made, of what, and by what."""

from __future__ import annotations

from pathlib import Path

from diffc.cli.flags import completion
from diffc.cli.flags.flag import WHAT, WHERE, Flag, WritingPlace

GENERATE = (
    Flag(
        "image_prompts",
        list[str],
        "What the images show, for a text model; several are made in one call.",
        default=[],
        name="prompts",
        metavar="[PROMPT]...",
        argument=True,
        read=str,
        group=WHAT,
    ),
    Flag(
        "negative_prompt",
        str,
        "What guidance leads away from.",
        metavar="TEXT",
        shown="the model's own",
        group=WHAT,
    ),
    Flag(
        "image_count",
        int,
        "Images, of each prompt.",
        default=1,
        name="n",
        options=("--n", "-n"),
        metavar="N",
        group=WHAT,
    ),
    Flag("image_seed", int, "Image i is image i of this seed.", default=0, name="seed", group=WHAT),
    Flag("image_steps", int, "Of the sampler.", shown="as the report's", name="steps", group=WHAT),
    Flag(
        "image_guidance",
        float,
        "Scale of classifier-free guidance; 1 or less for none.",
        shown="as the report's",
        name="guidance",
        group=WHAT,
    ),
    Flag(
        "image_sampler",
        str,
        "Such as ddim, dpm++ or unipc; a name that is unknown lists them all.",
        shown="the report's",
        name="sampler",
        group=WHAT,
        values=completion.sampler_names,
    ),
    Flag(
        "image_lora",
        str,
        "A LoRA that diffc adapt --engines adapted, by its name.",
        name="lora",
        metavar="NAME",
        group=WHAT,
    ),
    *(
        Flag(
            f"image_{side}",
            int,
            "In pixels: of a size that the engine was built for.",
            shown="the first",
            name=side,
            group=WHAT,
        )
        for side in ("height", "width")
    ),
    Flag(
        "start_image",
        Path,
        "An image that the loop begins with, of the engine's size.",
        name="image",
        metavar="FILE",
        group=WHAT,
    ),
    Flag(
        "strength",
        float,
        "How much of the loop is done to the image: above 0, up to 1.",
        shown="0.8; 1 with a mask",
        group=WHAT,
    ),
    Flag(
        "mask",
        Path,
        "White where the image is made anew, black where it stays.",
        metavar="FILE",
        group=WHAT,
    ),
    Flag(
        "label",
        str,
        "Class labels, one an image: 3,7.",
        metavar="N",
        shown="the report's",
        group=WHAT,
    ),
    Flag(
        "condition",
        list[str],
        "An input of the denoiser: a number, or an .npy of (n, ...) or (...); repeatable.",
        metavar="NAME=V",
        group=WHAT,
    ),
    Flag(
        "unconditional",
        list[str],
        "Its value for 'none', which guidance leads away from; repeatable.",
        metavar="NAME=V",
        group=WHAT,
    ),
    Flag(
        "generate_target",
        str,
        "Whose engine, or torch.",
        shown="the fastest that runs here",
        name="target",
        values=completion.target_names,
        group=WHERE,
    ),
    Flag("device", str, "An engine or torch on it: cpu or cuda.", shown="any", group=WHERE),
    Flag(
        "dtype",
        str,
        "An engine of this precision, or torch in it: fp32, fp16 or bf16.",
        shown="any; of torch fp32",
        group=WHERE,
    ),
    Flag("dense", bool, "The dense model in place of the compressed one.", group=WHAT),
    Flag("compare", bool, "One picture: dense above compressed, from the same noise.", group=WHAT),
    Flag("grid", bool, "One picture of all images.", group=WHAT),
    Flag(
        "image_out",
        Path,
        ".png, .jpg, .webp, or .npy of samples; several images are numbered.",
        shown="image.png",
        name="out",
        options=("--out", "-o"),
        metavar="FILE",
        group=WHAT,
        place=WritingPlace(),
    ),
    Flag("overwrite", bool, "Replace files that are there.", name="force", group=WHAT),
)
