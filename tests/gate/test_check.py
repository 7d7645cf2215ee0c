"""diffc check on fake engines (known times) and real ones: verdicts, codes, what is refused."""

import itertools
import json
import random
import shutil
from types import SimpleNamespace

import pytest
from support.gate_folders import DIGEST, edit, make_engine, make_output

from diffc.measure import latency
from diffc_export.targets import fake


def check(run, *args):
    return run("check", *args, "--no-loop")


def figures(out):
    return {f["name"]: f for f in json.loads(out)["figures"]}


@pytest.mark.slow
def test_unchanged_passes(run, before, tmp_path):
    after = make_output(tmp_path / "after")
    code, out, _ = check(run, after, "--baseline", before, "--json")
    found = json.loads(out)
    assert code == 0 and found["verdict"] == "pass" and found["exit_code"] == 0
    rows = figures(out)
    assert rows["latency p50"]["verdict"] == "pass"
    assert rows["latency p50"]["ratio"] == pytest.approx(1, abs=0.03)
    assert rows["parity"]["verdict"] == "pass"
    assert rows["peak memory"]["verdict"] == "pass"
    assert rows["latency mean"]["verdict"] == "reported"
    assert found["noise"][0]["verdict"] == "pass" and not found["weaker"]


@pytest.mark.slow
@pytest.mark.parametrize(("macs", "code"), [(2_200_000_000, 1), (2_020_000_000, 0)])
def test_ten_percent_slower_is_found_and_one_is_not(run, before, tmp_path, macs, code):
    after = make_output(tmp_path / "after", macs=macs)
    found, out, err = check(run, after, "--baseline", before, "--json")
    assert found == code
    assert figures(out)["latency p50"]["ratio"] == pytest.approx(macs / 2e9, rel=0.02)
    if code:
        assert "REGRESSED: fake fp32 batch 1, latency p50" in err


@pytest.mark.slow
def test_the_limit_is_the_users(run, before, tmp_path):
    after = make_output(tmp_path / "after", macs=2_200_000_000)
    code, out, _ = check(run, after, "--baseline", before, "--max-slowdown", "20%", "--json")
    assert code == 0 and figures(out)["latency p50"]["limit"] == "+20%"


@pytest.mark.slow
def test_limits_come_from_the_recipe_too(run, before, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("check:\n  max_slowdown: 20%\n  min_ssim: 0.95\n")
    after = make_output(tmp_path / "after", macs=2_200_000_000)
    code, out, err = check(run, after, "--baseline", before, "--recipe", recipe, "--json")
    assert code == 1 and "samples, SSIM" in err
    assert figures(out)["latency p50"]["verdict"] == "pass"


def test_just_at_the_limit_is_inconclusive(run, before, tmp_path, monkeypatch):
    # by a clock of its own: a warm-up by the wall's takes another number of times in each run, and
    # one such run in thirty is decided
    ticks = itertools.count(0.0, 0.01)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), sleep=lambda _: None)
    monkeypatch.setattr(latency, "time", clock)
    noise = random.Random(0)
    monkeypatch.setattr(
        fake.FakeCall, "run", lambda self: self._seconds * noise.lognormvariate(0, 0.1)
    )
    after = make_output(tmp_path / "after", macs=2_100_000_000)
    code, _, err = check(run, after, "--baseline", before, "--json")
    assert code == 3 and "inconclusive: fake fp32 batch 1, latency p50" in err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_who_is_loaded_first_alternates_by_seed(run, before, tmp_path, monkeypatch, seed):
    after = make_output(tmp_path / "after", macs=2_200_000_000)
    order, load = [], fake.Fake.load

    def noted(self, folder, threads=None):
        order.append("candidate" if tmp_path / "after" in folder.parents else "baseline")
        return load(self, folder, threads)

    monkeypatch.setattr(fake.Fake, "load", noted)
    # slower whoever comes first: the names go with their engines
    assert check(run, after, "--baseline", before, "--seed", seed)[0] == 1
    first = ["baseline", "candidate"] if seed % 2 else ["candidate", "baseline"]
    assert order[:4] == ["baseline", "baseline", *first]  # the machine's fitness, then the pair


@pytest.mark.slow
def test_a_worse_ssim_fails(run, before, tmp_path):
    after = make_output(tmp_path / "after", ssim=0.5)
    assert check(run, after, "--baseline", before, "--min-ssim", "0.85")[0] == 1
    assert check(run, after, "--baseline", before, "--max-worse", "ssim=off")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ssim", "flags", "verdict"),
    [
        (0.548, (), "regressed"),
        (0.879, (), "regressed"),
        (0.88, (), "pass"),  # 0.9 - 0.02, which is no double
        (0.95, (), "pass"),
        (0.85, ("--max-worse", "ssim=0.05"), "pass"),
        (0.89, ("--max-worse", "ssim=0.005"), "regressed"),
        (0.548, ("--max-worse", "ssim=off"), "reported"),
        (0.88, ("--min-ssim", "0.85"), "pass"),
        (0.86, ("--min-ssim", "0.85"), "regressed"),  # both limits hold
        (0.86, ("--min-ssim", "0.85", "--max-worse", "ssim=off"), "pass"),
    ],
)
def test_quality_is_judged_against_the_baseline(run, before, tmp_path, ssim, flags, verdict):
    after = make_output(tmp_path / "after", ssim=ssim)
    code, out, _ = check(run, after, "--baseline", before, "--json", *flags)
    assert figures(out)["SSIM"]["verdict"] == verdict
    assert code == (1 if verdict == "regressed" else 0)


