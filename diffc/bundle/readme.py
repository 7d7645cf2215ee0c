"""The README of a bundle: what it holds, what it needs, how to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.bundle.triton_config import batch_ranges, no_batching_note, sample_shape
from diffc_export.targets import target
from diffc_runtime.calls import served_name
from diffc_runtime.engine_folder import LORA_SUFFIX
from diffc_runtime.files import path_text
from diffc_runtime.images import is_picture
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompts import read_plan

if TYPE_CHECKING:
    from diffc.bundle.contents import BundleContents


def plain_readme(contents: BundleContents) -> str:
    """Return README.md of a plain bundle."""
    return f"""# {_title(contents)}

{_about(contents)}

## What is here
- `engine/`: the denoiser's engine; `engine.json` says what it was built for
- `diffc_runtime/`: a Python package that samples with it. It needs `numpy` and {_package(contents)}
- `pipeline.json`: the scheduler's config, and what a call has where it says nothing
{_text_files(contents)}
## Try it
```bash
pip install numpy pillow {_package(contents)}
python . info
{_placeholders(contents)}{_generate(contents)}
```
From another folder: `python FOLDER generate ...`.
{_about_files(contents)}
## Use it
```python
import sys

sys.path.insert(0, ".")  # this folder
{_imports(contents)}from diffc_runtime import open_bundle

pipe = open_bundle(".")  # this folder
{_call(contents)}```

{_prompts(contents)}{_loras(contents)}{_judged(contents)}An image is named by its seed and its
index: the first of `pipe(n=4, seed=0)`
is that of `pipe(seed=0)`, and `pipe.generate(1, ..., first=3)` gives the samples of the fourth
alone, as a numpy array. Requests larger than the engine's largest batch are split.
"""


def _generate(contents: BundleContents) -> str:
    out = "--out a.png" if _is_picture(contents) else "--out samples.npy"
    return f"python . generate --n 4 --seed 0 {out}{_condition_flags(contents)}"


def _call(contents: BundleContents) -> str:
    given = _condition_arguments(contents)
    if _is_picture(contents):
        return f'images = pipe(n=4, seed=0{given}).images  # Pillow\'s\nimages[0].save("b.png")\n'
    return f'samples = pipe(n=4, seed=0{given}, output_type="np").images\n'


def _text_files(contents: BundleContents) -> str:
    """Return the line about the text encoders; nothing without any."""
    if not contents.texts:
        return ""
    folders = ", ".join(f"`{name}/`" for name in contents.texts)
    return f"- `text/`, {folders}: tokenizers and text encoders; prompts need `tokenizers` too\n"


def _prompts(contents: BundleContents) -> str:
    """Return how to make images of a prompt; nothing without text encoders."""
    if not contents.texts:
        return ""
    return (
        "Of a prompt, in the place of the conditions (`pip install tokenizers`):\n"
        '`pipe("a red sneaker", negative_prompt="blurred").images[0]`, or\n'
        '`python . generate "a red sneaker" --out a.png`.\n\n'
    )


def _judged(contents: BundleContents) -> str:
    """Return the sentence about the defaults; nothing where no samples were judged."""
    usual = contents.served_settings().get("defaults")
    if usual is None:
        return ""
    guidance = f", guidance {usual['guidance']:g}" if usual["guidance"] != 1 else ""
    sampler = contents.served_settings()["sampler"]
    judged = (contents.loop and contents.loop.guidance) or 1.0
    if judged != usual["guidance"]:
        return (
            f"By default it samples with {sampler}, {usual['steps']} steps, without guidance. The "
            f"report's pictures had\nguidance {judged:g}: with `guidance_scale={judged:g}` and the "
            "same conditions, image i of seed 0 is\nthe report's.\n\n"
        )
    return (
        f"By default it samples as the report's pictures were: {sampler}, {usual['steps']} "
        f"steps{guidance}. For\nthe same conditions, image i of seed 0 is the report's.\n\n"
    )


def triton_readme(contents: BundleContents) -> str:
    """Return README.md of a model repository."""
    backend = target(contents.target).facts.triton
    steps, guidance = _usual(contents, "steps", 50), _usual(contents, "guidance", 1)
    sampler = contents.served_settings()["sampler"]
    native = f"`{backend.platform}`" if backend else "in Python, as Triton has no backend for it"
    return f"""# {_title(contents)}: a Triton model repository

{_about(contents)}{_batching_line(contents)}

## The models
- `denoiser`: one step of the network, {native}
{_text_models(contents)}- `pipeline`: the whole loop in one process; the steps of different requests
  share calls of the engine, up to its largest batch;
  the server's Python needs `numpy`{_also(contents)} and {_package(contents)}
- `pipeline_bls`: the loop asks `denoiser` for every step, so that steps are batched by the server,
  with those of other clients of `denoiser`;
  the server's Python needs `numpy`{_also(contents) or " alone"}

