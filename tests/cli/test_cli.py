"""The command line: speed, codes, streams, and what a tired person reads."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys

import pytest
from support.command import diffc_in_process as diffc
from support.command import diffc_process
from support.pipelines import save_ddpm

from diffc.output import LOCK_FORMAT
from diffc.prune.plan import Cost, Plan
from diffc_export.targets import target

HEAVY = ("torch", "diffusers", "numpy", "pydantic", "onnxruntime", "onnx", "rich")


def test_help_imports_nothing_heavy():
    script = f"""
import sys
sys.argv = ["diffc", "--help"]
from diffc.cli import main
try: main()
except SystemExit: pass
sys.exit(",".join(set({HEAVY!r}) & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"imported {done.stderr}"
    assert "compile" in done.stdout


def test_help_answers_at_once():
    """In processor time, which other processes change little; bench/help.py has it by the clock.

    Beside an interpreter that does nothing, since machines differ by more than a factor of two: 25
    of these are .3 s where bench/results/help.json was measured.
    """
    resource = pytest.importorskip("resource")

    def seconds(run):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def nothing():
        subprocess.run([sys.executable, "-I", "-c", ""], check=True)

    times = [(seconds(lambda: diffc_process("--help")), seconds(nothing)) for _ in range(7)]
    assert statistics.median(helped / empty for helped, empty in times) < 25, times


@pytest.mark.parametrize(
    "verb", ["compile", "inspect", "plan", "prune", "distill", "export", "build", "bench",
             "eval", "check", "report", "bundle", "doctor", "recipes"],
)  # fmt: skip
def test_every_verb_has_help_with_an_example(verb):
    done = diffc_process(verb, "--help")
    assert done.returncode == 0
    assert f"diffc {verb}" in done.stdout or verb == "recipes"
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.parametrize("ratio", ["1", "-1"])
def test_a_ratio_out_of_range_is_one_line(tiny_model, tmp_path, ratio):
    done = diffc("compile", tiny_model, f"--ratio={ratio}", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        f"diffc: ratio {ratio} is not between 0 and 1 (0.5 removes half of the MACs)\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_ratio_that_is_no_number(tiny_model):
    done = diffc("compile", tiny_model, "--ratio", "abc")
    assert done.returncode == 2
    assert done.stderr == "diffc: --ratio abc: not a share such as 0.3 or 30%\n"


def test_a_ratio_out_of_reach_says_the_nearest(tiny_model, tmp_path):
    done = diffc("plan", tiny_model, "--ratio", "0.999")
    assert done.returncode == 2
    assert "ratio 0.999 cannot be reached: at most 0." in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target", "tensorrt"], "unknown target 'tensorrt'"),
        (["--precision", "fp12"], "--precision: fp12 is none of auto, fp32, fp16"),
        (["--batch", "1,x"], "--batch 1,x: not a list of whole numbers"),
        (["--recipe", "unet3d"], "unknown recipe 'unet3d'"),
        (["--recipe", "nowhere.yaml"], "there is no recipe file 'nowhere.yaml'"),
        (["--data", "nowhere"], "--data: there is nothing at '/"),
        (["--target", "trt"], "target 'trt' cannot build here"),
    ],
)
def test_wrong_requests_are_said_in_a_line_or_two(tiny_model, tmp_path, args, said):
    done = diffc("compile", tiny_model, *args, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--bundle", "trition"], "unknown server 'trition'"),
        (["--bundle", "ovms"], "not an engine for 'ort-cpu'"),
        (["--bundle", "none", "--target", "torch"], "an engine for 'torch' cannot be bundled"),
        (["--bundle", "none", "--recipe", "two.yaml"], "the recipe builds ort-cpu, openvino"),
        (["--bundle", "none"], "--bundle: out/bundle is not empty, and diffc did not make it"),
    ],
)
def test_a_bundle_that_cannot_be_is_refused_before_anything_is_run(
    tiny_model, tmp_path, monkeypatch, args, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text("build: {target: [ort-cpu, openvino]}\n")
    mine = tmp_path / "out" / "bundle" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    done = diffc("compile", tiny_model, *args, "--out", "out")
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [mine]


def test_a_model_that_no_sampler_serves_is_refused_before_anything_is_run(tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "LCMScheduler"}))
    done = diffc("compile", model, "--bundle", "none", "--out", tmp_path / "out")
    assert done.returncode == 2 and "no sampler for LCMScheduler" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_bad_model_is_refused(tmp_path):
    done = diffc("compile", tmp_path)
    assert done.returncode == 2 and "is not a diffusers model" in done.stderr


