"""A real tritonserver for the tests, from the folder that scripts/triton_env.sh made."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from diffc.bundle import server
from diffc.bundle.server import VARIABLE


def environment() -> server.TritonInstall | None:
    """The server's parts, or None where there is none."""
    return server.find_triton() if os.environ.get(VARIABLE) else None


def has_backend(name: str) -> bool:
    """Whether the server's build carries the backend."""
    found = environment()
    return found is not None and found.has_backend(name)


class Server(server.TritonServer):
    """diffc's own, and requests over plain HTTP."""

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of an HTTP request."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content) if content else {}

    def ask(self, model: str, output: str = "images", **values: Any) -> tuple[int, Any]:
        """Ask for images over HTTP with JSON: status, and the output array or the error."""
        body = {
            "inputs": [_tensor(name, value) for name, value in values.items()],
            "outputs": [{"name": output}],
        }
        status, content = self.post(f"/v2/models/{model}/infer", body)
        if status != 200:
            return status, content["error"]
        (found,) = content["outputs"]
        kind = {"UINT8": np.uint8, "FP32": np.float32}[found["datatype"]]
        return status, np.array(found["data"], kind).reshape(found["shape"])


def _tensor(name: str, value: Any) -> dict[str, Any]:
    kinds = {"n": "INT32", "steps": "INT32", "guidance": "FP32", "scheduler": "BYTES"}
    if isinstance(value, np.ndarray):
        kind = {"int64": "INT64", "float32": "FP32"}[str(value.dtype)]
        return {"name": name, "shape": value.shape, "datatype": kind, "data": value.tolist()}
    return {"name": name, "shape": [1], "datatype": kinds.get(name, "INT64"), "data": [value]}
