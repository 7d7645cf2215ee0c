"""The folder for OpenVINO Model Server: what the server reads, and the client's loop against a
stand-in that speaks its protocol with the folder's own models. The real server is not here."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_engines

from diffc.bundle.build import write_bundle
from diffc.errors import RequestError
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import BadRequest, UnfitEngine, open_bundle, to_uint8
from diffc_runtime.servers.ovms import client

ov = pytest.importorskip("openvino", reason="needs openvino (diffc[openvino])")


@pytest.fixture(scope="module")
def openvino_out(tmp_path_factory) -> Path:
    """OUT of a latent model with openvino engines."""
    out = tmp_path_factory.mktemp("ovms") / "out"
    engines = out / "engines" / "openvino"
    for name, graph, more in (
        ("compressed", tiny_engines.graph(conditions=False), {}),
        ("decoder", tiny_engines.decoder_graph(), {"scaling_factor": 0.5}),
    ):
        source = tiny_engines.onnx_folder(out / "onnx" / name, graph, **more)
        options = BuildOptions(batch=(1, 2), one_profile=True, threads=1)
        drain(target("openvino").build(source, options, engines / name))
    return out


@pytest.fixture(scope="module")
def folder(openvino_out, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("served") / "models"
    made = write_bundle(openvino_out, to, server="ovms")
    assert made.models == ("denoiser", "decoder")
    return to


@pytest.fixture
def url(folder):
    with serving(folder) as address:
        yield address


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """What answers every request with the same bytes."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1 << 16)
            self.request.sendall(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """What OpenVINO Model Server does with config.json: each model's newest version, asked for by
    the KServe protocol."""
    config = json.loads((folder / "config.json").read_text())
    models = {}
    for entry in config["model_config_list"]:
        base = folder / Path(entry["config"]["base_path"]).relative_to("/models")
        newest = max(base.iterdir(), key=lambda path: int(path.name))
        models[entry["config"]["name"]] = ov.Core().compile_model(
            newest / "model.xml", "CPU", entry["config"]["plugin_config"]
        )

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model = models[self.path.split("/")[3]]
            kinds = {"FP32": np.float32, "INT64": np.int64}
            given = {i["name"]: np.array(i["data"], kinds[i["datatype"]]).reshape(i["shape"])
                     for i in body["inputs"]}  # fmt: skip
            array = model(given)[body["outputs"][0]["name"]]
            found = {"name": "x", "shape": array.shape, "data": array.ravel().tolist()}
            content = json.dumps({"outputs": [found]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def asked(folder: Path, url: str, out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "client.py", "--url", url, "--out", str(out), *more]
    return subprocess.run(command, cwd=folder / "client", capture_output=True, text=True)


@pytest.mark.slow
def test_the_clients_images_are_the_bundles_own(folder, url, openvino_out, tmp_path):
    done = asked(folder, url, tmp_path / "images.npy", "--n", "3", "--steps", "4", "--seed", "7")
    assert done.returncode == 0, done.stderr
    write_bundle(openvino_out, tmp_path / "plain", server="none")
    expected = open_bundle(tmp_path / "plain", threads=1).generate(3, 4, 7)
    found = np.load(tmp_path / "images.npy")
    assert found.shape == expected.shape and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1 / 255)
    asked(folder, url, tmp_path / "a.png", "--n", "3", "--steps", "4", "--seed", "7")
    picture = np.asarray(Image.open(tmp_path / "a-2.png")).astype(int)
    assert np.abs(picture - to_uint8(expected)[2].astype(int)).max() <= 1


@pytest.mark.slow
def test_the_readmes_command_works_for_a_conditional_model(tmp_path):
    source = tiny_engines.onnx_folder(tmp_path / "onnx", tiny_engines.graph(conditions=True))
    options = BuildOptions(batch=(1, 2), one_profile=True, threads=1)
    drain(target("openvino").build(source, options, tmp_path / "engine"))
    write_bundle(tmp_path / "engine", tmp_path / "models", server="ovms")
    (shell,) = re.findall(
        r"```bash\n(cd client.*?)```", (tmp_path / "models/README.md").read_text(), re.S
    )
    with serving(tmp_path / "models") as url:
        none = " --guidance 2 --unconditional class_labels=1"
        none += " --unconditional encoder_hidden_states=encoder_hidden_states.npy"
        script = shell.rstrip().replace("http://localhost:8000", url) + none
        script = "set -e\n" + script.replace("python ", f"{sys.executable} ")
        subprocess.run(["bash", "-c", script], cwd=tmp_path / "models", check=True)
        assert np.asarray(Image.open(tmp_path / "models/client/a-3.png")).shape == (8, 8, 3)
        wrong = asked(tmp_path / "models", url, tmp_path / "x.npy", "--condition", "class_labels=x")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == [
        "error: condition 'class_labels' is neither a number nor an .npy: 'x'"
    ]


@pytest.mark.slow
def test_a_server_that_is_not_there_and_a_wrong_request_are_one_line(folder, url, tmp_path):
    gone = asked(folder, "http://127.0.0.1:9", tmp_path / "x.npy")
    assert gone.returncode == 1 and gone.stderr.startswith(
        "error: no server answers at http://127.0.0.1:9"
    )
    wrong = asked(folder, url, tmp_path / "x.npy", "--steps", "0")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: steps must")
    assert len(gone.stderr.splitlines()) == len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\0\0\x12\x04\0\0\0\0\0", r"speaks no REST of a model server \(.*\)$"),  # gRPC's port
        (b"HTTP/1.1 200 OK\r\n\r\n<html>\n", r"speaks no REST of a model server \(.*\)$"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "gives no output of a model$"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"outputs": []}', "gives no output of a model$"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>\n<body>no\n", "/infer: <html> <body>no$"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "/infer: HTTP Error 404: Not Found$"),
        (b"", "no server answers at .*: Remote end closed connection"),
    ],
)
def test_what_is_no_model_server_is_one_line(content, says):
    with answering(content) as url, pytest.raises(UnfitEngine, match=says) as caught:
        client.model_call(url, "denoiser", "x")({"sample": np.zeros((1, 2), np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "file:///models", "models"])
def test_what_is_no_address_is_one_line(url):
    with pytest.raises(BadRequest, match=f"address is http://HOST:PORT, not '{url}'"):
        client.open_server(url)


def test_another_targets_engine_is_refused(out, tmp_path):
    with pytest.raises(RequestError, match="not an engine for 'ort-cpu'"):
        write_bundle(out, tmp_path / "models", server="ovms")
    assert not (tmp_path / "models").exists()
