"""The plain bundle: run by an interpreter that has neither diffc nor torch."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from support import tiny_engines

from diffc.bundle.build import write_bundle
from diffc.bundle.contents import BundleContents
from diffc.errors import InputError, RequestError
from diffc_runtime import open_bundle, to_uint8

ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"diffc", "torch", "diffusers", "onnx", "PIL", "scipy"}:
            raise ModuleNotFoundError(f"{name} is not on the server")
sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv.pop(1))
import runpy
sys.argv[0] = "diffc_runtime"
runpy.run_module("diffc_runtime", run_name="__main__")
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """``python -m diffc_runtime`` in ``folder``, where diffc and torch cannot be imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(folder), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def plain(out, tmp_path_factory) -> Path:
    """A plain bundle."""
    to = tmp_path_factory.mktemp("plain") / "bundle"
    made = write_bundle(out, to, server="none")
    assert (made.target, made.side, made.models) == ("ort-cpu", "compressed", ())
    return to


@pytest.mark.slow
def test_generates_by_itself(plain, tmp_path):
    picture = tmp_path / "grid.png"
    asked = ("--n", "5", "--steps", "3", "--seed", "7", "--out", str(picture))
    done = run(plain, "generate", *asked, "--grid")
    assert done.returncode == 0, done.stderr
    samples = open_bundle(plain).generate(5, 3, 7)
    images = to_uint8(samples)
    grid = np.asarray(Image.open(picture))
    assert grid.shape == (16, 24, 3)
    np.testing.assert_array_equal(grid[:8, 8:16], images[1])
    np.testing.assert_array_equal(grid[8:, 8:16], images[4])
    assert images.std() > 10
    one = run(plain, "generate", "--n", "1", "--steps", "3", "--out", str(tmp_path / "one.png"))
    assert "one.png: 1 image in" in one.stderr
    assert run(plain, "generate", *asked).returncode == 0, "other files than the grid's"
    for i in range(5):
        alone = np.asarray(Image.open(tmp_path / f"grid-{i}.png"))
        np.testing.assert_array_equal(alone, images[i])


def test_nothing_is_overwritten_in_silence(plain, tmp_path):
    (tmp_path / "a-1.png").write_text("mine")
    asked = ("--n", "2", "--steps", "1", "--out", str(tmp_path / "a.png"))
    done = run(plain, "generate", *asked)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'a-1.png'} exists: name another file" in done.stderr
    assert (tmp_path / "a-1.png").read_text() == "mine" and not (tmp_path / "a-0.png").exists()
    assert run(plain, "generate", *asked, "--force").returncode == 0
    assert Image.open(tmp_path / "a-1.png").size == (8, 8)


def test_the_folder_runs_from_any_working_directory(plain, tmp_path):
    command = [sys.executable, plain, "generate", "--steps", "2", "--out", "a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pipe = open_bundle(str(plain))  # a string
    expected = pipe(num_inference_steps=2, output_type="np").images[0]
    found = np.asarray(Image.open(tmp_path / "a.png")) / 255
    np.testing.assert_allclose(found, expected, atol=0.5 / 255 + 1e-6)


def test_without_pillow_an_array_is_offered(plain):
    code = (
        "import sys; sys.modules['PIL'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from diffc_runtime import open_bundle\n"
        "pipe = open_bundle(sys.argv[1])\n"
        "print(pipe(num_inference_steps=1, output_type='np').images.shape)\n"
        "try: pipe(num_inference_steps=1)\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-I", "-c", code, plain]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "(1, 8, 8, 3)",
        "output_type='pil' needs Pillow: pip install pillow, or ask for output_type='np'",
    ]


