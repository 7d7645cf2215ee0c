"""Memory that runs out: for real on the processor, and in the GPU runtimes' own words."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_folder import describe_folder, tiny_unet

from diffc.errors import InputError, OutOfMemory
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.trt_builder import Log
from diffc_runtime.machine import cuda, nvml, out_of_memory
from diffc_runtime.machine.out_of_memory import bytes_asked, says_so

GIB = 1 << 30
TOO_MUCH = 1 << 44  # bytes: more than any machine maps

# As seen in the libraries' issue trackers.
WORDS = {
    "torch, GPU": (
        "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.11 GiB "
        "of which 5.25 GiB is free. Process 1 has 73.85 GiB memory in use.",
        int(20.5 * GIB),
    ),
    "torch, CPU": (
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 17592186044416 bytes. Error code 12 (Cannot allocate memory)",
        17592186044416,
    ),
    "onnxruntime": (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
        "Mul node. Name:'Mul_8702' Status Message: bfc_arena.cc:368 void* onnxruntime::BFCArena::"
        "AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size "
        "2830172160",
        2830172160,
    ),
    "onnxruntime, cudaMalloc": ("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc", None),
    "cuBLAS": ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate", None),
    "TensorRT": (
        "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size "
        "was 16581132288 bytes.)",
        16581132288,
    ),
    "TensorRT, tactic": (
        "Error Code: 9: Skipping tactic 0x0 due to exception [tunable_graph.cpp:create:117] "
        "autotuning: User allocator error allocating 15485030400-byte buffer",
        15485030400,
    ),
}


@pytest.fixture
def full_gpu(monkeypatch):
    """A GPU with 3 of 8 GiB free, of which another process holds 4."""
    monkeypatch.setattr(cuda, "memory", lambda: (3 * GIB, 8 * GIB))
    monkeypatch.setattr(nvml, "others", lambda: [nvml.OtherProcess(4711, 4 * GIB)])


@pytest.mark.parametrize("name", WORDS)
def test_the_runtimes_words_are_known(name):
    text, asked = WORDS[name]
    assert says_so(text) and bytes_asked(text) == asked


@pytest.mark.parametrize(
    "text", ["CUDA error: an illegal memory access was encountered", "Invalid input shape", ""]
)
def test_other_words_are_not(text):
    assert not says_so(text)


def test_the_message_has_the_bytes_and_who_holds_the_rest(full_gpu):
    with pytest.raises(OutOfMemory) as caught, out_of_memory.out_of_memory("running x", True):
        raise RuntimeError(WORDS["torch, GPU"][0])
    error = caught.value
    assert str(error) == (
        "out of GPU memory while running x: 20.5 GiB asked for, 3.0 GiB of 8.0 GiB free"
    )
    assert error.hint == "a smaller --batch needs less; process 4711 holds 4.0 GiB of it"
    assert (error.asked, error.free, error.exit_code) == (int(20.5 * GIB), 3 * GIB, 2)


def test_other_errors_pass_through(full_gpu):
    with pytest.raises(ZeroDivisionError), out_of_memory.out_of_memory("x", True):
        raise ZeroDivisionError
    with pytest.raises(InputError, match="out of memory"), out_of_memory.out_of_memory("x", True):
        raise InputError("a file named 'out of memory.onnx'")


def test_free_memory_is_the_drivers_where_cuda_cannot_say(monkeypatch):
    def no_runtime():
        raise cuda.UnavailableError("no libcudart")

    monkeypatch.setattr(cuda, "memory", no_runtime)
    monkeypatch.setattr(nvml, "device_memory", lambda: (1 * GIB, 2 * GIB))
    assert "1.0 GiB of 2.0 GiB free" in str(out_of_memory.error("x", None, on_gpu=True))
    monkeypatch.setattr(nvml, "device_memory", lambda: None)
    assert str(out_of_memory.error("x", 5, on_gpu=True)).endswith("while x: 5 bytes asked for")


# --- TensorRT: nothing is raised, the log says it


def test_a_tensorrt_log_that_ran_out(full_gpu):
    log = Log()
    log.add(1, "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
    log.add(2, "Requested amount of GPU memory (15485030400 bytes) could not be allocated. There "
               "may not be enough free memory for allocation to succeed.")  # fmt: skip
    log.add(1, "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find "
               "any implementation for node {ForeignNode[/1/Constant]}.)")  # fmt: skip
    error = log.failure("trt cannot build m.onnx", "trt builds m.onnx")
    assert isinstance(error, OutOfMemory) and error.asked == 15485030400
    assert "while trt builds m.onnx: 14.4 GiB asked for, 3.0 GiB of 8.0 GiB free" in str(error)


def test_a_skipped_tactic_is_no_failure_of_memory():
    log = Log()
    log.add(2, "Skipping tactic 8 due to insufficient memory on requested size of 17179869184")
    log.add(1, "Error Code 4: Internal Error (input: dynamic, no profile)")
    error = log.failure("trt cannot build m.onnx", "trt builds m.onnx")
    assert type(error) is InputError and "no profile" in str(error)
    assert "no reason given" in str(log.failure("x", "y"))


# --- for real


def giant_folder(folder):
    """An ONNX folder that wants 16 TiB when it runs."""
    folder.mkdir()
    rows = TOO_MUCH // 4 // 64
    nodes = [
        helper.make_node("ReduceSum", ["sample"], ["sum"], keepdims=0),
        helper.make_node("Expand", ["sum", "shape"], ["giant"]),
        helper.make_node("Softmax", ["giant"], ["soft"], axis=0),
        helper.make_node("ReduceMax", ["soft"], ["peak"], keepdims=0),
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["t"], ["ts"], keepdims=0),
        helper.make_node("Add", ["peak", "ts"], ["added"]),
        helper.make_node("Conv", ["sample", "w"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["convolved", "added"], ["out_sample"]),
    ]
    arrays = {"shape": np.array([rows, 64]), "w": np.ones((1, 1, 3, 3), np.float32)}
    image = ["batch", 1, 8, 8]
    graph = helper.make_graph(
        nodes, "giant",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, image),
         helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    describe_folder(folder, (1, 8, 8))
    return folder


INPUTS = {"sample": np.ones((2, 1, 8, 8), np.float32), "timestep": np.array([1, 2])}


def test_onnxruntime_runs_out_when_it_is_built(folder, tmp_path, monkeypatch, full_gpu):
    """With a session that fails as CUDA's provider does when the weights do not fit."""
    runtime = pytest.importorskip("onnxruntime")
    from diffc_runtime.libraries import ort

    def session(*_, **__):
        raise RuntimeError(WORDS["onnxruntime"][0])

    monkeypatch.setattr(runtime, "InferenceSession", session)
    with pytest.raises(
        OutOfMemory, match=r"out of GPU memory while opening .*model\.onnx: 2.6 GiB"
    ):
        ort.open_session(folder / "model.onnx", None, [("CUDAExecutionProvider", {})])


