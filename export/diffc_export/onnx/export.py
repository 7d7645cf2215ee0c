"""Exports a denoiser to model.onnx, checks it, and writes model.json beside it.

Inputs have names and a dynamic batch. To serve several sizes, the sample's height and width are
dynamic as well.
"""

from __future__ import annotations

import gc
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffc_export.onnx.weights import SMALL, ApartModel, Read, on_skeleton, save
from diffc_export.specs import Inputs, TensorSpec
from diffc_export.targets.onnx_file import Size, onnx_digest
from diffc_runtime.errors import InputError, in_short
from diffc_runtime.files import utf8_path
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    import onnx_ir
    from onnx import ModelProto

Call = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""(module, inputs by name) -> its one output."""

Examples = Callable[[Sequence[TensorSpec], int, torch.Generator], Inputs]
"""(specs, batch, generator) -> a value for each spec."""

OUTPUT = "out_sample"
_EXAMPLE_BATCH = 2  # torch would fix a batch of 1 in the graph
_MOST_BATCH = 63  # diffusers branches at 64 rows; a larger bound has torch trace the model twice
_MOST_SIDE = 8192
_SIDES = ("height", "width")


@dataclass(frozen=True)
class GraphOptions:
    """How a module is exported.

    opset: ONNX's. simplify: fold constants and shapes with onnxslim.
    facts: more content for model.json (prediction, scheduler, parameters, macs).
    sizes: every (H, W) of the sample that the file must serve, the size of the specs first; empty
        to fix that size.
    multiple: heights and widths of all sizes are multiples of it.
    most_side: the largest side that the module takes; None for any.
    """

    opset: int = 20
    simplify: bool = True
    facts: JsonObject = field(default_factory=dict)
    sizes: Sequence[Size] = ()
    multiple: int = 1
    most_side: int | None = None


class NamedCall(nn.Module):
    """A module as a function of named tensors, as an ONNX graph is."""

    def __init__(self, model: nn.Module, call: Call, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.call, self.names = model, call, list(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the prediction (B, C, H, W); ``tensors`` are in the order of ``names``."""
        for tensor in tensors[1:]:  # torch must know that a mask has the sample's batch
            torch._check(tensor.shape[0] == tensors[0].shape[0])  # type: ignore[no-untyped-call]
        return self.call(self.model, dict(zip(self.names, tensors, strict=True)))


def export_onnx(
    model: nn.Module,
    call: Call,
    specs: Sequence[TensorSpec],
    folder: Path,
    *,
    examples: Examples,
    options: GraphOptions | None = None,
) -> dict[str, Any]:
    """Write ``folder/model.onnx`` (and model.onnx.data if large) and model.json.

    Args:
        call: Calls ``model`` with inputs by name.
        specs: The inputs, in the order of the graph.
        examples: Makes values for the inputs, to trace the model with.

    Returns:
        The content of model.json.

    Raises:
        InputError: torch cannot export the model; the message names the operator.
    """
    options = options or GraphOptions()
    sizes = options.sizes
    folder.mkdir(parents=True, exist_ok=True)
    names = [spec.name for spec in specs]
    generator = torch.Generator().manual_seed(0)
    wrapped = NamedCall(model, call, names).eval()
    with torch.no_grad():
        output = wrapped(*examples(specs, 1, generator).values())
    most = min(options.most_side or _MOST_SIDE, _MOST_SIDE)
    traced = [_at(spec, _traced_size(options, most)) for spec in specs] if sizes else specs
    inputs = examples(traced, _EXAMPLE_BATCH, generator)
    dimensions = _dynamic_dimensions(specs, options.multiple if sizes else None, most)
    # NamedCall.forward takes *tensors: one entry
    apart = trace_module(wrapped, inputs, [OUTPUT], options.opset, (dimensions,))
    if sizes:
        _name_sides(apart.proto, options.multiple)
    if options.simplify:
        _simplify(apart.proto)
    save(apart.proto, folder / "model.onnx", apart.values)
    _check(folder / "model.onnx", names)
    described = {
        "inputs": [_description(spec, sizes) for spec in specs],
        "output": {"name": OUTPUT, "shape": list(output.shape[1:])},
        "precision": "fp32",
        "opset": options.opset,
        "sha256": onnx_digest(folder),
        **options.facts,
    }
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    return described


def _traced_size(options: GraphOptions, most: int) -> Size:
    """Return the largest height and width, of two pixels or more on the coarsest level.

    torch would fix a side of a single pixel in the graph.
    """
    least, most = 2 * options.multiple, most // options.multiple * options.multiple
    height, width = (min(max(least, *sides), most) for sides in zip(*options.sizes, strict=True))
    return height, width