def test_a_reader_that_has_ended_is_no_traceback(plain):
    command = [sys.executable, str(plain), "info"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.stdout.close()
    assert started.stderr.read() == b""
    started.stderr.close()
    assert started.wait(timeout=120) == 141


def test_info_by_itself(plain):
    done = run(plain, "info")
    said = json.loads(done.stdout)
    assert said["target"] == "ort-cpu"
    assert said["model"] == "UNet2DModel"
    assert said["batches"] == [[1, 4]]
    assert said["scheduler"] == "ddpm"
    assert said["fits_this_machine"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "0"], "steps must be a whole number from 1 to 1000, not 0"),
        (["--steps", "10000"], "steps must be a whole number from 1 to 1000, not 10000"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--n", "0"], "number of images"),
        (["--n", "100000"], "from 1 to 1024"),
        (["--scheduler", "plms"], "unknown scheduler 'plms' (known: ddpm, ddim"),
        (["--condition", "class_labels=1"], "unknown condition 'class_labels'"),
        (["--condition", "class_labels"], "a condition is NAME=NUMBER or NAME=FILE.npy"),
        (["--condition", "x=missing.npy"], "cannot read missing.npy"),
        (["--guidance", "2"], "needs a model with conditions"),
        (["--out", "grid.gif"], "--out must end in .png, .jpg, .jpeg, .webp or .npy, not"),
        (["--out", "nowhere/grid.png"], "the folder nowhere does not exist"),
        (["--out", "folder.png"], "folder.png is a folder, not a file"),
        (["--steps", "1", "--out", "/proc/grid.png"], "cannot write /proc/grid.png"),
        (["--threads", "0"], "threads must be 1 or more, up to 1024, not 0"),
        (["--threads", "-1"], "threads must be 1 or more, up to 1024, not -1"),
        (["--unconditional", "x=1"], "--unconditional has no effect without a --guidance"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(plain, arguments, says):
    (plain / "folder.png").mkdir(exist_ok=True)
    done = run(plain, "generate", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(plain.glob(".*png*"))


def test_unfit_engine_says_what_it_was_built_for_and_what_is_here(out, tmp_path):
    write_bundle(out, tmp_path / "bundle", server="none")
    path = tmp_path / "bundle" / "engine" / "engine.json"
    info = json.loads(path.read_text())
    changes = {"device": {"compute_capability": "8.9"}, "tied_to": ["compute_capability"]}
    path.write_text(json.dumps(info | changes))
    done = run(tmp_path / "bundle", "generate")
    assert done.returncode == 2
    assert "built for compute_capability 8.9; here: compute_capability" in done.stderr
    said = json.loads(run(tmp_path / "bundle", "info").stdout)
    assert said["fits_this_machine"] is False
    assert "built for compute_capability 8.9" in said["why_not"]


def test_a_file_that_is_gone_is_said_before_anything_is_loaded(out, tmp_path):
    write_bundle(out, tmp_path / "bundle", server="none")
    (tmp_path / "bundle" / "engine" / "model.onnx").unlink()
    said = json.loads(run(tmp_path / "bundle", "info").stdout)
    assert said["fits_this_machine"] is False
    assert said["why_not"].endswith("engine/model.onnx is missing")
    done = run(tmp_path / "bundle", "generate")
    assert done.returncode == 2 and "model.onnx is missing" in done.stderr


def test_so_is_a_file_of_the_decoder(latent_out, tmp_path):
    write_bundle(latent_out, tmp_path / "bundle", server="none")
    next((tmp_path / "bundle" / "decoder").glob("*.onnx")).unlink()
    said = json.loads(run(tmp_path / "bundle", "info").stdout)
    assert said["fits_this_machine"] is False
    assert "decoder" in said["why_not"] and said["why_not"].endswith("is missing")


def tied(engine: Path, to: Path, capability: str, **changes) -> Path:
    """The engine, as if it were for one kind of GPU."""
    shutil.copytree(engine, to)
    info = json.loads((to / "engine.json").read_text())
    device = {"device": {"compute_capability": capability}, "tied_to": ["compute_capability"]}
    (to / "engine.json").write_text(json.dumps(info | device | changes))
    return to


def test_of_engines_for_several_gpus_the_fitting_one_is_opened(out, tmp_path):
    dense = out / "engines" / "ort-cpu" / "dense"
    other = tied(dense, tmp_path / "other", "8.9")
    write_bundle(other, tmp_path / "bundle", server="none", gpu_engines=[dense])
    assert open_bundle(tmp_path / "bundle").generate(1, 1, 0).shape == (1, 3, 8, 8)
    said = json.loads(run(tmp_path / "bundle", "info").stdout)
    assert (said["engine"], said["fits_this_machine"], said["why_not"]) == ("engine-1", True, None)


def test_plans_that_nothing_tells_apart_are_refused(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "dense"
    ampere = tied(engine, tmp_path / "ampere", "8.6")
    again = tied(engine, tmp_path / "again", "8.6")
    with pytest.raises(RequestError, match=r"are both for compute capability 8\.6"):
        write_bundle(engine, tmp_path / "bundle", server="none", gpu_engines=[ampere, again])
    with pytest.raises(RequestError, match="are both for any GPU"):
        write_bundle(engine, tmp_path / "bundle", server="none", gpu_engines=[engine])
    profile = {"sample": {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [9, 3, 8, 8]}}
    wider = tied(engine, tmp_path / "wider", "8.9", profiles=[profile])
    with pytest.raises(InputError, match="not an engine of the same model: profiles"):
        write_bundle(engine, tmp_path / "bundle", server="none", gpu_engines=[wider])
    assert not (tmp_path / "bundle").exists()


def test_plans_on_the_command_line(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "dense"
    plans = [tied(engine, tmp_path / name, name) for name in ("8.6", "8.9")]
    command = [sys.executable, "-m", "diffc", "bundle", out, "--server", "none"]
    more = ["--plan", plans[0], "--plan", plans[1], "--to", tmp_path / "bundle"]
    subprocess.run([*command, *more], check=True)
    assert {p.name for p in (tmp_path / "bundle").glob("engine*")} == {
        "engine", "engine-1", "engine-2",
    }  # fmt: skip


def test_import_is_quick_and_small(plain):
    """In processor time, which other processes do not change."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); start = time.process_time();"
        " import diffc_runtime; print(time.process_time() - start)"
    )
    seconds = [
        float(subprocess.check_output([sys.executable, "-I", "-c", code, str(plain)]))
        for _ in range(5)
    ]
    assert min(seconds) < 0.15
    size = sum(p.stat().st_size for p in (plain / "diffc_runtime").rglob("*.py"))
    assert size < 1_000_000


def test_conditions_and_guidance(conditional_out, tmp_path):
    write_bundle(conditional_out, tmp_path / "bundle", server="none")
    text = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    np.save(tmp_path / "text.npy", text)
    done = run(
        tmp_path / "bundle", "generate", "--n", "3", "--steps", "4", "--guidance", "2.5",
        "--condition", "class_labels=3",
        "--condition", f"encoder_hidden_states={tmp_path / 'text.npy'}",
        "--out", str(tmp_path / "samples.npy"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = {"class_labels": 3, "encoder_hidden_states": text}
    none = {"class_labels": 0, "encoder_hidden_states": np.zeros((4, 5))}
    pipeline = open_bundle(tmp_path / "bundle")
    mine = pipeline.generate(3, 4, 0, guidance=2.5, conditions=given, unconditional=none)
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), mine)
    without = pipeline.generate(3, 4, 0, conditions=given)
    assert np.abs(without - mine).max() > 0.01


def test_the_program_takes_what_a_call_takes(tmp_path):
    """A condition without a value for "none" stays what it is, and no side is 0."""
    engine = tmp_path / "out" / "engines" / "ort-cpu" / "compressed"
    tiny_engines.engine_folder(engine, conditions=True, unconditional={"class_labels": 0})
    write_bundle(tmp_path / "out", tmp_path / "bundle", server="none")
    text = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    np.save(tmp_path / "text.npy", text)
    arguments = (
        "--n", "2", "--steps", "4", "--guidance", "2.5", "--condition", "class_labels=3",
        "--condition", f"encoder_hidden_states={tmp_path / 'text.npy'}",
        "--out", str(tmp_path / "samples.npy"),
    )  # fmt: skip
    done = run(tmp_path / "bundle", "generate", *arguments)
    assert done.returncode == 0, done.stderr
    pipe = open_bundle(tmp_path / "bundle")
    given = {"class_labels": 3, "encoder_hidden_states": text}
    mine = pipe.sample(n=2, num_inference_steps=4, guidance_scale=2.5, **given)
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), mine)
    done = run(tmp_path / "bundle", "generate", *arguments, "--force", "--height", "0")
    assert done.returncode == 2 and "not built for 0: it makes images of" in done.stderr


def blocks(readme: Path, language: str) -> list[str]:
    """The code in a README."""
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.S)


@pytest.mark.parametrize("which", ["out", "conditional_out", "latent_out"])
def test_the_readmes_commands_work_as_printed(which, request, tmp_path):
    to = tmp_path / "bundle"
    write_bundle(request.getfixturevalue(which), to, server="none")
    (shell,) = blocks(to / "README.md", "bash")
    lines = [line for line in shell.splitlines() if not line.startswith("pip install")]
    script = "set -e\n" + "\n".join(lines).replace("python ", f"{sys.executable} ")
    subprocess.run(["bash", "-c", script], cwd=to, check=True)
    size = Image.open(to / "a-3.png").size
    assert size[0] >= 8
    (python,) = blocks(to / "README.md", "python")
    code = python + f"\nassert len(images) == 4 and images[3].size == {size}\n"
    subprocess.run([sys.executable, "-c", code], cwd=to, check=True)


def test_a_readme_names_the_version_that_the_engine_is_tied_to(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "dense"
    said = {
        "trt": ("tensorrt", "pip install numpy pillow tensorrt==11.4.0\n"),
        "trt-rtx": (
            "tensorrt_rtx",
            "pip install numpy pillow tensorrt-rtx-cu13==11.4.0 nvidia-cuda-runtime\n",
        ),
        "ort-cuda": ("", "pip install numpy pillow onnxruntime-gpu\n"),
    }
    for name, (package, command) in said.items():
        changes = {"target": name, "versions": {package: "11.4.0"}, "tied_to": [package]}
        made = tied(engine, tmp_path / name, "8.6", **(changes if package else {"target": name}))
        write_bundle(made, tmp_path / f"{name}-bundle", server="none")
        assert command in (tmp_path / f"{name}-bundle" / "README.md").read_text()


def test_a_label_that_is_no_class_is_one_line(conditional_out, tmp_path):
    write_bundle(conditional_out, tmp_path / "bundle", server="none")
    np.save(tmp_path / "text.npy", np.zeros((4, 5), np.float32))
    text = f"encoder_hidden_states={tmp_path / 'text.npy'}"
    done = run(
        tmp_path / "bundle", "generate", "--condition", "class_labels=5000", "--condition", text
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the engine could not run: indices element out of data bounds")
    assert str(tmp_path) not in line


def test_latents_go_through_the_decoder(latent_out, out, tmp_path):
    write_bundle(latent_out, tmp_path / "latent", server="none")
    write_bundle(out, tmp_path / "plain", server="none")
    decoded = open_bundle(tmp_path / "latent").generate(3, 2, 1)
    latents = open_bundle(tmp_path / "plain").generate(3, 2, 1)
    oracle = (latents / 0.5).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(decoded, oracle, rtol=1e-6)


def test_names_nothing_of_this_machine(out, tmp_path):
    plain = tmp_path / "bundle"
    write_bundle(out, plain, server="none")
    words = {
        str(Path.home()), str(out), str(plain), socket.gethostname(), platform.node(),
        str(Path(__file__).parents[2]), str(Path(sys.prefix)),
    } | ({getpass.getuser()} - {"root"})  # fmt: skip
    for path in plain.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in words:
            assert len(word) < 4 or word.encode() not in content, (path, word)
    info = json.loads((plain / "engine" / "engine.json").read_text())
    assert info["device"] == {}


def test_names_only_scheduler_of_its_source(out, tmp_path):
    """model.json may hold a path to the model; it stays behind."""
    folder = tmp_path / "out" / "engines" / "ort-cpu" / "compressed"
    tiny_engines.engine_folder(folder, source_path="/home/somebody/model")
    write_bundle(tmp_path / "out", tmp_path / "bundle", server="none")
    for path in (tmp_path / "bundle").rglob("*.json"):
        assert "/home/somebody" not in path.read_text()


@pytest.mark.parametrize(("shape", "tokens"), [([3, 8, 8], 16), ([1024, 64], 1024)])
def test_a_flow_models_shift_is_that_of_its_size(shape, tokens):
    """SD3's (C, H, W), and Flux's (tokens, channels)."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    inputs = [
        {"name": "sample", "shape": shape, "dtype": "float32", "kind": "sample"},
        {"name": "timestep", "shape": [], "dtype": "float32", "kind": "timestep"},
    ]
    source = BundleContents(Path("engine"), {"inputs": inputs, "source": {"scheduler": config}})
    written = source.settings()
    assert written["sampler"] == "flow-euler"
    assert written["scheduler"]["mu"] == pytest.approx(calculate_shift(tokens))
    assert ("sigmas_end" in written["scheduler"]) == (len(shape) == 2)


def test_a_sampler_that_stands_in_is_said(tmp_path):
    config = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
    engine = tiny_engines.engine_folder(tmp_path / "engine", scheduler=config)
    command = [sys.executable, "-m", "diffc", "bundle", engine, "--server", "none", "--quiet"]
    done = subprocess.run(
        [*command, "--to", tmp_path / "bundle"], check=True, capture_output=True, text=True
    )
    said = "sampled with 'ddim': scheduler 'dpm++' has no solver_order 3"
    assert said in done.stderr
    assert said in (tmp_path / "bundle" / "README.md").read_text()
    assert open_bundle(tmp_path / "bundle").generate(1, 3, 0).shape == (1, 3, 8, 8)


def test_a_model_for_another_sampler_is_refused(tmp_path):
    engine = tiny_engines.engine_folder(
        tmp_path / "engine", scheduler={"_class_name": "LCMScheduler"}
    )
    with pytest.raises(InputError, match="cannot be served: the runtime has no sampler for LCM"):
        write_bundle(engine, tmp_path / "bundle", server="none")
    assert not (tmp_path / "bundle").exists()


# Which engine -------------------------------------------------------------------------------------


def test_the_side_that_was_asked_for(out, tmp_path):
    made = write_bundle(out, tmp_path / "bundle", server="none", side="dense", target="ort-cpu")
    assert made.side == "dense"
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["side"] == "dense"


def test_an_engine_folder_itself(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "dense"
    assert write_bundle(engine, tmp_path / "bundle", server="none").target == "ort-cpu"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"server": "trition"}, RequestError, "unknown server 'trition'"),
        ({"target": "ort-cuda"}, RequestError, "unknown target 'ort-cuda'"),
        ({"side": "pruned"}, RequestError, "unknown side 'pruned'"),
    ],
)
def test_wrong_words(out, tmp_path, asked, error, says):
    with pytest.raises(error, match=says):
        write_bundle(out, tmp_path / "bundle", **{"server": "none", **asked})
    assert not (tmp_path / "bundle").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_without_engines(tmp_path):
    with pytest.raises(InputError, match="holds no engines"):
        write_bundle(tmp_path, tmp_path / "bundle", server="none")


def test_a_missing_side(conditional_out, tmp_path):
    with pytest.raises(InputError, match="holds no dense engine for 'ort-cpu'") as error:
        write_bundle(conditional_out, tmp_path / "bundle", server="none", side="dense")
    assert "compressed" in error.value.hint


def test_several_targets_need_a_name(out, tmp_path):
    engines = tmp_path / "out" / "engines"
    for name in ("ort-cpu", "trt"):
        (engines / name / "compressed").mkdir(parents=True)
    with pytest.raises(RequestError, match="holds engines for ort-cpu, trt"):
        write_bundle(tmp_path / "out", tmp_path / "bundle", server="none")


def test_a_cut_engine(out, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "engines" / "ort-cpu" / "compressed" / "model.onnx").write_bytes(b"cut")
    with pytest.raises(InputError, match="cut or altered"):
        write_bundle(copy, tmp_path / "bundle", server="none")
    assert not (tmp_path / "bundle").exists()


def test_an_engine_without_a_scheduler(tmp_path):
    tiny_engines.engine_folder(tmp_path / "engine", scheduler={})
    with pytest.raises(InputError, match="without a scheduler"):
        write_bundle(tmp_path / "engine", tmp_path / "bundle", server="none")


def test_a_plan_of_another_model(out, conditional_out, tmp_path):
    other = conditional_out / "engines" / "ort-cpu" / "compressed"
    with pytest.raises(InputError, match="not an engine of the same model: inputs"):
        write_bundle(out, tmp_path / "bundle", server="none", gpu_engines=[other])


def test_a_decoder_without_its_scale(tmp_path):
    made = tiny_engines.engine_folder(tmp_path / "out" / "engines" / "ort-cpu" / "compressed")
    tiny_engines.decoder_folder(made.parent / "decoder")
    with pytest.raises(InputError, match="no scaling_factor"):
        write_bundle(made, tmp_path / "bundle", server="none")
