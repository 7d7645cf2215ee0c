"""What is typed wrongly, what completion offers, and how help is laid out: diffc's own words."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
import typer
from support.command import diffc_in_process as diffc
from support.command import diffc_process

from diffc.cli.app import app
from diffc.cli.flags.completion import matching
from diffc.cli.flags.flag import GROUPS
from diffc.errors import RequestError
from diffc.recipe import Recipe, resolve

VERBS = ("compile", "inspect", "plan", "prune", "distill", "export", "build", "bench", "eval",
         "check", "report", "bundle", "generate", "doctor")  # fmt: skip


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (["compile"], ["compile needs MODEL", "compile MODEL; diffc compile -h says more"]),
        (["bundle", "OUT"], ["bundle needs --to FOLDER", "diffc bundle OUT --to FOLDER"]),
        (["clan"], ["there is no verb 'clan'", "did you mean diffc plan?"]),
        (["serve", "OUT"], ["there is no verb 'serve'", "did you mean diffc bundle?"]),
        (["compile", "demo", "--ratoi", "1"], ["has no option --ratoi", "did you mean --ratio?"]),
        (["compile", "demo", "--ratio"], ["--ratio needs a value", "-h"]),
        (["compile", "demo", "--quiet=1"], ["--quiet is a switch: it takes no value", "-h"]),
        (["compile", "demo", "--distill-steps", "x"],
         ["--distill-steps x: not a whole number such as 12"]),
        (["compile", "demo", "--distill-steps", "-5"],
         ["--distill-steps: -5 is too small: at least 0"]),
        (["compile", "demo", "--ratio", "abc"], ["--ratio abc: not a share such as 0.3 or 30%"]),
        (["compile", "demo", "--guidance", "a"], ["--guidance a: not a number such as 0.5"]),
        (["compile", "demo", "--seed", "-1"], ["--seed -1: a seed is a whole number from 0"]),
        (["compile", "demo", "--step", "5"], ["no option --step", "did you mean --distill-steps?"]),
        (["compile", "demo", "--metric", "lpips"],
         ["compile has no option --metric", "diffc eval; a recipe has it as quality.metrics"]),
        (["compile", "demo", "--images", "0"], ["no option --images", "of diffc search, eval"]),
        (["bundle", "OUT", "--images", "8", "--to", "b"],
         ["no option --images", "diffc search, eval"]),
        (["--verison"], ["there is no option --verison", "did you mean --version?"]),
        (["compile", "demo", "--recipe", "--out", "X"],
         ["--recipe needs a value", "--out follows it, which is an option"]),
        (["compile", "demo", "--recipe", "--out=X"], ["--recipe needs a value", "--out=X follows"]),
        (["compile", ""], ["MODEL is empty", "MODEL is a diffusers folder"]),
        (["compile", "demo", "--ratio", "0,3"], ["a comma parts several", "did you mean 0.3?"]),
        (["plan", "demo", "--ratio", "0,35"], ["--ratio 0,35: a comma", "did you mean 0.35?"]),
        (["compile", "demo", "--ratio", "0.3,,0.4"],
         ["--ratio: '0.3,,0.4' has nothing at one side of a comma; did you mean 0.3,0.4?"]),
        (["compile", "demo", "--target", "ort-cpu,"], ["--target: 'ort-cpu,' has nothing at one"]),
        (["compile", "demo", "--batch", "1,,4"], ["--batch: '1,,4' has nothing at one side"]),
        (["compile", "demo", "--resolution", ",32"], ["--resolution: ',32' has nothing at one"]),
        (["compile", "demo", "--gpu", "L4,,A100"], ["--gpu: 'L4,,A100' has nothing at one side"]),
        (["compile", "demo", "--loop", ","], ["--loop: ',' has nothing at one side of a comma"]),
        (["compile", "demo", "--batch", "0"], ["--batch: [0] has a size below 1"]),
        (["compile", "demo", "--loop", "ddim:0"], ["--loop: steps must be a whole number"]),
        (["compile", "demo", "--memory", "24"], ["--memory: 24 is no amount of memory"]),
        (["compile", "demo", "--fit", "many"], ["--fit: many is no amount of memory"]),
        (["cache", "show"], ["there is no verb 'show'", "diffc cache alone shows what there is"]),
        (["recipes", "list"], ["there is no verb 'list'", "diffc recipes alone shows"]),
        (["check", "A", "B"], ["check takes nothing more: B", "check CANDIDATE --baseline B"]),
        (["check", "A"], ["give one of --baseline", "diffc baseline save OUT"]),
        (["doctor", "x"], ["doctor takes nothing more: x", "diffc doctor -h"]),
        (["recipes", "shwo"], ["there is no verb 'shwo'", "did you mean diffc recipes show?"]),
        (["plan", "dmeo"], ["there is no folder 'dmeo'", "did you mean demo?"]),
        (["plan", "demo", "--allocate", "globl"],
         ["--allocate: globl is none of auto, uniform, global or latency (did you mean global?)"]),
        (["plan", "demo", "--recipe", "sd15"],
         ["recipe sd15 is for models of UNet2DConditionModel", "unet2d"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_what_would_do(args, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = diffc(*args)
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(said)) == (2, "", len(lines))
    assert said[0].startswith("diffc: ")
    for line, part in zip(said, lines, strict=True):
        assert part in line


def test_a_group_of_verbs_alone_shows_its_help():
    alone = diffc("baseline")
    assert alone.returncode == 0 and alone.stdout == diffc("baseline", "-h").stdout


def test_a_wrong_value_is_told_before_the_first_of_several_models_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr("diffc.cli.compile._check", None)
    done = diffc("compile", "demo", "--ratio", "0.3,7", "--out", tmp_path / "out")
    assert done.returncode == 2 and "ratio 7 is not between 0 and 1" in done.stderr


def test_help_and_version_are_words_too():
    assert diffc("help", "plan").stdout == diffc("plan", "--help").stdout
    assert diffc("help").stdout == diffc().stdout == diffc("-h").stdout
    assert diffc("version").stdout == diffc("--version").stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_its_options_in_groups_and_fits_80_columns(verb):
    text = diffc(verb, "-h", COLUMNS="80").stdout
    titles = re.findall(r"^(\w.*):$", text, re.M)
    groups = [title for title in titles if title != "Arguments"]
    assert groups == [group for group in GROUPS if group in groups]
    assert max(map(len, text.splitlines())) <= 80
    for noise in ("<", "default:", "{", "Options:", "[[]]"):
        assert noise not in text


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("words", [[], ["baseline"], ["cache"], ["compile"], ["generate"]])
def test_help_fits_a_narrow_terminal(words, columns):
    """All but the examples, which are typed as they stand."""
    text = diffc(*words, "-h", COLUMNS=str(columns)).stdout
    lines = [line for line in text.splitlines() if not line.startswith("    diffc ")]
    assert len(lines) > 5 and max(map(len, lines)) <= columns


def test_a_group_explains_its_verbs_in_whole_sentences():
    for columns in ("40", "80"):
        shown = {name: diffc(*name, "-h", COLUMNS=columns).stdout for name in [(), ("cache",)]}
        assert "Show what is kept to be reused, and clean it." in " ".join(shown[()].split())
        assert "beyond a size; never what a run uses now." in " ".join(shown["cache",].split())
        assert not any("..." in text.partition("Commands:")[2] for text in shown.values())


@pytest.mark.parametrize(
    ("given", "section", "option", "value"),
    [
        ({"prune": {"ratio": "30%"}}, "prune", "ratio", 0.3),
        ({"prune": {"ratio": "30 %"}}, "prune", "ratio", 0.3),
        ({"prune": {"allocate": "Uniform", "ratio_of": "MACs"}}, "prune", "ratio_of", "macs"),
        ({"distill": {"null_share": "20%"}}, "distill", "null_share", 0.2),
        ({"build": {"precision": "FP16"}}, "build", "precision", "fp16"),
        ({"build": {"target": ["ORT-CPU,openvino"]}}, "build", "target", ("ort-cpu", "openvino")),
        ({"build": {"target": "ort-cpu"}}, "build", "target", ("ort-cpu",)),
        ({"build": {"gpu": "L4, a100,RTX 4090"}}, "build", "gpu", ("sm89", "sm80", "sm89")),
        ({"build": {"gpu": ["8.6", "sm120"]}}, "build", "gpu", ("sm86", "sm120")),
        ({"build": {"batch": "1,4"}}, "build", "batch", (1, 4)),
        ({"quality": {"metrics": ["lpips,psnr"]}}, "quality", "metrics", ("lpips", "psnr")),
        ({"check": {"min_ssim": "85%"}}, "check", "min_ssim", 0.85),
    ],
)
def test_values_are_understood_as_people_write_them(given, section, option, value):
    assert getattr(getattr(resolve(family="", flags=given), section), option) == value


@pytest.mark.parametrize("ratio", ["%", "1.2.3%", "a%", "30%%"])
def test_what_is_no_share_is_refused(ratio):
    with pytest.raises(RequestError, match="is not a number"):
        resolve(family="", flags={"prune": {"ratio": ratio}})


def test_a_list_may_be_given_in_one_flag_or_in_several(tmp_path):
    for flags in (["--target", "ort-cpu,Fast"], ["--target", "ort-cpu", "--target", "Fast"]):
        done = diffc("compile", "demo", *flags, "--out", tmp_path / "out")
        assert "unknown target 'Fast'" in done.stderr


def completed(line: str) -> list[str]:
    """What bash is offered at the end of ``line``, by typer's own protocol."""
    variables = {"_DIFFC_COMPLETE": "complete_bash", "COMP_WORDS": line,
                 "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}  # fmt: skip
    command = "import sys; sys.argv = ['diffc']; from diffc.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True,
                          env={**os.environ, **variables})  # fmt: skip
    return done.stdout.split()


