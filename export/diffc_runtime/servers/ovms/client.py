"""Images from an OpenVINO Model Server: the loop runs here, every step is a request to the server.

    python client.py --url http://localhost:8000 --n 4 --steps 50 --seed 0 --out a.png

Four images are a-0.png to a-3.png. Needs numpy alone; speaks the KServe protocol, version 2, over
REST.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from diffc_runtime.arguments import named_values  # noqa: E402
from diffc_runtime.bundles import batched_decoder, pipeline_of, read_bundle  # noqa: E402
from diffc_runtime.errors import BadRequest, UnfitEngine, in_short, value_words  # noqa: E402
from diffc_runtime.images import is_picture  # noqa: E402
from diffc_runtime.saving import (  # noqa: E402
    check_files,
    file_words,
    holds_samples,
    output_files,
    save_samples,
)

KINDS = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32"}


def open_server(url: str) -> Any:
    """Return a pipeline around the models of the server at ``url``, http://HOST:PORT."""
    if not url.startswith(("http://", "https://")):
        raise BadRequest(f"the server's address is http://HOST:PORT, not {value_words(url)}")
    settings, info = read_bundle(HERE)
    denoise = model_call(url, "denoiser", info["outputs"][0]["name"])
    decoder = settings.get("decoder")
    if decoder is None:
        return pipeline_of(settings, info, denoise)
    ask = model_call(url, "decoder", decoder["output"])
    decode = batched_decoder(
        ask, decoder["input"], decoder["dtype"], decoder["batches"], decoder.get("shape")
    )
    return pipeline_of(settings, info, denoise, decode)


def model_call(url: str, model: str, output: str) -> Callable[[dict[str, Any]], np.ndarray]:
    """Return a call of one of the server's models: inputs by name -> one output."""
    address = f"{url.rstrip('/')}/v2/models/{model}/infer"

    def call(inputs: dict[str, Any]) -> np.ndarray:
        body = {
            "inputs": [_tensor(name, array) for name, array in inputs.items()],
            "outputs": [{"name": output}],
        }
        answer = _post(address, body)
        try:
            result = answer["outputs"][0]
            array: np.ndarray = np.array(result["data"], np.float32).reshape(result["shape"])
        except (LookupError, TypeError, ValueError):
            raise UnfitEngine(f"what answers at {address} gives no output of a model") from None
        return array

    return call


def _tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    """Return an input as the protocol's JSON."""
    kind, values = KINDS[str(array.dtype)], array.ravel().tolist()
    return {"name": name, "shape": list(array.shape), "datatype": kind, "data": values}


def _post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data, headers)  # noqa: S310 - the user's own server
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            content: dict[str, Any] = json.load(answer)
            return content
    except urllib.error.HTTPError as error:
        reason = in_short(error.read().decode(errors="replace"), 500)
        raise UnfitEngine(f"{address}: {reason or error}") from None
    except OSError as error:
        raise UnfitEngine(f"no server answers at {address}: {error}") from None
    except (HTTPException, ValueError) as error:  # such as the server's port for gRPC
        reason = f"speaks no REST of a model server ({in_short(repr(error))})"
        raise UnfitEngine(f"what answers at {address} {reason}") from None


def main() -> None:
    """Request images and save them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--steps", type=int, help="default: as diffc's report, else 50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guidance", type=float, help="1 or less: none; default: as diffc's report"
    )
    for name in ("condition", "unconditional"):
        help_ = "a number, or an .npy file of (n, ...) or (...); may be given again"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=V", help=help_)
    parser.add_argument("--out", type=Path, default=Path("image.png"), help=".png, .jpg, .npy")
    parser.add_argument("--grid", action="store_true", help="one picture of all images")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args()
    try:
        files = output_files(options.out, options.n, options.grid)
        check_files(files, options.force)
        samples = _generate(options)
        save_samples(samples, files)
    except (BadRequest, UnfitEngine, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{file_words(files)}: {samples.shape}")


def _generate(options: argparse.Namespace) -> np.ndarray:
    pipeline = open_server(options.url)
    if (
        not holds_samples(options.out)
        and not pipeline.decode
        and not is_picture(pipeline.sample_shape)
    ):
        raise BadRequest(f"samples of shape {pipeline.sample_shape} are no picture: --out FILE.npy")
    none = named_values(options.unconditional)
    samples: np.ndarray = pipeline.sample(
        n=options.n,
        seed=options.seed,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        **named_values(options.condition),
        **{f"unconditional_{name}": value for name, value in none.items()},
    )
    return samples


if __name__ == "__main__":
    main()
