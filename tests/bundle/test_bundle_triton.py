"""The model repository, without a server: its configs, and what is wrong with wrong ones."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc] (diffc[triton])")

import onnxruntime
from google.protobuf import text_format
from support import tiny_engines
from tritonclient.grpc import model_config_pb2 as pb

from diffc.bundle import triton, triton_check, triton_config
from diffc.bundle.ahead import check_ahead
from diffc.bundle.build import write_bundle
from diffc.bundle.contents import find_contents
from diffc.errors import RequestError, UnavailableError
from diffc_runtime.bundles import misfits
from diffc_runtime.calls import PROMPTS, REQUEST


def config(repository: Path, model: str) -> pb.ModelConfig:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, pb.ModelConfig())


@pytest.fixture
def repository(out, tmp_path) -> Path:
    made = write_bundle(out, tmp_path / "repo", server="triton")
    assert made.models == ("denoiser", "pipeline", "pipeline_bls") and made.notes == ()
    return tmp_path / "repo"


def test_the_repository_is_valid(repository):
    assert triton_check.find_problems(repository) == []


def test_the_denoiser_is_declared_as_its_onnx_file_is(conditional_out, tmp_path):
    """Names, types and dims against the file itself, as ONNX Runtime reads it."""
    write_bundle(conditional_out, tmp_path / "repo", server="triton")
    found = config(tmp_path / "repo", "denoiser")
    assert found.platform == "onnxruntime_onnx"
    session = onnxruntime.InferenceSession(str(tmp_path / "repo" / "denoiser" / "1" / "model.onnx"))
    kinds = {"tensor(float)": pb.TYPE_FP32, "tensor(int64)": pb.TYPE_INT64}
    for declared, real in (
        (found.input, session.get_inputs()),
        (found.output, session.get_outputs()),
    ):
        assert [t.name for t in declared] == [t.name for t in real]
        for ours, theirs in zip(declared, real, strict=True):
            assert ours.data_type == kinds[theirs.type]
            shape = ours.reshape.shape if ours.HasField("reshape") else ours.dims
            assert [theirs.shape[0], *shape] == ["batch", *theirs.shape[1:]]
    scalars = {t.name: list(t.dims) for t in found.input if t.HasField("reshape")}
    assert scalars == {"timestep": [1], "class_labels": [1]}


def test_the_denoiser_batches(repository):
    found = config(repository, "denoiser")
    assert found.max_batch_size == 8
    assert list(found.dynamic_batching.preferred_batch_size) == [2, 8]
    assert found.dynamic_batching.max_queue_delay_microseconds == 0
    assert [g.kind for g in found.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
    (warm,) = found.model_warmup
    assert warm.batch_size == 2
    assert list(warm.inputs["sample"].dims) == [3, 8, 8]
    assert list(warm.inputs["timestep"].dims) == [1]
    assert not found.optimization.cuda.graphs


def test_the_pipeline_takes_what_the_issue_says(conditional_out, tmp_path):
    write_bundle(conditional_out, tmp_path / "repo", server="triton")
    for model in ("pipeline", "pipeline_bls"):
        found = config(tmp_path / "repo", model)
        inputs = {t.name: t for t in found.input}
        assert {"seed", "steps", "n", "guidance", "scheduler"} < set(inputs)
        assert inputs["steps"].optional
        assert not inputs["class_labels"].optional
        assert list(inputs["encoder_hidden_states"].dims) == [-1, 4, 5]
        assert inputs["unconditional_class_labels"].optional
        assert [t.name for t in found.output] == ["images", "samples"]
        assert list(found.output[0].dims) == [-1, 8, 8, 3]
    assert config(tmp_path / "repo", "pipeline_bls").instance_group[0].count == 8


def test_a_condition_with_the_name_of_a_requests_input_has_another(conditional_out):
    """FLUX's network has an input `guidance`, as a request has; a server needs one of each name."""
    contents = find_contents(conditional_out, None, "compressed")
    for taken in (*REQUEST, *PROMPTS):
        renamed = [
            {**item, "name": taken} if item["name"] == "class_labels" else item
            for item in contents.info["inputs"]
        ]
        same = replace(contents, info={**contents.info, "inputs": renamed}, texts={"text": Path()})
        names = [t.name for t in triton_config.pipeline_model("pipeline", same, 1).input]
        assert len(set(names)) == len(names)
        assert {taken, f"condition_{taken}", f"unconditional_{taken}"} < set(names)


