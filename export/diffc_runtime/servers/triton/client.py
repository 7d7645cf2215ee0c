"""A client of the server: images by prompt and seed, over HTTP.

    pip install "tritonclient[http]" numpy pillow
    python client.py "a red sneaker" --out a.png
    python client.py --url localhost:8000 --n 4 --steps 50 --seed 0 --out a.png

The first is for a model with text encoders; ``--n`` is the number of images of each prompt. Four
images are a-0.png to a-3.png. Pictures need Pillow; ``.npy`` holds the array, without it.
``--bls`` asks the model that runs every step on the denoiser model. ``--condition NAME=VALUE``, or
``NAME=FILE.npy``, for each of the model's conditions; ``--guidance`` for the scale of guidance.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

try:
    import tritonclient.http as triton
except ImportError as error:
    sys.exit(f'error: {error}; pip install "tritonclient[http]" numpy')


_KINDS = {
    **dict.fromkeys(("n", "steps", "height", "width"), np.int32),
    **dict.fromkeys(("seed", "first"), np.int64),
    "guidance": np.float32,
}
_TEXTS = ("prompt", "negative_prompt", "scheduler", "lora")


def inputs(**values: Any) -> list[Any]:
    """Return Triton's inputs: prompts, ``seed``, ``steps``, ``n``, ``guidance``, conditions."""
    tensors = []
    for name, value in values.items():
        array = _array(name, value)
        tensor = triton.InferInput(name, array.shape, triton.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _array(name: str, value: Any) -> np.ndarray:
    if name in _TEXTS:
        texts = [value] if isinstance(value, str) else value
        return np.array([text.encode() for text in texts], np.object_)
    if name not in _KINDS:
        return np.asarray(value)
    try:
        return np.array([value], _KINDS[name])
    except OverflowError:
        raise ValueError(f"{name} {value} is too large for {np.dtype(_KINDS[name])}") from None


def generate(url: str, model: str = "pipeline", **values: Any) -> np.ndarray:
    """Request images from a server and wait for them.

    Args:
        url: HOST:PORT of the server's HTTP service, without a scheme.
        model: The name of one of the repository's pipelines: ``pipeline`` or ``pipeline_bls``.
        values: The inputs by name, each optional unless the repository's README.md says otherwise:
            ``prompt`` (one text or a list of them), ``seed``, ``steps``, ``n``, ``guidance``, ...;
            a condition as an array (n, ...), or (...) for all images alike.

    Returns:
        Images (N, H, W, C) in uint8; samples (N, C, H, W) in float32 where the model gives no
        pictures.

    Raises:
        InferenceServerException: The server refuses the request.
        OSError: The server cannot be reached.
        ValueError: A condition is of another number format than the model's.
    """
    return generate_with_notes(url, model, **values)[0]


def generate_with_notes(url: str, model: str, **values: Any) -> tuple[np.ndarray, list[str]]:
    """Return what ``generate`` does, and notes, such as one on a prompt that was cut."""
    client = triton.InferenceServerClient(url, network_timeout=600, connection_timeout=600)
    names = [output["name"] for output in client.get_model_metadata(model)["outputs"]]
    wanted = [name for name in names if name in (names[0], "notes")]
    tensors = inputs(**as_declared(client, model, values))
    outputs = [triton.InferRequestedOutput(name) for name in wanted]
    answer = client.infer(model, tensors, outputs=outputs)
    notes = answer.as_numpy("notes") if "notes" in wanted else []
    return answer.as_numpy(names[0]), [note.decode() for note in notes]


def as_declared(client: Any, model: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with each condition in the type that the model declares, rows first."""
    known = {item["name"]: item for item in client.get_model_metadata(model)["inputs"]}
    rows = {name for name in values if name in known and known[name]["shape"][0] == -1}
    rows -= {"prompt", "negative_prompt"}
    return {name: _rows(known[name], v) if name in rows else v for name, v in values.items()}


def _rows(declared: dict[str, Any], value: Any) -> np.ndarray:
    """Return ``value`` as rows; a value without rows becomes one row for all images."""
    dtype = triton.triton_to_np_dtype(declared["datatype"])
    array = np.asarray(value)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"condition '{declared['name']}' must be {np.dtype(dtype)}")
    array = array.astype(dtype)
    return array[None] if array.ndim < len(declared["shape"]) else array


def values_by_name(given: list[str], prefix: str = "") -> dict[str, Any]:
    """Parse ``NAME=3``, ``NAME=0.5`` and ``NAME=file.npy`` into name -> value."""
    values: dict[str, Any] = {}
    for item in given:
        name, _, text = item.partition("=")
        if not prefix and name in (*_KINDS, *_TEXTS):
            name = f"condition_{name}"  # the request has an input of this name
        if text.endswith(".npy"):
            values[prefix + name] = _read_array(text)
        else:
            values[prefix + name] = int(text) if text.lstrip("+-").isdigit() else float(text)
    return values


def _read_array(file: str) -> np.ndarray:
    """Return the array of a file. Raises OSError or ValueError where it has none."""
    try:
        array: np.ndarray = np.load(file, allow_pickle=False)
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
    return array


def main() -> None:
    """Request images and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="*", help="one text, or several")
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--n", type=int, default=1, help="images, of each prompt")
    parser.add_argument("--steps", type=int, help="default: as diffc's report, else 50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guidance", type=float, help="1 or less: none; default: as diffc's report"
    )
    parser.add_argument("--height", type=int, help="in pixels, as the engine was built for")
    parser.add_argument("--width", type=int, help="the same")
    parser.add_argument("--scheduler", help="the sampler; default: the model's")
    parser.add_argument("--lora", help="a LoRA of the model, by its name")
    for name in ("condition", "unconditional"):
        help_ = "a number, or an .npy file of (n, ...) or (...); may be given again"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=V", help=help_)
    parser.add_argument("--bls", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("image.png"), help=".png, .jpg or .npy")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args()
    try:
        count = options.n * max(len(options.prompt), 1)
        files = output_files(options.out, count, options.force)
        images, notes = _request_images(options)
        save_images(images, files)
    except (triton.InferenceServerException, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{files[0]}{f' to {files[-1].name}' if files[1:] else ''}: {images.shape} {images.dtype}"
    )


def output_files(out: Path, n: int, force: bool) -> list[Path]:
    """Return the files of ``n`` images; ValueError where a picture cannot be written."""
    files = [out]
    if out.suffix.lower() != ".npy":
        from PIL import Image

        if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
            raise ValueError(f"--out must end as a picture's or in .npy, not '{out.name}'")
        files = [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(n)] if n > 1 else files
    there = [file for file in files if file.exists()]
    if there and not force:
        raise ValueError(f"{there[0]} exists: name another file with --out, or --force replaces it")
    return files


def save_images(images: np.ndarray, files: list[Path]) -> None:
    """Write images (N, H, W, C) in uint8 as pictures, or any array as one .npy.

    Raises:
        ValueError: A file cannot be written, or the array is of latents and the file a picture.
    """
    if files[0].suffix.lower() == ".npy":
        content = io.BytesIO()
        np.save(content, images)
        _write(files[0], content.getvalue())
        return
    if images.dtype != np.uint8:
        raise ValueError("the model gives latents, which are no pictures: name an .npy with --out")
    for file, image in zip(files, images, strict=True):
        _write(file, _picture(image, file.suffix))


def _picture(image: np.ndarray, ending: str) -> bytes:
    from PIL import Image

    content, kind = io.BytesIO(), Image.registered_extensions()[ending.lower()]
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(content, format=kind)
    return content.getvalue()


def _write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    numpy and Pillow, given a file's name, may say nothing where a full disk takes all but the last
    bytes.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def _request_images(options: argparse.Namespace) -> tuple[np.ndarray, list[str]]:
    names = ("steps", "guidance", "scheduler", "height", "width", "lora", "negative_prompt")
    optional = {name: getattr(options, name) for name in names}
    optional["prompt"] = options.prompt or None
    return generate_with_notes(
        options.url,
        "pipeline_bls" if options.bls else "pipeline",
        n=options.n,
        seed=options.seed,
        **{name: value for name, value in optional.items() if value is not None},
        **values_by_name(options.condition),
        **values_by_name(options.unconditional, "unconditional_"),
    )


if __name__ == "__main__":
    main()