def test_completion_offers_values():
    assert "demo" in completed("diffc compile ")
    assert {"ort-cpu", "openvino", "trt"} <= set(completed("diffc compile demo --target "))
    assert completed("diffc compile demo --allocate glo") == ["global"]


def test_every_flag_with_values_offers_them():
    """Each of them by the function that typer calls, without a process each."""
    offered = {}
    for name in VERBS:
        for param in typer.main.get_command(app).commands[name].params:
            complete = param._custom_shell_complete
            if complete is not None:
                offered[name, param.name] = complete(None, param, "")
    words = {key: [getattr(item, "value", item) for item in items]
             for key, items in offered.items()}  # fmt: skip
    assert words["compile", "precision"] == ["auto", "fp32", "fp16", "bf16", "int8", "fp8"]
    assert {"sd15", "unet2d"} <= set(words["compile", "recipe"])
    assert {"L4", "sm89"} <= set(words["build", "gpu"])
    assert set(words["bundle", "server"]) == {"triton", "ovms", "none"}
    assert words["bundle", "side"] == ["compressed", "dense"]
    assert "lpips" in words["eval", "metric"]
    assert words["compile", "out"] == []
    assert {"ddim", "dpm++"} <= set(words["generate", "sampler"])


def test_completion_goes_on_after_a_comma():
    assert matching(["ort-cpu", "openvino", "trt"], "ort-cpu,o") == ["ort-cpu,openvino"]
    assert matching(["ort-cpu"], "ORT") == ["ort-cpu"]