def test_steps_share_a_batch_where_the_backend_serves_any(tmp_path):
    """The default --batch 1 is what was measured, not what ONNX Runtime serves."""
    engine = tiny_engines.engine_folder(tmp_path / "engine", batch=(1,))
    write_bundle(engine, tmp_path / "repo", server="triton")
    found = config(tmp_path / "repo", "denoiser")
    assert found.max_batch_size == 8
    assert list(found.dynamic_batching.preferred_batch_size) == [8]
    assert config(tmp_path / "repo", "pipeline_bls").instance_group[0].count == 8


def test_the_latent_repository_has_a_decoder(latent_out, tmp_path):
    made = write_bundle(latent_out, tmp_path / "repo", server="triton")
    assert made.models == ("denoiser", "decoder", "pipeline", "pipeline_bls")
    assert list(config(tmp_path / "repo", "pipeline").output[0].dims) == [-1, 16, 16, 3]
    settings = json.loads((tmp_path / "repo/pipeline_bls/1/pipeline.json").read_text())
    assert settings["decoder"] == {
        "input": "latent",
        "output": "sample",
        "dtype": "float32",
        "shape": [3, 8, 8],
        "batches": [[1, 2]],
    }
    assert config(tmp_path / "repo", "decoder").max_batch_size == 2


def test_without_tritonclient_it_says_what_to_install(out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(UnavailableError, match=r"needs tritonclient\[grpc\]") as error:
        write_bundle(out, tmp_path / "repo", server="triton")
    install, other = "pip install 'diffc[triton]'", "--server none for a folder without a server"
    assert error.value.hint == f"{install}, or {other}"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnavailableError, match=r"needs tritonclient\[grpc\]"):
        check_ahead("triton", ["ort-cpu"], True, {}, tmp_path / "repo")


# TensorRT, without a GPU: engine folders as its target writes them, with made-up bytes ------------


def plan_folder(folder: Path, source: Path, ranges, capability="8.6") -> Path:
    """An engine folder of target trt, with one profile for each (min, opt, max)."""
    from diffc_runtime.files import file_digest

    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(capability.encode())
    info = json.loads((source / "engine.json").read_text())
    shapes = {"sample": [3, 8, 8], "timestep": []}
    profiles = [
        {
            name: dict(zip(("min", "opt", "max"), ([b, *s] for b in batch), strict=True))
            for name, s in shapes.items()
        }
        for batch in ranges
    ]
    changes = {
        "target": "trt",
        "versions": {"tensorrt": "11.4.0"},
        "device": {"gpu": "A GPU", "compute_capability": capability, "driver": "580.1"},
        "tied_to": ["tensorrt", "gpu", "compute_capability"],
        "profiles": profiles,
        "files": {"model.engine": file_digest(folder / "model.engine")},
    }
    (folder / "engine.json").write_text(json.dumps(info | changes))
    return folder


@pytest.fixture
def source(out) -> Path:
    return out / "engines" / "ort-cpu" / "compressed"


