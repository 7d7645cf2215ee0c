"""Denoiser -> model.onnx: dynamic batch, named inputs, checked, with model.json beside it.

Where several sizes are to be served, the sample's height and width are dynamic as well.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from diffc_runtime.errors import InputError
from torch import Tensor, nn

from diffc_export.disks import utf8_path
from diffc_export.onnx.weights import on_skeleton, save
from diffc_export.specs import Inputs, TensorSpec
from diffc_export.targets.onnx_file import Size, onnx_digest

Call = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""(module, inputs by name) -> its one output."""

Examples = Callable[[Sequence[TensorSpec], int, torch.Generator], Inputs]
"""(specs, batch, generator) -> a value for each spec."""

OUTPUT = "out_sample"
_EXAMPLE_BATCH = 2  # 1 would be baked into the graph as a constant
_MOST_SIDE = 8192
_SIDES = ("height", "width")


class NamedCall(nn.Module):
    """A module as a function of named tensors only, which is what an ONNX graph is."""

    def __init__(self, model: nn.Module, call: Call, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.call, self.names = model, call, list(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Inputs in the order of ``names``; the prediction (B, C, H, W)."""
        for tensor in tensors[1:]:  # one batch, so that a mask can be repeated to the sample's
            torch._check(tensor.shape[0] == tensors[0].shape[0])  # type: ignore[no-untyped-call]
        return self.call(self.model, dict(zip(self.names, tensors, strict=True)))


def export_onnx(
    model: nn.Module,
    call: Call,
    specs: Sequence[TensorSpec],
    folder: Path,
    *,
    examples: Examples,
    opset: int = 20,
    simplify: bool = True,
    facts: Mapping[str, Any] | None = None,
    sizes: Sequence[Size] = (),
    multiple: int = 1,
) -> dict[str, Any]:
    """Write ``folder/model.onnx`` (model.onnx.data when large) and model.json; returns the latter.

    facts: what model.json carries besides (prediction, scheduler, parameters, macs).
    sizes: every (H, W) of the sample that the file must serve, that of ``specs`` first; empty for
    that one alone, which is then fixed. multiple: what their sides are multiples of.
    Raises InputError when torch cannot export the model, naming the operator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [spec.name for spec in specs]
    generator = torch.Generator().manual_seed(0)
    inputs = examples(specs, _EXAMPLE_BATCH, generator)
    wrapped = NamedCall(model, call, names).eval()
    with torch.no_grad():
        output = wrapped(*inputs.values())
    if sizes:  # traced at the largest: a level of a single pixel would be fixed in the graph
        largest = [_at(spec, max(sizes)) for spec in specs]
        inputs = examples(largest, _EXAMPLE_BATCH, generator)
    proto = _exported(wrapped, inputs, opset, _dynamic(specs, multiple if sizes else None))
    if sizes:
        _name_sides(proto, multiple)
    if simplify:
        _simplify(proto)
    save(proto, folder / "model.onnx")
    _check(folder / "model.onnx", names)
    described = {
        "inputs": [_described(spec, sizes) for spec in specs],
        "output": {"name": OUTPUT, "shape": list(output.shape[1:])},
        "precision": "fp32",
        "opset": opset,
        "sha256": onnx_digest(folder),
        **(facts or {}),
    }
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    return described


def _at(spec: TensorSpec, size: Size) -> TensorSpec:
    return replace(spec, shape=(*spec.shape[:-2], *size)) if spec.kind == "sample" else spec


def _described(spec: TensorSpec, sizes: Sequence[Size]) -> dict[str, Any]:
    """An input as model.json has it."""
    held = {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "kind": spec.kind}
    served = {"sizes": [list(size) for size in sizes]} if sizes and spec.kind == "sample" else {}
    return {**held, **served}


def _dynamic(specs: Sequence[TensorSpec], multiple: int | None) -> tuple[dict[int, Any], ...]:
    """The dynamic dimensions of each input: the batch; multiple: and the sample's sides, its
    multiples, which torch has to know (it must see that a level halves and doubles back)."""
    dim = torch.export.Dim
    batch, sides = dim("batch", min=1, max=4096), dict[int, Any]()
    if multiple is not None:
        for index, name in enumerate(_SIDES):
            side = dim(f"_{name}", min=1, max=_MOST_SIDE // multiple)
            sides[index + 2] = multiple * side if multiple > 1 else dim(name, min=1, max=_MOST_SIDE)
    return tuple({0: batch, **(sides if spec.kind == "sample" else {})} for spec in specs)


def _name_sides(proto: Any, multiple: int) -> None:
    """Call a side ``height``, not ``8*_height``, wherever the graph speaks of it."""
    graph = proto.graph
    whole = {f"{multiple}*_{name}": name for name in _SIDES}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in whole:
                dim.dim_param = whole[dim.dim_param]


def _exported(
    wrapped: NamedCall,
    inputs: Mapping[str, Tensor],
    opset: int,
    dynamic: tuple[dict[int, Any], ...],
) -> Any:
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapped,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_shapes=(dynamic,),  # one entry: *tensors
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"the model cannot be exported to ONNX: {lines[-1][:200]}",
            hint="an operator of its forward pass has no ONNX counterpart at this opset",
        ) from error
    assert program is not None
    return program.model_proto


def _simplify(proto: Any) -> None:
    """onnxslim folds constants and shapes: 5-7 % on ONNX Runtime's CPU provider at opset 20."""
    import onnxslim

    with _quiet():
        on_skeleton(proto, onnxslim.slim)


def _check(path: Path, names: Sequence[str]) -> None:
    """The file is valid ONNX, has the inputs by name, and its batch is dynamic."""
    import onnx

    onnx.checker.check_model(utf8_path(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    found = [value.name for value in graph.input]
    if found != list(names):
        raise InputError(f"the exported graph has inputs {found} instead of {list(names)}")
    for value in graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise InputError(f"the exported graph fixed the batch of its input '{value.name}'")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print and log; what matters comes back as an exception."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