def test_onnxruntime_runs_out_when_it_runs(tmp_path):
    pytest.importorskip("onnxruntime")
    folder = giant_folder(tmp_path / "onnx")
    drain(target("ort-cpu").build(folder, BuildOptions(batch=(2,)), tmp_path / "e"))
    runner = target("ort-cpu").load(tmp_path / "e")
    with pytest.raises(OutOfMemory, match="running ort-cpu on sample 2x1x8x8") as caught:
        runner(INPUTS)
    assert caught.value.asked == TOO_MUCH and 0 < caught.value.free < TOO_MUCH
    with pytest.raises(OutOfMemory, match=r"16,384\.0 GiB asked for, .* free"):
        runner.bind(INPUTS).run()


def test_torch_runs_out_when_it_runs(unet_folder, tmp_path, monkeypatch):
    import torch

    tiny_unet().save_pretrained(tmp_path / "model")
    options = BuildOptions(batch=(2,), model=str(tmp_path / "model"), threads=1)
    drain(target("torch").build(unet_folder, options, tmp_path / "e"))
    runner = target("torch").load(tmp_path / "e")
    greedy = runner._model.conv_in.register_forward_hook(
        lambda *_: torch.empty(TOO_MUCH, dtype=torch.uint8)
    )
    with pytest.raises(OutOfMemory, match=r"sample 2x1x8x8: 16,384\.0 GiB asked"):
        runner(INPUTS)
    greedy.remove()
    assert runner(INPUTS)["out_sample"].shape == (2, 1, 8, 8)  # it goes on after that
