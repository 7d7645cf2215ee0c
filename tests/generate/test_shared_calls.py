"""Loops in several threads share the engine's calls, and each gets its own images."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from diffc_runtime import Pipeline, bundles
from diffc_runtime.shared_calls import SharedCalls
from diffc_runtime.values import Input

SHAPE = (3, 4, 4)
INPUTS = (
    Input("sample", SHAPE, kind="sample"),
    Input("timestep", (), "int64", "timestep"),
    Input("label", (), "int64"),
)


class Engine:
    """A denoiser of one multiplication, which keeps the sizes of its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.inside = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, inputs):
        self.inside += 1
        assert self.inside == 1, "two threads at once"
        self.gate.wait(10)
        self.sizes.append(len(inputs["sample"]))
        if (inputs["label"] == 13).any():
            self.inside -= 1
            raise ValueError("label 13")
        factor = (inputs["label"] + inputs["timestep"] % 7 + 1).reshape(-1, 1, 1, 1)
        output = np.tanh(inputs["sample"] * factor / 10).astype(np.float32)
        self.inside -= 1
        return output


def pipeline(denoise, batches=((1, 8),)) -> Pipeline:
    return Pipeline(denoise, {}, SHAPE, inputs=INPUTS, batches=batches, unconditional={"label": 0})


def test_different_requests_share_calls_and_get_their_own_images():
    engine = Engine()
    alone, shared = pipeline(Engine()), SharedCalls(engine, [(1, 8)])
    together = pipeline(shared)
    wanted = [
        {"n": 1, "steps": 3 + i % 4, "seed": i, "guidance": (1.0, 2.5)[i % 2],
         "conditions": {"label": i % 5}}
        for i in range(12)
    ]  # fmt: skip
    with ThreadPoolExecutor(12) as pool:
        samples = list(pool.map(lambda one: together.generate(**one), wanted))
    for one, ours in zip(wanted, samples, strict=True):
        np.testing.assert_array_equal(ours, alone.generate(**one))
    assert max(engine.sizes) == shared.most_rows <= 8
    rows = sum((1 + i % 2) * (3 + i % 4) for i in range(12))
    assert sum(engine.sizes) == rows and len(engine.sizes) < rows


def test_a_gathered_batch_has_a_size_that_the_engine_serves():
    engine = Engine()
    shared = SharedCalls(engine, [(1, 1), (4, 4)])
    engine.gate.clear()
    call = {"sample": np.ones((1, *SHAPE), np.float32), "timestep": np.array([3])}
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(shared, {**call, "label": np.array([i])}) for i in range(4)]
        while len(shared._waiting) < 3:
            pass
        engine.gate.set()
        outputs = [answer.result() for answer in answers]
    assert sorted(engine.sizes) == [1, 4]  # three that waited, padded to four
    for i, output in enumerate(outputs):
        np.testing.assert_array_equal(output, Engine()({**call, "label": np.array([i])}))


def test_an_engine_that_the_first_call_opens_is_opened_once(tmp_path, monkeypatch):
    (tmp_path / "engine.json").write_text("{}")
    folders = []

    def slow(folder, threads):
        folders.append(folder)
        time.sleep(0.1)
        specs = tuple(Input(name, SHAPE) for name in ("sample", "image", "mask"))
        return SimpleNamespace(inputs=specs, batches=((1, 8),), run=lambda rows: rows["sample"])

    monkeypatch.setattr(bundles, "open_engine", slow)
    decode, given = bundles.masked_decoder_of(tmp_path), np.ones((1, *SHAPE), np.float32)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: decode(given, given, given), range(4)))
    assert folders == [tmp_path] and len(images) == 4


def test_an_error_is_its_own_requests_alone():
    engine = Engine()
    shared = SharedCalls(engine, [(1, 8)])
    together = pipeline(shared)
    engine.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        answers = [
            pool.submit(together.generate, 1, 2, i, conditions={"label": 13 if i == 3 else i})
            for i in range(6)
        ]
        while len(shared._waiting) < 5:
            pass
        engine.gate.set()
        for i, answer in enumerate(answers):
            if i == 3:
                with pytest.raises(ValueError, match="label 13"):
                    answer.result()
            else:
                expected = pipeline(Engine()).generate(1, 2, i, conditions={"label": i})
                np.testing.assert_array_equal(answer.result(), expected)
