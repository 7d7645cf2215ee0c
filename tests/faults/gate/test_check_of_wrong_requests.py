"""A wrong request ends before anything is measured."""

from __future__ import annotations

import pytest
from support.gate_folders import (
    FAST,
    edit,
    figures_of,
)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--seed", "-1"), "seed"),
     (("--target", "ort_cpu"), "unknown target 'ort_cpu'"),
     (("--target", ""), "unknown target"),
     (("--batch", "0"), "--batch 0"),
     (("--batch", "7"), "--batch 7: no engine on both sides serves it"),
     (("--threads", "0"), "threads"),
     (("--threads", "100000"), "threads"),
     (("--most-seconds", "nan"), "seconds")],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--baseline", "--baseline-report"])
def test_a_wrong_request_ends_before_anything_is_measured(
    run, out, before, flags, words, flag, measured
):
    code, _, err = run("check", out, flag, before, *flags)
    assert code == 2 and words in err and not measured
    assert len(err.splitlines()[0]) < 200


def test_the_usual_loop_has_no_more_steps_than_the_model(run, out, before):
    for folder in (out, before):
        edit(
            folder / "engines/fake/compressed/engine.json",
            lambda c: c["source"]["scheduler"].update(num_train_timesteps=4),
        )
    code, said, _ = run("check", out, "--baseline", before, "--most-seconds", "1", "--json")
    timed = figures_of(said)["loop p50, 4 steps DDIM"]
    assert code != 2 and timed["baseline"] > 0 and timed["verdict"] != "absent"


@pytest.mark.parametrize("lock", ["format: 1\n", "format: 1\nmodel: 3\n", "[]\n", "format: [\n"])
@pytest.mark.parametrize("verb", ["check", "baseline"])
def test_a_lock_that_lacks_what_it_must_have(run, out, before, lock, verb, measured):
    (out / "recipe.lock.yaml").write_text(lock)
    args = {"check": ("check", out, "--baseline", before, *FAST), "baseline": (
        "baseline", "save", out, "--to", out.parent / "bl" / "x")}[verb]  # fmt: skip
    code, _, err = run(*args)
    assert code == 2 and "recipe.lock.yaml" in err and not measured


def test_a_damaged_reference_is_said_at_once(run, out, before, measured):
    (out / "onnx/compressed/reference.safetensors").write_bytes(b"cut")
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 2 and "reference.safetensors is damaged" in err and not measured
