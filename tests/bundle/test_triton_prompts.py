"""Prompts through a real Triton Inference Server: the local pipeline is the oracle.

As test_triton_server.py, it runs where DIFFC_TRITON_ENV names a server.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support import tiny_prompts, triton_server
from support.shared import common_cache
from support.triton_server import Server

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc] (diffc[triton])")

import tritonclient.grpc as client

from diffc.bundle import triton
from diffc.bundle.build import write_bundle
from diffc.bundle.contents import loras_folder
from diffc_runtime import Pipeline, open_bundle, to_uint8
from diffc_runtime.engines import read_info
from diffc_runtime.loras import EngineLora, WeightChange, find_weight

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        triton_server.environment() is None,
        reason=f"{triton_server.VARIABLE} is not set; scripts/triton_env.sh makes the server",
    ),
]

MODELS = ("pipeline", "pipeline_bls")
KINDS = {
    "condition_guidance": np.float32,
    "n": np.int32,
    "steps": np.int32,
    "guidance": np.float32,
    "height": np.int32,
    "width": np.int32,
}
STEPS = 2


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def text_out(request, tmp_path_factory) -> Path:
    """OUT of a pipeline with one text encoder, or two; of 16x16 and 16x24 pixels."""
    place = tmp_path_factory.mktemp("prompts")
    tiny_prompts.SAVERS[request.param](place / "model")
    sizes = [8, "8x12"]
    out = tiny_prompts.build_engines(
        place / "model", place / "out", common_cache(tmp_path_factory), sizes
    )
    add_lora(out / "engines" / "ort-cpu" / "dense")
    return out


def add_lora(engine: Path) -> None:
    """A LoRA `style` of the engine's largest weight, which doubles it."""
    content = (engine / "model.onnx").read_bytes()
    tensors = onnx.load_from_string(content).graph.initializer
    values = [onnx.numpy_helper.to_array(t) for t in tensors if len(t.dims) == 2]
    weight = max(values, key=lambda value: value.size)
    place = find_weight(content, weight)
    assert place is not None
    change = WeightChange("layer", "model.onnx", place[0], weight, np.eye(len(weight.T), dtype="f"))
    digests = {"model.onnx": read_info(engine)["files"]["model.onnx"]}
    EngineLora(digests, (change,)).write(loras_folder(engine) / "style.npz")


@pytest.fixture(scope="module")
def local(text_out, tmp_path_factory) -> Pipeline:
    to = tmp_path_factory.mktemp("local") / "bundle"
    write_bundle(text_out, to, server="none", side="dense")
    return open_bundle(to, threads=1)


def repository(out: Path, to: Path) -> Path:
    """The bundle, with stand-ins for the engine models that this server cannot run."""
    models = write_bundle(out, to, server="triton", side="dense").models
    engines = out / "engines" / "ort-cpu"
    for name in models if not triton_server.has_backend("onnxruntime") else ():
        engine = engines / ("dense" if name == "denoiser" else name)
        if engine.is_dir():
            triton.stand_in(to, name, engine)
    return to


@pytest.fixture(scope="module")
def server(text_out, tmp_path_factory) -> Iterator[Server]:
    running = Server(repository(text_out, tmp_path_factory.mktemp("served") / "repo")).start()
    yield running
    assert running.stop() == 0


def tensor(name: str, value: object) -> client.InferInput:
    """A tensor of texts or bytes, or of one number."""
    values = value if isinstance(value, list) else [value]
    if all(isinstance(one, (str, bytes)) for one in values):
        texts = [one.encode() if isinstance(one, str) else one for one in values]
        array = np.array(texts, np.object_)
    else:
        array = np.array(values, KINDS.get(name, np.int64))
    given = client.InferInput(name, array.shape, client.np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


def ask(server: Server, model: str, **values: object) -> tuple[np.ndarray, list[str]]:
    """The images of a request over gRPC, and its notes."""
    with client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as channel:
        answer = channel.infer(model, [tensor(*item) for item in values.items()])
    return answer.as_numpy("images"), [note.decode() for note in answer.as_numpy("notes")]


def near(images: np.ndarray, samples: np.ndarray) -> bool:
    """Whether images are those of samples; rounding may differ by one where batches differ."""
    return int(np.abs(images.astype(int) - to_uint8(samples)).max()) <= 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a red cat", None),
        ("a red cat", "a dog"),
        ("", None),
        ("\u732b \U0001f642 \u0645\u0631\u062d\u0628\u0627", ""),
        (["a red cat", "a blue house"], ["a dog", ""]),
        (["a red cat", "a blue house"], "a dog"),
    ],
)
def test_images_of_prompts_equal_the_local_ones(server, local, model, prompt, negative):
    given = {"prompt": prompt, **({} if negative is None else {"negative_prompt": negative})}
    images, notes = ask(server, model, n=2, steps=STEPS, seed=4, guidance=3.0, **given)
    samples = local.sample(
        prompt, negative, n=2, seed=4, num_inference_steps=STEPS, guidance_scale=3.0
    )
    assert near(images, samples) and notes == []
    assert images.std() > 1