Load only those that you want with `--model-control-mode=explicit --load-model=pipeline`
(`pipeline_bls` needs `denoiser`, and `decoder` and text encoders where there are any).

## Run it
```bash
tritonserver --model-repository=$PWD
```
The server's Python is the one first on PATH, or the environment that a model's config names:
`parameters: {{key: "EXECUTION_ENV_PATH", value: {{string_value: "/path/to/venv"}}}}`.

A model that runs its engine in Python on a processor takes every core; to leave some to others, add
`parameters: {{key: "threads", value: {{string_value: "4"}}}}` to its config.

## Ask it
```bash
pip install "tritonclient[http]" numpy pillow
{_ask_triton(contents)}
```
{"" if contents.texts else _about_files(contents)}
Inputs of both pipelines, each a tensor of one value that may be left out: `seed` (INT64, 0),
`steps` (INT32, {steps}), `n` (INT32, 1), `first` (INT64, 0), `guidance` (FP32, {guidance}),
`scheduler` (STRING, "{sampler}"), `height` and `width` (INT32), {_sizes(contents)}.
{_lora_input(contents)}{_scale_input(contents)}{_prompt_inputs(contents)}{_conditions(contents)}
Outputs: `images` (UINT8, N x H x W x C) and `samples` (FP32, N x C x H x W, in [-1, 1]); latents
without a decoder come as `samples` alone.{_notes_output(contents)}

`bundle.json` lists the files that diffc wrote here; a later `diffc bundle --force` replaces no
other.
"""


def _sizes(contents: BundleContents) -> str:
    """Return which sizes a request may ask for."""
    sample = next(item for item in contents.info["inputs"] if item["kind"] == "sample")
    sizes, usual = sample.get("sizes") or [], contents.decoder_info
    if len(sizes) < 2:
        return "which must be the engine's"
    image = sample["shape"] if usual is None else usual["outputs"][0]["shape"]
    factors = [pixels // side for pixels, side in zip(image[-2:], sizes[0], strict=True)]
    words = ", ".join(f"{h * factors[0]} x {w * factors[1]}" for h, w in sizes)
    return f"of {words} in `pipeline`, and of the first in `pipeline_bls`"


def _text_models(contents: BundleContents) -> str:
    """Return the line about the text encoders; nothing without any."""
    names = ", ".join(f"`{name}`" for name in contents.texts)
    return f"- {names}: the text encoders, likewise; `pipeline_bls` asks them\n" if names else ""


def _also(contents: BundleContents) -> str:
    return ", `tokenizers`" if contents.texts else ""


def _ask_triton(contents: BundleContents) -> str:
    """Return the client's command: of a prompt where the model takes one."""
    url = "localhost:8000"
    if not contents.texts:
        return f"{_placeholders(contents)}{_ask(url, contents)}"
    out = "a.png" if _is_picture(contents) else "samples.npy"
    return f'python client.py "a red sneaker" --url {url} --n 4 --seed 0 --out {out}'


def _prompt_inputs(contents: BundleContents) -> str:
    """Return the lines about prompts; nothing without text encoders."""
    if not contents.texts:
        return ""
    return (
        "`prompt` (STRING, one or several) makes `n` images of each, the first prompt's first;\n"
        "`negative_prompt` is one for all or one for each. A request has a prompt or conditions.\n"
    )


def _lora_names(contents: BundleContents) -> list[str]:
    return sorted(path_text(path.stem) for path in contents.loras.glob(f"*{LORA_SUFFIX}"))


def _loras(contents: BundleContents) -> str:
    """Return how a call picks a LoRA; nothing without any."""
    names = _lora_names(contents)
    if not names:
        return ""
    return (
        f'With a LoRA ({", ".join(names)}): `pipe(..., lora="{names[0]}")`, or\n'
        f"`python . generate --lora {names[0]} ...`. The first call with each opens the engine\n"
        "once more.\n\n"
    )


def _lora_input(contents: BundleContents) -> str:
    """Return the line about LoRAs; nothing without any."""
    names = _lora_names(contents)
    return f"`lora` (STRING) of `pipeline` is one of {', '.join(names)}.\n" if names else ""


def _scale_input(contents: BundleContents) -> str:
    """Return where a request's guidance goes; nothing where it makes two calls of the network."""
    taken = None if contents.text is None else read_plan(contents.text).guidance
    if taken is None:
        return ""
    name = served_name(taken.name)
    return (
        f"The network has an input for the scale of guidance, `{taken.name}`: `guidance` goes there"
        f" (a\nprompt without it has the model's own scale), and `{name}` stands above it.\n"
    )


def _notes_output(contents: BundleContents) -> str:
    if not contents.texts:
        return ""
    return "\n`notes` (STRING) says, for example, which part of a too long prompt was left out."


def _usual(contents: BundleContents, name: str, value: float) -> str:
    """Return what a request has where it does not name ``name``."""
    return f"{(contents.served_settings().get('defaults') or {}).get(name, value):g}"