def _at(spec: TensorSpec, size: Size) -> TensorSpec:
    return replace(spec, shape=(*spec.shape[:-2], *size)) if spec.kind == "sample" else spec


def _description(spec: TensorSpec, sizes: Sequence[Size]) -> JsonObject:
    """Return an input's entry in model.json."""
    entry = {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "kind": spec.kind}
    served = {"sizes": [list(size) for size in sizes]} if sizes and spec.kind == "sample" else {}
    return {**entry, **served}


def _dynamic_dimensions(
    specs: Sequence[TensorSpec], multiple: int | None, most: int
) -> tuple[dict[int, Any], ...]:
    """Return the dynamic dimensions of each input: the batch, and the sample's height and width.

    Args:
        multiple: The sides are multiples of it, so that torch sees that a level halves and doubles
            back; None if the sides are fixed.
        most: The largest side.
    """
    dim = torch.export.Dim
    batch, sides = dim("batch", min=1, max=_MOST_BATCH), dict[int, Any]()
    if multiple is not None:
        for index, name in enumerate(_SIDES):
            side = dim(f"_{name}", min=1, max=most // multiple)
            sides[index] = multiple * side if multiple > 1 else dim(name, min=1, max=most)
    return tuple(
        {0: batch}
        | {len(spec.shape) - 1 + i: side for i, side in sides.items() if spec.kind == "sample"}
        for spec in specs
    )


def _name_sides(proto: ModelProto, multiple: int) -> None:
    """Rename a dimension ``8*_height`` to ``height`` everywhere in the graph."""
    graph = proto.graph
    whole = {f"{multiple}*_{name}": name for name in _SIDES}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in whole:
                dim.dim_param = whole[dim.dim_param]


def trace_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    opset: int,
    dynamic: tuple[Any, ...],
) -> ApartModel:
    """Return the ONNX graph of a module, and its weights, of which nothing is copied.

    Args:
        module: Takes ``inputs`` in their order.
        inputs: Examples by name.
        outputs: The outputs' names.
        opset: ONNX's.
        dynamic: For each argument of ``forward``, its dynamic dimensions; a tuple of them for
            ``*tensors``.

    Raises:
        InputError: torch cannot export the module; the message names the operator.
    """
    try:
        with _silence(), _no_collection():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            _fold(program.model)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(
            f"the model cannot be exported to ONNX: {in_short(_first_cause(error), 400)}",
            hint="an operator of its forward pass has no ONNX counterpart at this opset, or torch "
            "cannot trace it",
        ) from error
    return _apart(program)


def _first_cause(error: BaseException) -> BaseException:
    """Return what was raised first: torch's own text begins with its internals, and ends in a note
    on where they are.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _fold(model: onnx_ir.Model) -> None:
    """Inline what torch wrote as functions, fold constants, and drop what is unused or twice there.

    torch's ``optimize`` does the same, but tries all of onnxscript's rewriting rules at every node,
    which takes long, instead of the three that have work in our networks.
    """
    from onnx_ir.passes import Sequential, common
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common as rules

    common.InlinePass()(model)
    fold_constants_ir(model, onnx_shape_inference=True)
    rewrite(
        model,
        [rules.squeeze_reshape_1d_rule, rules.reshape_reshape_rule, rules.fuse_pad_into_conv_rule],
    )
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.NameFixPass(),
    )(model)


def _apart(program: torch.onnx.ONNXProgram) -> ApartModel:
    """The graph of what torch exported; its large weights stay the module's own tensors."""
    import onnx_ir

    weights = program.model.graph.initializers
    values: dict[str, Read] = {}
    for name, value in weights.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL:
            values[name] = tensor.numpy
            shape = onnx_ir.Shape(tensor.shape.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                "", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name
            )
    return ApartModel(program.model_proto, values)


def _simplify(proto: ModelProto) -> None:
    """onnxslim folds constants and shapes: 5-7 % on ONNX Runtime's CPU provider at opset 20."""
    import onnxslim

    with _silence():
        on_skeleton(proto, onnxslim.slim)


def _check(path: Path, names: Sequence[str]) -> None:
    """Raise unless the file is valid ONNX and has the inputs by name, with a dynamic batch."""
    import onnx

    onnx.checker.check_model(utf8_path(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    inputs = [value.name for value in graph.input]
    if inputs != list(names):
        raise InputError(f"the exported graph has inputs {inputs} instead of {list(names)}")
    for value in graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise InputError(f"the exported graph fixed the batch of its input '{value.name}'")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the collector of cycles off: it would look at a trace's objects again and again.

    They are millions and nearly all live until the end of the trace, so that an eighth of its time
    went there.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what the exporters print and log; their errors are exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
