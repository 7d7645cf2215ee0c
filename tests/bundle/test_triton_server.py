"""A real Triton Inference Server over a repository that diffc wrote.

    scripts/triton_env.sh FOLDER && DIFFC_TRITON_ENV=FOLDER pytest -m slow tests/bundle

Where the server's build lacks the onnxruntime backend, the denoiser runs in the python backend's
stand-in (same inputs, outputs and batching) and the config for the real backend is validated
offline; the report's header says which it was.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import triton_server
from support.triton_server import Server

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc] (diffc[triton])")

import tritonclient.grpc as client

from diffc.bundle import triton, triton_check
from diffc.bundle.build import write_bundle
from diffc.bundle.served import measure_server
from diffc.errors import UnavailableError
from diffc_runtime import open_bundle, to_uint8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        triton_server.environment() is None,
        reason=f"{triton_server.VARIABLE} is not set; scripts/triton_env.sh makes the server",
    ),
]

MODELS = ("pipeline", "pipeline_bls")


def repository(out: Path, to: Path) -> Path:
    """The bundle, its engine models replaced by stand-ins where this server cannot run them."""
    made = write_bundle(out, to, server="triton")
    assert triton_check.find_problems(to) == []  # as generated, for the real backend
    if not triton_server.has_backend("onnxruntime"):
        engines = out / "engines" / "ort-cpu"
        triton.stand_in(to, "denoiser", engines / "compressed")
        if "decoder" in made.models:
            triton.stand_in(to, "decoder", engines / "decoder")
    return to


@pytest.fixture(scope="module")
def local(out, tmp_path_factory):
    """The same engine in this process."""
    to = tmp_path_factory.mktemp("local") / "bundle"
    write_bundle(out, to, server="none")
    return open_bundle(to, threads=1)


@pytest.fixture(scope="module")
def server(out, tmp_path_factory) -> Iterator[Server]:
    """A server with every model loaded."""
    running = Server(repository(out, tmp_path_factory.mktemp("served") / "repo")).start()
    yield running
    assert running.stop() == 0


def grpc_inputs(**values):
    kinds = {"n": np.int32, "steps": np.int32, "guidance": np.float32}
    made = []
    for name, value in values.items():
        array = np.array([value], kinds.get(name, np.int64))
        tensor = client.InferInput(name, [1], client.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def ask_grpc(server: Server, model: str, output: str = "images", **values) -> np.ndarray:
    with client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as channel:
        return channel.infer(model, grpc_inputs(**values)).as_numpy(output)


def test_health_and_metadata(server):
    assert server.is_ready()
    with client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as channel:
        assert channel.is_server_live()
        for model in ("denoiser", *MODELS):
            assert channel.is_model_ready(model)
        config = channel.get_model_config("denoiser").config
    real = triton_server.has_backend("onnxruntime")
    assert config.platform == ("onnxruntime_onnx" if real else "")
    assert config.backend == ("onnxruntime" if real else "python")


@pytest.mark.parametrize("model", MODELS)
def test_images_equal_the_local_ones(server, local, model):
    samples = local.generate(6, 5, 42)
    status, images = server.ask(model, n=6, steps=5, seed=42)
    assert status == 200
    np.testing.assert_array_equal(images, to_uint8(samples))
    np.testing.assert_allclose(
        ask_grpc(server, model, "samples", n=6, steps=5, seed=42), samples, atol=1e-6
    )
    np.testing.assert_array_equal(
        ask_grpc(server, model, n=2, steps=5, seed=42, first=3), images[3:5]
    )
    assert np.abs(images.astype(int) - ask_grpc(server, model, n=6, steps=5, seed=43)).max() > 9


@pytest.mark.parametrize("model", MODELS)
def test_another_scheduler(server, local, model):
    status, images = server.ask(model, n=2, steps=5, seed=1, scheduler="dpm++")
    assert status == 200
    np.testing.assert_array_equal(images, to_uint8(local.generate(2, 5, 1, "dpm++")))


def test_the_bundled_client(server, local, tmp_path):
    parts = triton_server.environment()
    command = [
        f"{parts.path}/python", str(server.repository / "client.py"),
        "--url", f"127.0.0.1:{server.http}", "--n", "3", "--steps", "4", "--seed", "9",
    ]  # fmt: skip
    pictures, arrays = ([*command, "--out", name] for name in ("a.png", "images.npy"))
    subprocess.run(pictures, cwd=tmp_path, check=True, timeout=120)
    subprocess.run(arrays, cwd=tmp_path, check=True, timeout=120)
    expected = to_uint8(local.generate(3, 4, 9))
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a-2.png")), expected[2])
    again = subprocess.run(pictures, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.stderr.startswith("error: a-0.png exists: name another file with --out")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"steps": 10_000}, "steps must be a whole number from 1 to 1000, not 10000"),
        ({"n": 0}, "number of images"),
        ({"n": 5000}, "from 1 to 1024"),
        ({"seed": -1}, "seed must be"),
        ({"scheduler": "plms"}, "unknown scheduler 'plms'"),
        ({"guidance": 2.0}, "needs a model with conditions"),
        ({"seed": np.array([1, 2])}, ""),
        ({"colour": 1}, "unexpected inference input 'colour'"),
        ({"steps": np.array([1.5], np.float32)}, "data-type"),
    ],
)
def test_a_wrong_request_gets_an_error_and_the_server_lives_on(server, local, model, wrong, says):
    status, error = server.ask(model, **{"n": 1, "steps": 2, "seed": 3, **wrong})
    assert 400 <= status < 600
    assert says in error
    status, images = server.ask(model, n=1, steps=2, seed=3)
    assert status == 200
    np.testing.assert_array_equal(images, to_uint8(local.generate(1, 2, 3)))


def assert_batched(server: Server) -> None:
    """Steps of different requests ran together: fewer runs of the denoiser than requests to it."""
    with client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as channel:
        (found,) = channel.get_inference_statistics("denoiser").model_stats
    assert found.execution_count < 0.8 * found.inference_count


@pytest.mark.parametrize("model", MODELS)
def test_64_clients_for_30_seconds(server, local, model):
    """Every answer is the one that was asked for."""
    expected = to_uint8(local.generate(64, 3, 5))
    wrong: list[str] = []
    counts = [0] * 64
    end = time.monotonic() + 30

    def work(index: int) -> None:
        image = index
        with client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as channel:
            while time.monotonic() < end and not wrong:
                asked = grpc_inputs(n=1, steps=3, seed=5, first=image)
                try:
                    got = channel.infer(model, asked).as_numpy("images")
                except Exception as error:
                    wrong.append(f"client {index}: {error}")
                    return
                if not np.array_equal(got[0], expected[image]):
                    wrong.append(f"client {index} got another image than {image}")
                counts[index] += 1
                image = (image + 7) % 64

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(counts) > 0
    if model == "pipeline_bls":
        assert_batched(server)
    print(f"{model}: {sum(counts)} answers for 64 clients in 30 s")


def assert_the_readmes_command_works(running: Server, tmp_path: Path, *more: str) -> None:
    """Its client line, conditions and all, and a wrong request in one line."""
    (shell,) = re.findall(
        r"```bash\n(pip install .*?)```", (running.repository / "README.md").read_text(), re.S
    )
    python = f"{triton_server.environment().path}/python"
    url = f"127.0.0.1:{running.http}"
    lines = [line.replace("localhost:8000", url) for line in shell.splitlines()[1:]]
    lines[-1] += " --guidance 2 " + " ".join(more)
    script = "set -e\n" + "\n".join(lines).replace("python ", f"{python} ").replace(
        "client.py", str(running.repository / "client.py")
    )
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=120)
    assert Image.open(tmp_path / "a-3.png").size == (8, 8)
    wrong = subprocess.run(
        [python, running.repository / "client.py", "--url", url, *more],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert wrong.returncode == 1
    (line,) = wrong.stderr.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("model", MODELS)
def test_conditions_and_guidance(conditional_out, tmp_path, model):
    write_bundle(conditional_out, tmp_path / "local", server="none")
    text = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    given = {"class_labels": np.array([4, 5, 6]), "encoder_hidden_states": text}
    samples = open_bundle(tmp_path / "local", 1).generate(
        3, 4, 2, guidance=2.5, conditions=given
    )  # the engine's largest batch is 2: guidance takes it one image at a time
    running = Server(repository(conditional_out, tmp_path / "repo")).start()
    try:
        status, images = running.ask(model, n=3, steps=4, seed=2, guidance=2.5, **given)
        assert (status, images.shape) == (200, (3, 8, 8, 3))
        np.testing.assert_array_equal(images, to_uint8(samples))
        short = {**given, "class_labels": np.array([4, 5])}
        status, error = running.ask(model, n=3, steps=4, seed=2, **short)
        assert status >= 400
        assert "must have shape (3,) or ()" in error
        status, error = running.ask(model, n=3, steps=4, class_labels=given["class_labels"])
        assert status >= 400
        assert_the_readmes_command_works(running, tmp_path, *(["--bls"] * (model != "pipeline")))
        no_class = {**given, "class_labels": np.array([4, 5000, 6])}
        status, error = running.ask(model, n=3, steps=4, seed=2, **no_class)
        assert status >= 400
        assert "idx=5000" in error and "Traceback" not in error and str(tmp_path) not in error
        assert running.ask(model, n=3, steps=4, seed=2, **given)[0] == 200
    finally:
        assert running.stop() == 0


def test_latents_through_the_decoder(latent_out, tmp_path):
    write_bundle(latent_out, tmp_path / "local", server="none")
    expected = to_uint8(open_bundle(tmp_path / "local", 1).generate(3, 2, 1))
    running = Server(repository(latent_out, tmp_path / "repo")).start()
    try:
        for model in MODELS:
            np.testing.assert_array_equal(running.ask(model, n=3, steps=2, seed=1)[1], expected)
    finally:
        assert running.stop() == 0


def test_stop_and_start(out, local, tmp_path):
    expected = to_uint8(local.generate(1, 2, 0))
    running = Server(repository(out, tmp_path / "repo"))
    for _ in range(2):
        running.start()
        np.testing.assert_array_equal(running.ask("pipeline", n=1, steps=2, seed=0)[1], expected)
        assert running.stop() == 0
        assert not running.is_ready()


def test_unload_and_load_while_requests_run(out, local, tmp_path):
    """A request gets its image, or an error that says the model is away; never a wrong image."""
    expected = to_uint8(local.generate(1, 3, 5))
    arguments = ["--model-control-mode=explicit", "--load-model=*"]
    running = Server(repository(out, tmp_path / "repo"), *arguments).start()
    answers: list[tuple[int, bool]] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            status, images = running.ask("pipeline", n=1, steps=3, seed=5)
            right = status == 200 and np.array_equal(images, expected)
            answers.append((status, right))

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(1)
            assert running.post("/v2/repository/models/pipeline/unload", {})[0] == 200
            time.sleep(0.5)
            assert running.post("/v2/repository/models/pipeline/load", {})[0] == 200
        time.sleep(1)
        count = len(answers)
        assert running.ask("pipeline", n=1, steps=3, seed=5)[0] == 200
        time.sleep(1)
        after = answers[count + 4 :]
    finally:
        done.set()
        for thread in threads:
            thread.join()
        assert running.stop() == 0
    assert all(right for status, right in answers if status == 200)
    assert any(status != 200 for status, _ in answers)
    assert after
    assert all(right for _, right in after)


def test_a_broken_repository_does_not_start(out, tmp_path):
    """By default one bad model ends the server: the offline check finds it first."""
    to = repository(out, tmp_path / "repo")
    path = to / "pipeline" / "config.pbtxt"
    path.write_text(path.read_text().replace('name: "pipeline"', 'name: "other"', 1))
    assert triton_check.find_problems(to) != []
    with pytest.raises(UnavailableError, match="tritonserver ended"):
        Server(to).start()


def test_served_figures(server):
    found = measure_server(
        f"127.0.0.1:{server.grpc}", "pipeline", steps=3, concurrency=(1, 4), seconds=2
    )
    assert [entry["concurrency"] for entry in found["levels"]] == [1, 4]
    for entry in found["levels"]:
        latency = entry["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert entry["errors"] == 0
        assert entry["requests"] > 0
        # a client waits for its answer before it asks again: Little's law
        expected = entry["concurrency"] / latency["mean"] * 1e3
        assert entry["throughput_per_s"] == pytest.approx(expected, rel=0.2)
