"""An engine or a batch size that the candidate lost is no pass."""

from __future__ import annotations

import json

from support.gate_folders import (
    FAST,
    add_target,
    change_engine,
    figures_of,
    profiles_of,
)


def test_an_engine_that_the_candidate_lost_is_no_plain_pass(run, out, before):
    add_target(before, "ort-cpu")
    code, said, err = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 3 and figures_of(said)["latency p50"]["verdict"] == "pass"
    assert "ort-cpu fp32, engine: the baseline has it" in err
    assert run("check", out, "--baseline", before, "--target", "fake", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline", before, "--target", "ort-cpu", *FAST)
    assert code == 4 and "no engine of ort-cpu is on both sides" in err
    both = ("--target", "fake", "--target", "ort-cpu")
    code, _, err = run("check", out, "--baseline", before, *both, *FAST)
    assert code == 4 and "ort-cpu is not on both sides" in err


def test_nor_is_one_that_a_report_has(run, out, before):
    add_target(before, "ort-cpu")
    assert run("check", out, "--baseline-report", before, *FAST)[0] == 3
    assert run("check", out, "--baseline-report", before, "--target", "fake", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline-report", before, "--target", "openvino", *FAST)
    assert code == 4 and "no engine of openvino is on both sides" in err


def test_a_batch_size_that_it_lost_is_no_plain_pass(run, out, before):
    change_engine(before, profiles=profiles_of((1, 1), (4, 4)))
    change_engine(out, profiles=profiles_of((1, 1)))
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 3 and figures_of(said)["engine"]["batch"] == 4
    assert run("check", out, "--baseline", before, "--batch", "1", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline", before, "--batch", "4", *FAST)
    assert code == 2 and "--batch 4: no engine on both sides serves it" in err


def test_an_engine_that_only_the_candidate_has_is_a_note(run, out, before):
    add_target(out, "ort-cpu")
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 0
    assert "ort-cpu fp32 is not in the baseline: not judged" in json.loads(said)["notes"]