def test_tensorrt_with_one_range(source, tmp_path):
    engine = plan_folder(tmp_path / "engine", source, [(1, 4, 8)])
    write_bundle(engine, tmp_path / "repo", server="triton")
    found = config(tmp_path / "repo", "denoiser")
    assert (found.platform, found.max_batch_size) == ("tensorrt_plan", 8)
    assert (tmp_path / "repo/denoiser/1/model.plan").read_bytes() == b"8.6"
    assert found.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert found.optimization.cuda.graphs
    assert list(found.instance_group[0].profile) == ["0"]
    specs = found.optimization.cuda.graph_spec
    assert [spec.batch_size for spec in specs] == [4, 8]
    for spec in specs:  # as TensorRT's backend builds a shape: [batch] + dim
        engine = {name: [spec.batch_size, *spec.input[name].dim] for name in spec.input}
        assert engine == {"sample": [spec.batch_size, 3, 8, 8], "timestep": [spec.batch_size]}
    assert triton_check.find_problems(tmp_path / "repo") == []
    device = json.loads((tmp_path / "repo/pipeline/1/engine/engine.json").read_text())["device"]
    assert device == {"gpu": "A GPU", "compute_capability": "8.6"}


@pytest.mark.parametrize("ranges", [[(4, 4, 4)], [(1, 1, 1), (4, 4, 4), (8, 8, 8)]])
def test_tensorrt_with_gaps_leaves_batching_to_the_client(source, tmp_path, ranges):
    """Batch 3 is not served, so the server must not make it."""
    engine = plan_folder(tmp_path / "engine", source, ranges)
    (note,) = write_bundle(engine, tmp_path / "repo", server="triton").notes
    assert "cannot put the steps of different requests together" in note
    assert note in (tmp_path / "repo" / "README.md").read_text()
    assert write_bundle(engine, tmp_path / "plain", server="none").notes == ()
    found = config(tmp_path / "repo", "denoiser")
    assert found.max_batch_size == 0
    assert not found.HasField("dynamic_batching")
    assert [list(t.dims) for t in found.input] == [[-1, 3, 8, 8], [-1]]
    assert list(found.instance_group[0].profile) == [str(i) for i in range(len(ranges))]
    specs = found.optimization.cuda.graph_spec
    assert [list(s.input["sample"].dim) for s in specs] == [[r[1], 3, 8, 8] for r in ranges]
    assert [list(s.input["timestep"].dim) for s in specs] == [[r[1]] for r in ranges]
    assert triton_check.find_problems(tmp_path / "repo") == []
    settings = json.loads((tmp_path / "repo/pipeline_bls/1/pipeline.json").read_text())
    assert settings["models"] == {"denoiser": {"batched": False}}


def test_several_resolutions_are_declared_at_the_working_one(source, tmp_path):
    engine = plan_folder(tmp_path / "engine", source, [(1, 1, 1), (1, 1, 1)])
    info = json.loads((engine / "engine.json").read_text())
    for end in ("min", "opt", "max"):
        info["profiles"][1]["sample"][end][2:] = [16, 16]
    info["inputs"][0]["sizes"] = [[8, 8], [16, 16]]
    (engine / "engine.json").write_text(json.dumps(info))
    write_bundle(engine, tmp_path / "repo", server="triton")
    found = config(tmp_path / "repo", "denoiser")
    assert list(found.input[0].dims)[-3:] == [3, 8, 8]
    assert [warm.name for warm in found.model_warmup] == ["batch_1"]
    assert triton_check.find_problems(tmp_path / "repo") == []
    assert list(found.instance_group[0].profile) == ["0"]


def test_plans_for_several_gpus(source, tmp_path):
    engine = plan_folder(tmp_path / "a", source, [(1, 4, 8)])
    other = plan_folder(tmp_path / "b", source, [(1, 4, 8)], "8.9")
    write_bundle(engine, tmp_path / "repo", server="triton", gpu_engines=[other])
    found = config(tmp_path / "repo", "denoiser")
    assert dict(found.cc_model_filenames) == {"8.6": "model.plan", "8.9": "model_sm89.plan"}
    assert (tmp_path / "repo/denoiser/1/model_sm89.plan").read_bytes() == b"8.9"
    assert (tmp_path / "repo/pipeline/1/engine-1/engine.json").is_file()