def _batching_line(contents: BundleContents) -> str:
    line = no_batching_note(contents.info)
    return f"\n- {line}" if line else ""


def ovms_readme(contents: BundleContents) -> str:
    """Return README.md of a folder for OpenVINO Model Server."""
    decoder = "- `decoder/`: the VAE's decoder, likewise\n" if contents.decoder else ""
    return f"""# {_title(contents)}: for OpenVINO Model Server

{_about(contents)}

## What is here
- `config.json`: the models, for `--config_path`
- `denoiser/`: one step of the network
{decoder}- `client/`: the sampling loop; it needs `numpy`, and asks the server for every step

## Run it
```bash
docker run --rm -p 8000:8000 -v $PWD:/models:ro openvino/model_server:latest \\
    --config_path /models/config.json --rest_port 8000
```

## Ask it
```bash
cd client
{_placeholders(contents)}{_ask("http://localhost:8000", contents)}
```
{_about_files(contents)}
```python
{_imports(contents)}from client import open_server

pipe = open_server("http://localhost:8000")
{_call(contents)}```
"""


def _title(contents: BundleContents) -> str:
    return f"{contents.info['source'].get('class_name', 'A diffusion model')} for {contents.target}"


def _about(contents: BundleContents) -> str:
    info = contents.info
    batches = ", ".join(
        f"{low}-{high}" if low != high else str(low) for low, _, high in batch_ranges(info)
    )
    lines = [
        f"- precision: {info['precision_found']}",
        f"- batch sizes: {batches or 'any'}",
        f"- built by: {_pairs(info['versions'])}",
        f"- tied to: {_pairs({**info['device'], **_tied(info)}) or 'no machine'}",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in contents.notes())])


def _tied(info: JsonObject) -> dict[str, str]:
    return {k: info["versions"][k] for k in info["tied_to"] if k in info["versions"]}


def _pairs(values: JsonObject) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _package(contents: BundleContents) -> str:
    """Return the packages to install; of one version if the engine is tied to it."""
    required = list(target(contents.target).facts.requires)
    tied = list(_tied(contents.info).values())
    if tied and required:
        required[0] += f"=={tied[0]}"
    return " ".join(required)


def _is_picture(contents: BundleContents) -> bool:
    return is_picture(sample_shape(contents))


# Conditions ---------------------------------------------------------------------------------------


def _condition_specs(contents: BundleContents) -> list[JsonObject]:
    return [item for item in contents.info["inputs"] if item["kind"] == "condition"]


def _arrays(contents: BundleContents) -> list[JsonObject]:
    """Return the conditions that are more than one number: they come from files."""
    return [item for item in _condition_specs(contents) if item["shape"]]


def _conditions(contents: BundleContents) -> str:
    """Return the conditions as a request to Triton names them, one a line."""
    lines = [
        f"- `{served_name(item['name'])}` ({item['dtype']}, shape {['N', *item['shape']]}, or one"
        f" row for all), and `unconditional_{item['name']}` for guidance"
        for item in _condition_specs(contents)
    ]
    return "\n".join(["Conditions:", *lines]) if lines else "The model has no conditions."


def _placeholders(contents: BundleContents) -> str:
    """Return commands that write a file of zeros for each condition that is an array."""
    lines = [
        f"np.save('{item['name']}.npy', np.zeros({tuple(item['shape'])}, '{item['dtype']}'))"
        for item in _arrays(contents)
    ]
    return "".join(f'python -c "import numpy as np; {line}"\n' for line in lines)


def _about_files(contents: BundleContents) -> str:
    """Return lines about the content of the files that the commands read."""
    lines = [
        f"- `{item['name']}.npy`: {item['dtype']}, shape {tuple(item['shape'])} for all images,"
        f" or (N, {str(tuple(item['shape']))[1:]} for each its own"
        for item in _arrays(contents)
    ]
    if not lines:
        return ""
    why = "The zeros only show that it runs: put there what the model's text encoders give."
    return "\n".join(["", *lines, "", why, ""])


def _condition_flags(contents: BundleContents) -> str:
    given = [
        f"{item['name']}={item['name']}.npy" if item["shape"] else f"{item['name']}=0"
        for item in _condition_specs(contents)
    ]
    return "".join(f" --condition {item}" for item in given)


def _ask(url: str, contents: BundleContents) -> str:
    out = "a.png" if _is_picture(contents) else "samples.npy"
    flags = f"--n 4 --seed 0 --out {out}{_condition_flags(contents)}"
    return f"python client.py --url {url} {flags}"


def _imports(contents: BundleContents) -> str:
    return "import numpy as np\n" if _arrays(contents) else ""


def _condition_arguments(contents: BundleContents) -> str:
    given = [
        f"{item['name']}=" + (f'np.load("{item["name"]}.npy")' if item["shape"] else "0")
        for item in _condition_specs(contents)
    ]
    return "".join(f", {item}" for item in given)