def test_the_pipeline_makes_images_of_each_size(server, local):
    """Two sizes at the same time share no call; the model of steps has one size."""
    sizes = [(16, 24), (16, 16)] * 4
    with ThreadPoolExecutor(len(sizes)) as pool:
        answers = pool.map(
            lambda size: ask(server, "pipeline", prompt="a cat", steps=40, seed=2, width=size[1]),
            sizes,
        )
    for size, (images, _) in zip(sizes, answers, strict=True):
        assert images.shape == (1, *size, 3)
        samples = local.sample("a cat", seed=2, num_inference_steps=40, width=size[1])
        assert near(images, samples)
    with pytest.raises(client.InferenceServerException, match=r"not built for 24: .* width 16"):
        ask(server, "pipeline_bls", prompt="a cat", steps=STEPS, width=24)


@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_that_is_cut_has_a_note(server, local, model):
    images, notes = ask(server, model, prompt="x" * 90, steps=STEPS, guidance=1.0)
    assert any("longer than the 77 tokens that the model takes" in note for note in notes)
    with pytest.warns(UserWarning, match="longer than the 77 tokens"):
        samples = local.sample("x" * 90, num_inference_steps=STEPS, guidance_scale=1.0)
    assert near(images, samples)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "there is no prompt: give one, or "),
        ({"prompt": 7}, "'prompt' data-type is 'INT64'"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": b"\xff"}, "prompt is no text in UTF-8"),
        ({"prompt": "a", "scheduler": b"\xff"}, "scheduler is no text in UTF-8"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d", "e"]}, "has 3 texts and prompt 2"),
        ({"negative_prompt": "a"}, "negative_prompt needs a prompt"),
        ({"prompt": "a", "height": 64}, "not built for 64: it makes images of height 16"),
    ],
)
def test_a_wrong_prompt_gets_one_line_and_the_server_lives_on(server, model, wrong, says):
    with pytest.raises(client.InferenceServerException) as refusal:
        ask(server, model, steps=STEPS, **wrong)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)
    assert ask(server, model, prompt="a", steps=STEPS)[0].shape == (1, 16, 16, 3)


@pytest.fixture(scope="module")
def flux_out(tmp_path_factory) -> Path:
    """OUT of a pipeline whose network takes the scale of guidance; of 16x24 and 24x16 pixels."""
    place = tmp_path_factory.mktemp("flux")
    tiny_prompts.save_flux(place / "model")
    return tiny_prompts.build_engines(
        place / "model", place / "out", common_cache(tmp_path_factory), ["8x12", "12x8"]
    )


def test_guidance_goes_to_the_networks_input_where_it_has_one(flux_out, tmp_path):
    write_bundle(flux_out, tmp_path / "local", server="none", side="dense")
    local = open_bundle(tmp_path / "local", threads=1)
    running = Server(repository(flux_out, tmp_path / "repo")).start()
    options = {"seed": 4, "num_inference_steps": STEPS}
    try:
        for model in MODELS:
            shown = []
            for scale in (1.5, 9.0, None):
                more = {} if scale is None else {"guidance": scale}
                images, notes = ask(running, model, prompt="a cat", steps=STEPS, seed=4, **more)
                samples = local.sample("a cat", guidance_scale=scale, **options)
                assert near(images, samples) and notes == []
                shown.append(samples)
            assert np.abs(shown[0] - shown[1]).max() > 1e-3, "the scale counts"
            images, _ = ask(
                running, model, prompt="a cat", steps=STEPS, seed=4, guidance=1.5,
                condition_guidance=9.0,
            )  # fmt: skip
            assert near(images, shown[1])
        images, _ = ask(running, "pipeline", prompt="a cat", steps=STEPS, seed=4, height=24)
        assert images.shape == (1, 24, 16, 3)
        assert near(images, local.sample("a cat", height=24, width=16, **options))
        with pytest.raises(client.InferenceServerException, match="not built for 32"):
            ask(running, "pipeline", prompt="a cat", steps=STEPS, height=32)
    finally:
        assert running.stop() == 0


