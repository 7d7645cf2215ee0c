"""What is wrong with an ONNX folder is said before any runtime sees it, by name."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_folder import describe_folder, write_handmade_folder

from diffc.errors import InputError
from diffc_export.targets.onnx_file import onnx_digest, read_onnx


def test_good_folder_is_read(folder):
    model = read_onnx(folder)
    assert [(s.name, s.shape, s.dtype, s.kind) for s in model.inputs] == [
        ("sample", (1, 8, 8), "float32", "sample"),
        ("timestep", (), "int64", "timestep"),
    ]
    assert [s.name for s in model.outputs] == ["out_sample"]
    assert model.files == (folder / "model.onnx",)
    assert model.precision == "fp32"


def test_plain_onnx_file_is_read_without_a_description(folder):
    (folder / "model.json").unlink()
    model = read_onnx(folder / "model.onnx")
    assert [s.name for s in model.inputs] == ["sample", "timestep"]
    assert model.content == {}


def test_digest_is_the_exporters(folder):
    export = pytest.importorskip("diffc_export.onnx.export")
    (folder / "model.onnx.data").write_bytes(b"weights")
    assert onnx_digest(folder) == export.onnx_digest(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"this is not an onnx file at all", "is not an ONNX file"),
        (bytes(1000), "is not an ONNX file"),
    ],
)
def test_junk_and_empty_files_are_named(folder, content, words):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_onnx(folder)
    assert str(folder / "model.onnx") in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_named(folder, share):
    path = folder / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut") as caught:
        read_onnx(folder)
    assert "model.onnx" in str(caught.value)


def test_a_valid_protobuf_without_nodes_is_refused(folder):
    model = onnx.load(folder / "model.onnx")
    del model.graph.node[:]
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(InputError, match="no nodes"):
        read_onnx(folder)


def test_altered_weights_are_found(folder):
    path = folder / "model.onnx"
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((8, 1, 3, 3), np.float32), "w1")
    )
    onnx.save(model, path)
    with pytest.raises(InputError, match="cut or altered since the export"):
        read_onnx(folder)


def test_missing_model_file_is_named(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx does not exist"):
        read_onnx(folder)


def test_missing_and_damaged_descriptions_are_named(folder):
    (folder / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.json is not JSON"):
        read_onnx(folder)
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"model\.json is missing"):
        read_onnx(folder)


def _with_external_data(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data",
        size_threshold=200,
    )  # fmt: skip
    _redescribe(folder)


def _redescribe(folder):
    content = json.loads((folder / "model.json").read_text())
    content["sha256"] = onnx_digest(folder)
    (folder / "model.json").write_text(json.dumps(content))


def test_external_data_belong_to_the_files(folder):
    _with_external_data(folder)
    assert [p.name for p in read_onnx(folder).files] == ["model.onnx", "model.onnx.data"]


def test_missing_external_data_are_named(folder):
    _with_external_data(folder)
    (folder / "model.onnx.data").unlink()
    with pytest.raises(InputError, match=r"model\.onnx\.data, which is missing"):
        read_onnx(folder)


def test_short_external_data_are_named(folder):
    _with_external_data(folder)
    path = folder / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"model\.onnx\.data was cut short"):
        read_onnx(folder)


def test_external_data_outside_the_folder_are_refused(folder, tmp_path):
    _with_external_data(folder)
    shutil.move(folder / "model.onnx.data", tmp_path / "elsewhere")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="points outside its folder"):
        read_onnx(folder)


def test_mixed_types_name_the_node(folder):
    model = onnx.load(folder / "model.onnx")
    half = numpy_helper.from_array(np.zeros((1, 8, 3, 3), np.float16), "w2")
    weights = {t.name: i for i, t in enumerate(model.graph.initializer)}
    model.graph.initializer[weights["w2"]].CopyFrom(half)
    onnx.save(model, folder / "model.onnx")
    _redescribe(folder)
    with pytest.raises(InputError, match="conv_2"):
        read_onnx(folder)


def test_a_dimension_beside_the_batch_must_be_fixed(folder):
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, folder / "model.onnx")
    _redescribe(folder)
    with pytest.raises(InputError, match=r"'sample' has shape .*height"):
        read_onnx(folder)


def test_description_and_graph_must_agree(folder):
    content = json.loads((folder / "model.json").read_text())
    content["inputs"][0]["name"] = "latent"
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="latent"):
        read_onnx(folder)


@pytest.mark.parametrize("key", ["name", "shape", "dtype"])
def test_an_input_without_what_it_needs_is_named(folder, key):
    content = json.loads((folder / "model.json").read_text())
    del content["inputs"][0][key]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"model\.json: an input has no {key}"):
        read_onnx(folder)


@pytest.mark.parametrize("kind, words", [(0, "has no type of numbers"), (8, "is of texts")])
def test_an_input_that_is_no_array_of_numbers_is_refused(tmp_path, kind, words):
    values = [helper.make_tensor_value_info(name, kind, ["b", 2]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=words):
        read_onnx(tmp_path / "model.onnx")


def test_damaged_places_of_external_data_are_named(folder):
    _with_external_data(folder)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "x" if entry.key == "offset" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"where tensor 'w.' lies is damaged"):
        read_onnx(folder)


def test_description_with_another_shape_names_the_input(folder):
    describe_folder(folder, (3, 8, 8))
    with pytest.raises(InputError, match="'sample'"):
        read_onnx(folder)


def test_operator_nobody_knows_is_still_readable_here(folder):
    """Which operators exist is each runtime's own matter; the file itself is well formed."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Nonsense", ["sample"], ["out_sample"], domain="nobody")],
            "g",
            [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)],
    )
    onnx.save(model, folder / "model.onnx")
    assert read_onnx(folder / "model.onnx").inputs[0].name == "sample"


@pytest.fixture
def sized(tmp_path):
    """A folder whose file leaves height and width open, with the sizes that it serves."""
    return write_handmade_folder(tmp_path / "sized", others=((16, 16), (8, 24)))


def test_described_sizes_are_read(sized):
    model = read_onnx(sized)
    assert model.sizes == ((8, 8), (16, 16), (8, 24))
    sample, timestep = model.inputs
    assert sample.shape == (1, 8, 8) and sample.shape_at((8, 24)) == (1, 8, 24)
    assert sample.kind == "sample" and timestep.sizes == ()
    assert [s.shape for s in model.outputs] == [(1, 8, 8)]


def test_open_sides_without_a_description_are_refused(sized):
    with pytest.raises(InputError, match=r"'sample' has shape .*height"):
        read_onnx(sized / "model.onnx")
    describe_folder(sized, (1, 8, 8))
    with pytest.raises(InputError, match=r"'sample' has shape .*height") as caught:
        read_onnx(sized)
    assert "model.json" in caught.value.hint


def test_sizes_of_a_fixed_graph_are_refused(folder):
    describe_folder(folder, (1, 8, 8), others=((16, 16),))
    with pytest.raises(InputError, match=r"'sample' is fixed at \[1, 8, 8\].*2 sizes"):
        read_onnx(folder)


@pytest.mark.parametrize(
    "sizes", [[[16, 16], [8, 8]], [[8, 8], [0, 8]], [[8, 8], [8]], [[8, 8], ["8", 8]], "8x8", [8]]
)
def test_sizes_that_are_none_are_named(sized, sizes):
    content = json.loads((sized / "model.json").read_text())
    content["inputs"][0]["sizes"] = sizes
    (sized / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="sizes of input 'sample' are"):
        read_onnx(sized)