def test_plans_for_triton_need_a_compute_capability(source, tmp_path):
    engine = plan_folder(tmp_path / "a", source, [(1, 4, 8)])
    other = plan_folder(tmp_path / "b", source, [(1, 4, 8)])
    info = json.loads((other / "engine.json").read_text())
    (other / "engine.json").write_text(json.dumps(info | {"device": {}, "tied_to": []}))
    with pytest.raises(RequestError, match="names no compute capability"):
        write_bundle(engine, tmp_path / "repo", server="triton", gpu_engines=[other])
    assert not (tmp_path / "repo").exists()


def test_a_target_without_a_backend_runs_in_python(source, tmp_path):
    engine = plan_folder(tmp_path / "engine", source, [(1, 4, 8)])
    info = json.loads((engine / "engine.json").read_text())
    (engine / "engine.json").write_text(json.dumps(info | {"target": "trt-rtx"}))
    write_bundle(engine, tmp_path / "repo", server="triton")
    found = config(tmp_path / "repo", "denoiser")
    assert (found.backend, found.platform, found.max_batch_size) == ("python", "", 8)
    assert not found.optimization.cuda.graphs
    assert (tmp_path / "repo/denoiser/1/engine/model.engine").is_file()


def test_a_denoiser_in_python_needs_no_pipeline_file(repository, source):
    triton.stand_in(repository, "denoiser", source)
    folder = repository / "denoiser/1"
    assert not (folder / "pipeline.json").exists()
    assert misfits(folder) == {folder / "engine": None}


def test_the_stand_in_has_the_same_interface(repository, source):
    real = config(repository, "denoiser")
    triton.stand_in(repository, "denoiser", source)
    found = config(repository, "denoiser")
    assert found.backend == "python"
    for field in ("input", "output", "max_batch_size", "dynamic_batching", "model_warmup"):
        assert getattr(found, field) == getattr(real, field)
    assert triton_check.find_problems(repository) == []


def test_an_output_of_several_sizes_is_declared_as_the_model_has_it(source):
    """ONNX Runtime's backend refuses [4, 8, 8] for an output of [-1, 4, -1, -1]."""
    info = json.loads((source / "engine.json").read_text())
    info["inputs"][0]["sizes"] = [[8, 8], [8, 12]]
    model = triton_config.engine_model("denoiser", info, native=True, plans={})
    assert list(model.output[0].dims) == [3, -1, -1]
    assert list(model.input[0].dims) == [3, 8, 8]


def test_threads_are_limited_in_python_and_in_the_backend(repository):
    triton.limit_threads(repository, 3)
    for model in ("denoiser", "pipeline"):
        parameters = config(repository, model).parameters
        assert {name: value.string_value for name, value in parameters.items()} == {
            "threads": "3",
            "intra_op_thread_count": "3",  # ONNX Runtime's backend reads this one alone
        }
    assert triton_check.find_problems(repository) == []


# What a check must find ---------------------------------------------------------------------------


def rename(c):
    c.name = "other"


def empty_dims(c):
    del c.input[0].dims[:]


def zero_dim(c):
    c.input[0].dims[0] = 0


def twice(c):
    c.input.add().CopyFrom(c.input[0])


def too_large(c):
    c.dynamic_batching.preferred_batch_size.append(99)


def no_batching(c):
    c.max_batch_size = 0


def no_type(c):
    c.input[0].data_type = 0


def no_output(c):
    del c.output[:]


def bad_reshape(c):
    c.input[1].reshape.shape.append(7)


def graphs_elsewhere(c):
    c.optimization.cuda.graphs = True


def wrong_file(c):
    c.default_model_filename = "other.onnx"


def wrong_platform(c):
    c.platform = "onnx"


def cold_input(c):
    c.model_warmup[0].inputs["other"].data_type = 1


