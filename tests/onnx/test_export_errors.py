"""What torch cannot export, in one line; sizes that it must not be traced at."""

import onnx
import pytest
import torch
from torch import nn

from diffc.errors import InputError
from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.specs import TensorSpec


def examples(specs, batch, generator):
    return {spec.name: torch.randn(batch, *spec.shape, generator=generator) for spec in specs}


def export(call, folder, sizes=(), shape=(1, 2, 4)):
    options = GraphOptions(sizes=sizes, multiple=2 if sizes else 1, simplify=False)
    specs = [TensorSpec("sample", shape, kind="sample")]
    whole = lambda model, inputs: call(inputs["sample"])  # noqa: E731
    return export_onnx(nn.Identity(), whole, specs, folder, examples=examples, options=options)


def test_what_torch_cannot_export_names_the_operator(tmp_path):
    """The last line of torch's own words is a note on where the others are."""

    @torch.library.custom_op("diffc_tests::odd", mutates_args=())
    def odd(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    odd.register_fake(torch.empty_like)
    with pytest.raises(InputError, match=r"cannot be exported to ONNX: .*odd") as refused:
        export(odd, tmp_path)
    assert "\n" not in str(refused.value) and "stack trace" not in str(refused.value)


def test_sizes_of_which_none_is_largest_in_both_sides(tmp_path):
    """Halved once, the larger of the two in one side is a single pixel wide in the other."""
    half = nn.AvgPool2d(2)
    export(lambda x: half(x), tmp_path, sizes=((2, 4), (4, 2)))
    dims = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims][2:] == ["height", "width"]
