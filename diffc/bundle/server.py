"""A tritonserver on this machine, started over a model repository and stopped again.

It is found through DIFFC_TRITON_ENV, a folder that scripts/triton_env.sh made (nvidia-pytriton's
server), or as ``tritonserver`` on PATH with its backends beside it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import UnavailableError, in_short

VARIABLE = "DIFFC_TRITON_ENV"


@dataclass(frozen=True)
class TritonInstall:
    """The places of a server's parts.

    Attributes:
        program: The executable.
        backends: The folder of the backends.
        path: Folders to put before PATH, for the server's Python models.
        libraries: The value of LD_LIBRARY_PATH.
    """

    program: Path
    backends: Path
    path: str = ""
    libraries: str = ""

    def has_backend(self, name: str) -> bool:
        """True if the server's build includes the backend."""
        return (self.backends / name).is_dir()


def find_triton() -> TritonInstall | None:
    """Return the server of this machine, or None."""
    folder = os.environ.get(VARIABLE)
    if folder and (Path(folder) / "env.sh").is_file():
        lines = (Path(folder) / "env.sh").read_text("utf-8").splitlines()
        variables = dict(line.split("=", 1) for line in lines if "=" in line)
        return TritonInstall(
            program=Path(variables["TRITON_SERVER"]),
            backends=Path(variables["TRITON_BACKENDS"]),
            path=variables["TRITON_PATH"],
            libraries=variables["TRITON_LIBRARIES"],
        )
    program = shutil.which("tritonserver")
    if program is None:
        return None
    return TritonInstall(Path(program), Path(program).resolve().parents[1] / "backends")


def why_no_triton() -> str | None:
    """Return why no server can be started here, in one line; None if one can."""
    if find_triton() is not None:
        return None
    return f"no tritonserver here: it is not on PATH, and {VARIABLE} names no folder with one"


class TritonServer:
    """One tritonserver process over ``repository``, on its own ports."""

    def __init__(self, repository: Path, *arguments: str) -> None:
        self.repository, self.arguments = repository, arguments
        self.log = repository.parent / f"{repository.name}.log"
        self.http, self.grpc = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The HTTP address."""
        return f"http://127.0.0.1:{self.http}"

    def start(self, wait: bool = True, seconds: float = 120) -> TritonServer:
        """Start the server and wait until it is ready.

        Args:
            wait: False returns at once.
            seconds: The longest wait.

        Raises:
            UnavailableError: There is no server, or it did not start; the hint is the log's end.
        """
        parts = find_triton()
        if parts is None:
            raise UnavailableError(str(why_no_triton()))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(parts),
                env=_variables(parts),
                cwd=self.repository,  # its Python models import nothing of the user's folder
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_until_ready(seconds)
        return self

    def _command(self, parts: TritonInstall) -> Sequence[str]:
        return [
            str(parts.program),
            f"--model-repository={self.repository.resolve()}",
            f"--backend-directory={parts.backends}",
            "--http-address=127.0.0.1",
            f"--http-port={self.http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc}",
            "--allow-metrics=false",
            *self.arguments,
        ]

    def wait_until_ready(self, seconds: float = 120) -> None:
        """Return when every model is loaded.

        Args:
            seconds: The longest wait.

        Raises:
            UnavailableError: The server ended or took longer; the hint is the log's end.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                raise self._failed("ended")
            if self.is_ready():
                return
            time.sleep(0.2)
        self.stop()
        raise self._failed(f"was not ready in {seconds:.0f} s")

    def _failed(self, how: str) -> UnavailableError:
        """Return an error of one line, with the log's end as the hint."""
        end = self.log.read_text("utf-8", "replace")[-3000:].strip()
        last = in_short(end.splitlines()[-1]) if end else "its log is empty"
        return UnavailableError(f"tritonserver {how}: {last}", hint=end or None)

    def is_ready(self) -> bool:
        """True if the server reports that it is ready."""
        import urllib.request  # with ssl; every run asks this file whether there is a server

        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:  # URLError is one
            return False

    def stop(self) -> int:
        """End the server as Ctrl-C does, or kill it after a minute; return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def run_triton(repository: Path, *arguments: str) -> Iterator[TritonServer]:
    """Provide a server that is ready inside the block, and stop it afterwards."""
    server = TritonServer(repository, *arguments)
    try:
        yield server.start()
    finally:
        server.stop()


def _variables(parts: TritonInstall) -> dict[str, str]:
    variables = dict(os.environ)
    if parts.path:
        variables["PATH"] = os.pathsep.join([parts.path, os.environ.get("PATH", "")])
    if parts.libraries:
        variables["LD_LIBRARY_PATH"] = parts.libraries
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