def warm_shape(c):
    c.model_warmup[0].inputs["sample"].dims[0] = 4


def no_instance(c):
    c.instance_group[0].count = 0


def profile_elsewhere(c):
    c.instance_group[0].profile.append("0")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (rename, "the config's name is 'other', the folder's 'denoiser'"),
        (empty_dims, "input 'sample' has no dims"),
        (zero_dim, "input 'sample' has dims"),
        (twice, "input 'sample' is there 2 times"),
        (too_large, "preferred_batch_size 99 is outside 1..8"),
        (no_batching, "dynamic_batching needs a max_batch_size above 0"),
        (no_type, "input 'sample' has no data_type"),
        (no_output, "no output"),
        (bad_reshape, "input 'timestep' is reshaped from"),
        (graphs_elsewhere, "CUDA graphs belong to the TensorRT backend alone"),
        (wrong_file, "1/other.onnx is missing"),
        (wrong_platform, "unknown platform 'onnx'"),
        (cold_input, "model_warmup 'batch_2' gives"),
        (warm_shape, "input 'sample' has dims [4, 8, 8]"),
        (no_instance, "instance_group has count 0"),
        (profile_elsewhere, "optimisation profiles belong to the TensorRT backend alone"),
    ],
)
def test_the_check_finds(repository, break_it, says):
    broken = config(repository, "denoiser")
    break_it(broken)
    (repository / "denoiser" / "config.pbtxt").write_text(triton_config.to_text(broken))
    assert any(says in problem for problem in triton_check.find_problems(repository))


def one_profile(c):
    del c.instance_group[0].profile[:]


def named_profile(c):
    c.instance_group[0].profile[0] = "small"


def same_profile(c):
    c.instance_group[0].profile[0] = "2"


def graph_of_the_requests_shape(c):
    c.max_batch_size = 8
    for spec in c.optimization.cuda.graph_spec:
        spec.input["timestep"].dim[:] = [1]
    c.input[1].dims[:] = [1]
    c.input[1].reshape.CopyFrom(pb.ModelTensorReshape())


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (one_profile, "instance_group opens no profiles for 3 tuned batch sizes"),
        (named_profile, "instance_group has profile 'small', which is not an index"),
        (same_profile, "instance_group has a profile twice: 2, 1, 2"),
        (graph_of_the_requests_shape, "graph_spec: input 'timestep' has dims [1]"),
    ],
)
def test_the_check_finds_in_tensorrts_config(source, tmp_path, break_it, says):
    engine = plan_folder(tmp_path / "engine", source, [(1, 1, 1), (4, 4, 4), (8, 8, 8)])
    write_bundle(engine, tmp_path / "repo", server="triton")
    broken = config(tmp_path / "repo", "denoiser")
    break_it(broken)
    path = tmp_path / "repo" / "denoiser" / "config.pbtxt"
    path.write_text(triton_config.to_text(broken))
    assert any(says in problem for problem in triton_check.find_problems(tmp_path / "repo"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("max_batch: 4", 'no field named "max_batch"'), ("input { data_type: FP32 }", "FP32")],
)
def test_the_check_finds_unknown_words_with_their_line(repository, text, says):
    path = repository / "denoiser" / "config.pbtxt"
    path.write_text(text + "\n" + path.read_text())
    (problem,) = triton_check.find_problems(repository)
    assert problem.startswith("denoiser: config.pbtxt:1:")
    assert says in problem


def test_the_check_finds_missing_folders(repository, tmp_path):
    (repository / "denoiser" / "1").rename(repository / "denoiser" / "latest")
    (repository / "empty").mkdir()
    found = triton_check.find_problems(repository)
    assert "denoiser: no version folder (1, 2, ...)" in found
    assert "empty: no config.pbtxt" in found
    assert "holds no model" in triton_check.find_problems(tmp_path / "repo" / "empty")[0]