@pytest.mark.slow
def test_quality_of_other_samples_is_no_verdict(run, before, tmp_path):
    after = make_output(tmp_path / "after", ssim=0.5)
    edit(after / "report.json", lambda report: report["quality"]["ssim"].update(loop="ddim:7"))
    code, out, _ = check(run, after, "--baseline", before, "--json")
    assert code == 3 and figures(out)["SSIM"]["verdict"] == "inconclusive"
    assert "loop None before, ddim:7 now" in figures(out)["SSIM"]["note"]


@pytest.mark.slow
def test_what_stands_beside_the_figures_is_no_metric(run, before, tmp_path):
    """Samples of prompts name them, and each metric that was left out has its reason."""
    after = make_output(tmp_path / "after")
    beside = {"prompts": ["a red shoe", "a blue bag"], "absent": {"lpips": "no network"}}
    edit(after / "report.json", lambda report: report["quality"].update(beside))
    code, out, _ = check(run, after, "--baseline", before, "--json")
    assert code == 0
    assert "SSIM" in figures(out) and not {"prompts", "absent"} & set(figures(out))


@pytest.mark.slow
def test_a_quality_that_the_candidate_lost_is_no_pass(run, before, tmp_path):
    after = make_output(tmp_path / "after")
    edit(after / "report.json", lambda report: report.update(quality=None))
    code, out, _ = check(run, after, "--baseline", before, "--json")
    assert code == 3 and figures(out)["SSIM"]["verdict"] == "inconclusive"
    engine = after / "engines/fake/compressed"
    code, out, _ = check(run, engine, "--baseline", before, "--json")
    assert code == 0 and figures(out)["SSIM"]["verdict"] == "absent"


@pytest.mark.slow
def test_a_baseline_without_samples_is_said(run, before, tmp_path):
    after = make_output(tmp_path / "after", ssim=0.5)
    edit(before / "report.json", lambda report: report.update(quality=None))
    code, out, _ = check(run, after, "--baseline", before, "--json")
    assert code == 0 and figures(out)["SSIM"]["note"] == "the baseline has none to compare with"


@pytest.mark.slow
def test_a_stored_baseline_holds_quality_too(run, before, tmp_path):
    assert run("baseline", "save", before, "--to", tmp_path / "main", "--quiet")[0] == 0
    after = make_output(tmp_path / "after", ssim=0.5)
    assert check(run, after, "--baseline", tmp_path / "main")[0] == 1
    assert check(run, before, "--baseline", tmp_path / "main")[0] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ssim=-1", "is below 0"),
        ("ssmi=1", "unknown metric"),
        ("ssim", "not a limit such as"),
        ("ssim=abc", "--max-worse ssim: abc is not a number"),
    ],
)
def test_how_much_worse_may_not_be_anything(run, before, given, said):
    code, _, err = check(run, before, "--baseline", before, "--max-worse", given)
    assert code == 2 and said in err and "limits:" not in err
    assert "--max-worse" in err or "unknown metric" in err


@pytest.mark.slow
def test_progress_says_which_of_how_many(run, before):
    """A log has a line for each step, and the last one is the total."""
    lines = [
        line.strip() for line in check(run, before, "--baseline", before)[2].splitlines()
        if line.startswith("  ") and " of " in line and ": " in line and "fake" in line
    ]  # fmt: skip
    steps = [line.partition(":")[0] for line in lines if line[0].isdigit()]
    assert steps == [f"{number} of {len(steps)}" for number in range(1, len(steps) + 1)]
    assert len(steps) >= 3


@pytest.mark.slow
def test_any_metric_may_have_a_limit(run, before, tmp_path):
    after = make_output(tmp_path / "after", ssim=0.5)
    code, out, _ = check(run, after, "--baseline", before, "--limit", "ssim=0.85", "--json")
    assert code == 1 and figures(out)["SSIM"]["limit"] == ">= 0.85, -0.02"
    share = check(run, after, "--baseline", before, "--limit", "ssim=85%", "--json")[1]
    assert figures(share)["SSIM"]["limit"] == ">= 0.85, -0.02"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        *((limit, "not a limit such as lpips=0.1") for limit in ("ssim", "=", "=0.5", "ssim=")),
        ("ssim=abc", "--limit ssim: abc is not a number"),
        ("lpisp=1", "unknown metric"),
        ("latency=50%", "unknown metric"),
        ("ssim=0.5,ssim=0.9", "ssim has two limits, 0.5 and 0.9"),
    ],
)
def test_what_is_no_limit_of_a_metric_is_refused(run, before, limits, words):
    given = [part for limit in limits.split(",") for part in ("--limit", limit)]
    code, _, err = check(run, before, "--baseline", before, *given)
    assert code == 2 and words in err