def on_a_terminal(*args: object, **variables: str) -> bytes:
    """What ``diffc ARGS`` sends to a terminal on both streams."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "diffc", *map(str, args)]
    env = {**os.environ, "TERM": "xterm", **variables}
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env):
        os.close(follower)
        said = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the last writer has ended
                break
            if not part:
                break
            said += part
    os.close(leader)
    return said


@pytest.mark.slow
def test_no_codes_are_sent_where_none_are_wanted():
    assert b"\x1b[" in on_a_terminal("doctor")
    assert b"\x1b" not in on_a_terminal("doctor", NO_COLOR="1")
    assert b"\x1b" not in on_a_terminal("doctor", TERM="dumb")


def test_an_error_is_broken_between_words_in_a_terminal_and_whole_in_a_log():
    args = ("compile", "demo", "--target", "nope")
    whole = diffc(*args).stderr
    assert len(whole.splitlines()) == 1
    shown = on_a_terminal(*args, COLUMNS="40", NO_COLOR="1").decode().splitlines()
    assert len(shown) > 1 and max(map(len, shown)) <= 40
    assert " ".join(line.strip() for line in shown) == whole.strip()


@pytest.mark.slow
def test_answers_are_on_stdout_alone(compiled):
    out, _, _ = compiled
    for args in (["doctor"], ["recipes"], ["report", out], ["inspect", out], ["plan", out]):
        done = diffc_process(*args)
        assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) > 3
        assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_recipes_say_what_was_run_with_trained_weights():
    shown = diffc("recipes", COLUMNS="80").stdout
    assert re.search(r"^demo +UNet2DModel +trained  ", shown, re.M)
    assert re.search(r"^sd15 +UNet2DConditionModel +random  ", shown, re.M)
    assert "published weights were not run" in " ".join(shown.split())


@pytest.mark.parametrize("verb", [("bench",), ("eval",), ("export",), ("generate", "--n", "2")])
def test_a_misspelled_output_folder_has_the_nearest_name(verb, tmp_path):
    run = tmp_path / "first-run"
    run.mkdir()
    (tmp_path / "second-ran").mkdir()
    (run / "recipe.lock.yaml").write_text("format: 1\n")
    done = diffc(*verb[:1], tmp_path / "frist-run", *verb[1:])
    assert done.returncode == 2
    assert done.stderr.startswith(f"diffc: there is no folder {tmp_path / 'frist-run'}\n")
    assert f"did you mean {run}? Else " in done.stderr
    assert "did you mean" not in diffc(*verb[:1], tmp_path / "second-run-of", *verb[1:]).stderr


@pytest.mark.parametrize(
    ("verb", "words"),
    [(["compile"], "diffc: interrupted; the same command goes on from here"),
     (["compile", "--fresh"],
      "diffc: interrupted; without --fresh the same command goes on from here"),
     (["check"], "diffc: interrupted")],
)  # fmt: skip
def test_only_a_verb_that_goes_on_says_so_when_it_is_interrupted(verb, words, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("diffc.cli._run_verb", interrupt)
    done = diffc(*verb, "demo")
    assert (done.returncode, done.stderr.strip()) == (130, words)


def test_a_recipe_still_says_which_words_it_takes():
    with pytest.raises(RequestError, match="precision: fp12 is none of auto, fp32, fp16"):
        resolve(family="", flags={"build": {"precision": "fp12"}})
    assert Recipe().build.precision == "fp32"


@pytest.mark.parametrize("typed", [["--steps", "-5"], ["--steps=-5"]])
def test_training_steps_keep_their_former_name(typed, tmp_path, monkeypatch):
    """A note says the new one, but for --quiet; the value counts, and is judged by its new name."""
    monkeypatch.chdir(tmp_path)
    noted, refused = diffc("compile", "demo", *typed).stderr.splitlines()
    assert noted.startswith("diffc: note: --steps is now --distill-steps")
    assert "--distill-steps: -5 is too small" in refused
    (alone,) = diffc("compile", "demo", *typed, "--quiet").stderr.splitlines()
    assert alone == refused


def test_steps_of_other_verbs_are_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = diffc("inspect", "demo", "--steps", "3").stderr
    assert "inspect has no option --steps" in errors and "note" not in errors
    assert "note" not in diffc("generate", "OUT", "--steps", "3").stderr