def test_each_request_has_a_lora_of_its_own(server, local):
    shown = {}
    for name in (None, "style", None, "style"):
        more = {} if name is None else {"lora": name}
        images, _ = ask(server, "pipeline", prompt="a cat", steps=STEPS, seed=4, **more)
        samples = local.sample("a cat", seed=4, num_inference_steps=STEPS, lora=name)
        assert near(images, samples)
        np.testing.assert_array_equal(images, shown.setdefault(name, images))
    assert np.abs(shown[None].astype(int) - shown["style"]).max() > 3, "the LoRA counts"
    for model, wrong in (
        ("pipeline", "unknown LoRA 'other': there are style"),
        ("pipeline_bls", "takes none"),
    ):
        with pytest.raises(client.InferenceServerException, match=wrong):
            ask(server, model, prompt="a cat", steps=STEPS, lora="other")


def test_a_short_request_does_not_wait_for_a_long_one(server, local):
    """Their steps share the engine, whatever prompts, steps and guidance they have."""
    order: list[str] = []

    def long() -> None:
        images, _ = ask(server, "pipeline", prompt="a cat", steps=400, seed=1, guidance=2.0)
        order.append("long")
        samples = local.sample("a cat", seed=1, num_inference_steps=400, guidance_scale=2.0)
        assert near(images, samples)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(long)
        for i in range(3):
            images, _ = ask(server, "pipeline", prompt=f"a dog {i}", steps=STEPS, seed=i)
            order.append("short")
            assert near(images, local.sample(f"a dog {i}", seed=i, num_inference_steps=STEPS))
        answer.result()
    assert order == ["short"] * 3 + ["long"]


def test_over_http_a_prompt_is_a_string_of_json(server, local):
    inputs = [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["a red cat"]}]
    inputs.append({"name": "steps", "shape": [1], "datatype": "INT32", "data": [STEPS]})
    status, content = server.post("/v2/models/pipeline/infer", {"inputs": inputs})
    (found,) = [output for output in content["outputs"] if output["name"] == "images"]
    images = np.array(found["data"], np.uint8).reshape(found["shape"])
    assert status == 200 and near(images, local.sample("a red cat", num_inference_steps=STEPS))
    inputs[0] = {"name": "prompt", "shape": [1], "datatype": "INT64", "data": [3]}
    status, content = server.post("/v2/models/pipeline/infer", {"inputs": inputs})
    assert status == 400 and "expects 'BYTES'" in content["error"]


def test_the_bundled_client_writes_a_picture_of_a_prompt(server, local, tmp_path):
    python = f"{triton_server.environment().path}/python"
    command = [
        python, str(server.repository / "client.py"), "a red cat", "x" * 90,
        "--url", f"127.0.0.1:{server.http}", "--steps", str(STEPS), "--guidance", "1",
        "--out", "a.png",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "note: a prompt is longer than the 77 tokens" in done.stderr
    samples = local.sample("a red cat", num_inference_steps=STEPS, guidance_scale=1.0)
    assert near(np.asarray(Image.open(tmp_path / "a-0.png"))[None], samples)
    assert (tmp_path / "a-1.png").is_file()


def test_without_its_tokenizer_a_model_names_it_and_lives_on(text_out, tmp_path):
    to = repository(text_out, tmp_path / "repo")
    for model in MODELS:
        for file in (to / model / "1" / "text").glob("tokenizer*"):
            file.unlink()
    running = Server(to).start()
    try:
        for model in MODELS:
            for _ in range(2):
                with pytest.raises(
                    client.InferenceServerException, match=r"tokenizer.* is missing"
                ):
                    ask(running, model, prompt="a", steps=STEPS)
    finally:
        assert running.stop() == 0


@pytest.mark.parametrize("model", MODELS)
def test_64_clients_with_prompts_steps_and_guidance_of_their_own(server, local, model):
    """For 30 seconds every answer is the one that was wanted."""
    wanted = [f"a {'red' if i % 2 else 'blue'} cat {i % 8}" for i in range(64)]
    options = [(1 + i % 3, (1.0, 2.0, 5.0)[i % 3]) for i in range(64)]
    expected = [
        local.sample(prompt, seed=i, num_inference_steps=steps, guidance_scale=scale)
        for i, (prompt, (steps, scale)) in enumerate(zip(wanted, options, strict=True))
    ]
    wrong: list[str] = []
    counts = [0] * 64
    end = time.monotonic() + 30

    def work(i: int) -> None:
        steps, scale = options[i]
        while time.monotonic() < end and not wrong:
            try:
                values = {"prompt": wanted[i], "seed": i, "steps": steps, "guidance": scale}
                images, _ = ask(server, model, **values)
            except client.InferenceServerException as error:
                wrong.append(f"client {i}: {error}")
                return
            if not near(images, expected[i]):
                wrong.append(f"client {i} got another image")
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and min(counts) > 0