def test_an_altered_engine_is_refused(run, before, tmp_path):
    after = make_engine(tmp_path / "after")
    (after / fake.FILE).write_text("2.0")
    code, _, err = check(run, after, "--baseline", before)
    assert code == 2 and "cut or altered" in err


@pytest.mark.slow
def test_parity_is_judged(run, tmp_path, monkeypatch):
    one, two = make_engine(tmp_path / "a"), make_engine(tmp_path / "b")
    monkeypatch.setattr(
        fake.FakeEngine, "__call__", lambda self, x: {"out_sample": 0 * x["sample"]}
    )
    code, _, err = check(run, one, "--baseline", two)
    assert code == 1 and "parity" in err and "zero" in err


@pytest.mark.slow
def test_an_unfit_machine_says_its_figures(run, before, tmp_path, monkeypatch):
    wild = random.Random(0)
    monkeypatch.setattr(fake.FakeCall, "run", lambda self: 0.02 * wild.lognormvariate(0, 2))
    code, out, err = check(run, before, "--baseline", before, "--json")
    assert code == 4
    assert "too noisy to judge" in err and "over 320 pairs" in err and "p90/p50" in err
    assert figures(out)["latency p50"]["verdict"] == "unfit"


@pytest.mark.parametrize(
    ("part", "key", "other"),
    [("device", "cpu", "Pentium"), ("device", "driver", "580.1"), ("versions", "fake", "0.9"),
     ("source", "class_name", "DiTTransformer2DModel")],
)  # fmt: skip
def test_other_engines_are_not_comparable_and_both_are_shown(
    run, before, tmp_path, part, key, other
):
    after = make_output(tmp_path / "after")
    engine = before / "engines/fake/compressed/engine.json"
    edit(engine, lambda content: content[part].update({key: other}))
    code, _, err = check(run, after, "--baseline", before)
    assert code == 4
    assert f"baseline {other}" in err and ", candidate " in err


def test_another_model_is_not_comparable(run, before, tmp_path):
    after = make_output(tmp_path / "after", digest="e" * 64)
    code, _, err = check(run, after, "--baseline", before)
    assert code == 4 and "eeeeeeeeeeee" in err and DIGEST[:12] in err


def test_engines_of_other_targets_are_not_comparable(run, before, tmp_path):
    after = make_engine(tmp_path / "after", "ort-cpu")
    code, _, err = check(run, after, "--baseline", before)
    assert code == 4 and "ort-cpu fp32" in err and "fake fp32" in err


@pytest.mark.parametrize("args", [(), ("--baseline", "x", "--baseline-report", "y")])
def test_one_baseline_has_to_be_given(run, before, args):
    code, _, err = check(run, before, *args)
    assert code == 2 and "give one of --baseline and --baseline-report" in err


def test_an_empty_folder(run, before, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = check(run, tmp_path / "empty", "--baseline", before)
    assert code == 2 and "is empty" in err
    code, _, err = check(run, before, "--baseline", tmp_path / "nowhere")
    assert code == 2 and "there is nothing at" in err and "diffc baseline save OUT" in err


def test_an_output_folder_without_engines(run, before, tmp_path):
    shutil.rmtree(before / "engines")
    code, _, err = check(run, before, "--baseline", before)
    assert code == 2 and "holds no engines" in err and "diffc build" in err


@pytest.mark.slow
def test_figures_alone_are_weaker(run, before, tmp_path):
    after = make_output(tmp_path / "after")
    code, out, _ = check(run, after, "--baseline-report", before / "report.json", "--json")
    found = json.loads(out)
    assert code == 0 and found["weaker"] and "not measured again" in found["notes"][0]
    slow = make_output(tmp_path / "slow", macs=2_200_000_000)
    assert check(run, slow, "--baseline-report", before / "report.json")[0] == 1


def test_figures_alone_of_another_machine_are_refused(run, before, tmp_path):
    edit(before / "report.json", lambda r: r["environment"].update(fingerprint="0123456789abcdef"))
    code, _, err = check(run, before, "--baseline-report", before / "report.json")
    assert code == 4 and "0123456789abcdef" in err and "here it is" in err


def test_a_nonsense_limit(run, before):
    code, _, err = check(run, before, "--baseline", before, "--max-slowdown", "0%")
    assert code == 2 and "--max-slowdown 0%" in err


@pytest.mark.slow
def test_real_engines(run, tmp_path):
    """Eight channels against sixty-four: no noise hides that."""
    small, large = (
        make_engine(tmp_path / name, "ort-cpu", channels=channels)
        for name, channels in (("small", 8), ("large", 512))
    )
    assert run("check", large, "--baseline", small, "--threads", "1")[0] == 1
    code, out, _ = check(run, small, "--baseline", large, "--threads", "1", "--json")
    assert code in (0, 4)  # 4: this machine may be too busy now to tell anything
    assert figures(out)["latency p50"]["ratio"] < 1
