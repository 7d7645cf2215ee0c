"""A real tritonserver for the tests, from the folder that scripts/triton_env.sh made."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "DIFFC_TRITON_ENV"


def environment() -> dict[str, str] | None:
    """env.sh's values, or None where no environment is named."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    lines = (Path(folder) / "env.sh").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line)


def has_backend(name: str) -> bool:
    """Whether the server's build carries the backend."""
    found = environment()
    return bool(found) and (Path(found["TRITON_BACKENDS"]) / name).is_dir()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One tritonserver process over ``repository``."""

    def __init__(self, repository: Path, *arguments: str) -> None:
        self.repository, self.arguments = repository, arguments
        self.log = repository.parent / f"{repository.name}.log"
        self.http, self.grpc = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def start(self, wait: bool = True) -> Server:
        parts = environment()
        assert parts is not None
        command = [
            parts["TRITON_SERVER"],
            f"--model-repository={self.repository}",
            f"--backend-directory={parts['TRITON_BACKENDS']}",
            "--http-address=127.0.0.1", f"--http-port={self.http}",
            "--grpc-address=127.0.0.1", f"--grpc-port={self.grpc}",
            "--allow-metrics=false",
            *self.arguments,
        ]  # fmt: skip
        variables = {
            **os.environ,
            "PATH": f"{parts['TRITON_PATH']}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": parts["TRITON_LIBRARIES"],
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"tritonserver ended:\n{self.log.read_text()[-3000:]}")
            if self.ready():
                return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"tritonserver was not ready:\n{self.log.read_text()[-3000:]}")

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

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