@pytest.mark.slow
def test_json_is_alone_on_stdout(tiny_model):
    done = diffc_process("plan", tiny_model, "--ratio", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert set(plan) >= {"model", "compressed", "groups"}
    assert set(plan["model"]) == {"params", "macs", "macs_paper"}


@pytest.mark.slow
def test_plan_needs_no_weights(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "model")
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    done = diffc("plan", copy, "--ratio", "0.3")
    assert done.returncode == 0 and "MACs" in done.stdout and done.stderr == ""


def test_plan_of_a_run_shows_what_was_decided(tmp_path):
    """OUT's plan.json, not a new plan of uniform widths: the model need not even be there."""
    out = tmp_path / "out"
    out.mkdir()
    model = {"name": "gone", "folder": "/gone", "class_name": "UNet2DModel", "digest": "0"}
    lock = {"format": LOCK_FORMAT, "model": model, "recipe": {}, "stages": {}}
    (out / "recipe.lock.yaml").write_text(json.dumps(lock))
    dense, compressed = (
        Cost(macs=3e6, params=1000, macs_paper=3e6),
        Cost(macs=1.5e6, params=321, macs_paper=1.5e6),
    )
    Plan((), dense, compressed, {"importance": {"method": "magnitude"}}).save(out / "plan.json")
    done = diffc("plan", out)
    assert done.returncode == 0, done.stderr
    assert "gone: parameters 1 k -> 321 (-67.9 %)" in done.stdout
    assert "nothing was ranked" not in done.stdout
    assert json.loads(diffc("plan", out, "--json").stdout)["compressed"]["params"] == 321
    assert diffc("plan", out, "--ratio", "0.3").returncode == 2  # a new plan needs the model


@pytest.mark.slow
def test_plan_compares_several_ratios(tiny_model):
    """Each as the plan of that ratio alone has it."""
    ratios = ("0.2", "40%")
    done = diffc("plan", tiny_model, "--ratio", ",".join(ratios), "--json")
    plans = json.loads(done.stdout)["plans"]
    assert [plan.pop("ratio") for plan in plans] == [0.2, 0.4]
    alone = [json.loads(diffc("plan", tiny_model, "--ratio", one, "--json").stdout)
             for one in ratios]  # fmt: skip
    assert plans == alone
    lines = diffc("plan", tiny_model, "--ratio", ",".join(ratios)).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["dense", "0.2", "0.4"]


def test_a_plan_takes_the_steps_of_the_trainings(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path))

    def stages(*flags):
        shown = json.loads(diffc("plan", "demo", "--json", *flags).stdout)
        return {one["stage"] for one in shown["estimates"]["stages"]}

    own = stages()
    assert "distill-loop" in own and not own & {"distill", "distill-blocks"}
    assert "distill" in stages("--distill-steps", "10")
    assert "distill-blocks" in stages("--block-steps", "10")


def test_a_plan_in_a_lower_precision_has_a_row_for_the_file_and_says_what_it_leaves_out(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path))
    shown = diffc("plan", "demo", "--target", "openvino", "--precision", "int8").stdout
    assert "precision-int8-asymmetric-dense" in shown
    assert "rows of int8 take every layer" in " ".join(shown.split())
    plain = diffc("plan", "demo", "--target", "openvino").stdout
    assert "precision-" not in plain and "take every layer" not in plain


def test_a_plan_with_automatic_precision_says_what_its_rows_are(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path))
    flags = ("--target", "openvino", "--target", "ort-cpu", "--precision", "auto")
    shown = " ".join(diffc("plan", "demo", *flags).stdout.split())
    tried = target("openvino").precisions()
    assert "rows of openvino have the most memory that fp32 or" in shown
    assert all(f"precision-{one}" in shown for one in ["int8-asymmetric"] if "int8" in tried)
    estimates = json.loads(diffc("plan", "demo", *flags, "--json").stdout)["estimates"]
    assert {name: set(one) for name, one in estimates["tried"].items()} == {
        name: set(target(name).precisions()) for name in ("openvino", "ort-cpu")
    }


def test_a_plan_takes_the_rank_of_low_rank_additions(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path))

    def estimates(*flags):
        shown = json.loads(diffc("plan", "demo", "--json", *flags).stdout)["estimates"]
        rows = {one["stage"]: one["memory_bytes"] for one in shown["stages"]}
        return shown["training_bytes"], rows["distill-loop"]

    whole, additions = estimates(), estimates("--distill-rank", "4")
    assert additions[0] < 0.7 * whole[0] and additions[1] < whole[1]


def test_memory_without_activations_has_a_mark_beside_others():
    from diffc.cli.estimates import columns_words, run_cells

    whole = {
        "seconds": None,
        "training_bytes": 164e6,
        "activations": True,
        "tried": {},
        "out_bytes": 73e6,
    }
    less = {**whole, "training_bytes": 88e6, "activations": False}
    assert run_cells(whole)[1] == "164 MB" and run_cells(less)[1] == "88 MB *"
    assert "(*: without activations" in columns_words([whole, less])
    assert "*" not in columns_words([whole])
    none = {**less, "training_bytes": None}
    assert run_cells(none)[1] == "-" and "*" not in columns_words([none])


def test_several_ratios_make_no_single_plan(tiny_model, tmp_path):
    done = diffc("plan", tiny_model, "--ratio", "0.2,0.3", "--out", tmp_path / "out")
    assert done.returncode == 2 and "--out holds one plan" in done.stderr
    assert not (tmp_path / "out").exists()


def test_inspect_lists_the_groups(tiny_model):
    done = diffc("inspect", tiny_model, "--json")
    groups = json.loads(done.stdout)["groups"]
    assert {"conv_in", "time_embedding.linear_1"} <= {group["name"] for group in groups}
    assert all(group["macs_per_channel"] > 0 for group in groups)


def test_inspect_shows_the_classes_of_a_model_with_labels(tmp_path):
    model = save_ddpm(tmp_path / "model", num_class_embeds=4)
    done = diffc("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout)["inputs"][-1]
    assert (labels["name"], labels["example"]) == ("class_labels", {"from": 0, "to": 3})


def test_doctor_says_what_works_and_why_not():
    done = diffc("doctor", "--json")
    targets = json.loads(done.stdout)["targets"]
    assert targets["ort-cpu"]["runnable"]
    assert "pip install" in targets["trt"]["reason"] or targets["trt"]["runnable"]


def test_recipes_are_listed_and_shown():
    assert "unet2d" in diffc("recipes").stdout
    shown = diffc("recipes", "show", "unet2d").stdout
    assert "family: UNet2DModel" in shown and "threshold: 0.05" in shown


def test_report_of_a_misspelt_folder_names_the_near_one(compiled, tmp_path):
    (tmp_path / "OUT").symlink_to(compiled[0])
    done = diffc("report", tmp_path / "OTU")
    assert done.returncode == 2 and f"there is no folder {tmp_path / 'OTU'}" in done.stderr
    assert f"did you mean {tmp_path / 'OUT'}?" in done.stderr
    assert "there is no report" in diffc("report", tmp_path / "other.json").stderr


def test_report_of_nothing(tmp_path):
    done = diffc("report", tmp_path)
    assert done.returncode == 2 and "there is no report" in done.stderr


def test_the_report_fits_80_columns(compiled):
    out, _, _ = compiled
    done = diffc_process("report", out, COLUMNS="80")
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"x\s+as\s+fast|no\s+speed-up\s+shown", done.stdout)  # as the timings were
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("verb", ["distill", "export"])
def test_a_stage_goes_on_by_another_recipe(verb, compiled, tmp_path, monkeypatch):
    """What an error's hint says to try, in a recipe, can be tried from the output folder."""
    from typer.testing import CliRunner

    from diffc.cli import stages
    from diffc.cli.app import app

    commands = []
    monkeypatch.setattr(stages, "run_chain", lambda command, *_, **__: commands.append(command))
    out, _, _ = compiled
    CliRunner().invoke(app, [verb, str(out), "--recipe", "gentler.yaml"], catch_exceptions=False)
    assert commands[0].recipe == "gentler.yaml"


def test_doctor_says_what_room_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "preflight").mkdir(parents=True)
    (tmp_path / "cache" / "preflight" / "a.json").write_bytes(b"x" * 1234)
    for fast, said in ((True, "bf16 is fast on this"), (False, "bf16 is not fast on this")):
        monkeypatch.setattr("diffc_runtime.machine.cpu.fast_bf16", lambda fast=fast: fast)
        words = " ".join(diffc("doctor").stdout.split())
        assert said in words and f"trains in {'bf16' if fast else 'fp32'} " in words
    assert "memory " in words and "next: diffc compile demo" in words
    assert f"cache {tmp_path / 'cache'}: 1.23 kB, " in words
