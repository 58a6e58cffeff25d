import json

import ml_dtypes
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import (
    DATA,
    TORCH_SHAPES,
    assert_same,
    field,
    onnx_model,
    onnx_node,
    onnx_tensor,
    ruled,
    varint,
)

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
CONV = onnx_node("Conv", ["x", "w"])


def write(tmp_path, nodes, tensors):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_model(nodes, tensors))
    return path


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def external(tmp_path, location, **more):
    entries = {"location": location, **more}
    return write(tmp_path, [CONV], [onnx_tensor("w", (2, 3, 2, 2), None, entries)])


def test_a_real_export_keeps_the_names_of_its_parameters():
    weights = read_weights(DATA / "torch-separate.onnx")
    expected = ruled(TORCH_SHAPES)
    assert_same(
        weights.tensors,
        {name: t for name, t in expected.items() if not name.endswith("num_batches_tracked")},
    )
    assert weights.metadata["batch_norm"] == "separate"
    assert json.loads(weights.metadata["graph_order"])[:2] == [
        ["Conv", "conv1"],
        ["BatchNormalization", "bn1"],
    ]


def folded():
    """The net's convolutions with its normalisations (eps 1e-5) multiplied in."""
    state = {name: tensor.astype(np.float64) for name, tensor in ruled(TORCH_SHAPES).items()}
    tensors = {name: state[name] for name in ("fc.weight", "fc.bias")}
    layers = {"conv1": "bn1", "layer1.0.conv": "layer1.0.bn", "layer1.1.conv": "layer1.1.bn"}
    for conv, norm in layers.items():
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        tensors[f"{conv}.weight"] = state[f"{conv}.weight"] * scale[:, None, None, None]
        tensors[f"{conv}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return tensors


@pytest.mark.parametrize("name", ["torch-folded.onnx", "torch-dynamo.onnx"])
def test_anonymous_tensors_of_a_folded_export_are_named_by_their_layers(name):
    weights = read_weights(DATA / name)
    expected = folded()
    assert sorted(weights.tensors) == sorted(expected)
    for key, tensor in expected.items():
        np.testing.assert_allclose(weights.tensors[key], tensor, rtol=1e-5, err_msg=key)
    assert weights.metadata["batch_norm"] == "absent"
    assert "of 8 tensors by their place in the graph" in weights.notes[0]


def test_tensors_of_a_graph_without_any_names_are_named_by_operation_and_rank(tmp_path):
    nodes = [
        onnx_node("Conv", ["x", "497", "498"], outputs=("y",)),
        onnx_node("Relu", ["y"], outputs=("z",)),
        onnx_node("Conv", ["z", "500"], outputs=("u",)),
        onnx_node("Gemm", ["u", "501", "502"], integers={"transB": 1}),
    ]
    names = ["500", "502", "497", "501", "498", "shape"]
    tensors = [
        onnx_tensor(name, (1,), np.float32(int(name[:3] != "sha")).tobytes()) for name in names
    ]
    weights = read_weights(write(tmp_path, nodes, tensors))
    assert list(weights.tensors) == [
        *("Conv.0.weight", "Conv.0.bias", "Conv.1.weight", "Gemm.0.weight", "Gemm.0.bias")
    ]
    assert json.loads(weights.metadata["graph_order"]) == [
        *(["Conv", "Conv.0"], ["Conv", "Conv.1"], ["Gemm", "Gemm.0"])
    ]
    assert weights.notes[-1].endswith("no layer reads as a weight: shape")


def test_a_dense_weight_multiplied_from_the_right_is_transposed(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    node = onnx_node("Gemm", ["x", "fc.weight"])
    path = write(tmp_path, [node], [onnx_tensor("fc.weight", (2, 3), matrix.tobytes())])
    weights = read_weights(path)
    assert_same(weights.tensors, {"fc.weight": matrix.T})
    assert weights.notes == ("transposed 1 dense weights to [out, in]",)


def test_a_constant_node_and_an_identity_hold_weights_too(tmp_path):
    value = field(1, "value") + field(5, onnx_tensor("", (2, 3, 2, 2), KERNEL.tobytes()))
    nodes = [
        onnx_node("Constant", [], outputs=("w0",)) + field(5, value),
        onnx_node("Identity", ["w0"], outputs=("conv1.weight",)),
        onnx_node("Conv", ["x", "conv1.weight"]),
    ]
    assert_same(read_weights(write(tmp_path, nodes, [])).tensors, {"conv1.weight": KERNEL})


@pytest.mark.parametrize(
    ("kind", "dtype", "number", "packed"),
    [
        (1, np.float32, 4, lambda a: a.tobytes()),
        (11, np.float64, 10, lambda a: a.tobytes()),
        (7, np.int64, 7, lambda a: b"".join(map(varint, a.tolist()))),
        (3, np.int8, 5, lambda a: b"".join(map(varint, a.tolist()))),
        (10, np.float16, 5, lambda a: b"".join(map(varint, a.view(np.uint16).tolist()))),
        (16, ml_dtypes.bfloat16, 5, lambda a: b"".join(map(varint, a.view(np.uint16).tolist()))),
    ],
)
def test_values_in_typed_fields_are_read(tmp_path, kind, dtype, number, packed):
    values = np.array([1, -2, 3, 0]).astype(dtype)
    tensor = onnx_tensor("w", (2, 2), None, kind=kind) + field(number, packed(values))
    tensors = read_weights(write(tmp_path, [CONV], [tensor])).tensors
    assert_same(tensors, {"Conv.0.weight": values.reshape(2, 2)})


def test_data_beside_the_file_is_read_as_a_view(tmp_path):
    (tmp_path / "a.data").write_bytes(bytes(8) + KERNEL.tobytes())
    path = external(tmp_path, "a.data", offset="8", length=str(KERNEL.nbytes))
    tensors = read_weights(path).tensors
    assert_same(tensors, {"Conv.0.weight": KERNEL})
    assert not tensors["Conv.0.weight"].flags.owndata


@pytest.mark.parametrize(
    "location", ["../secret", "sub/../../secret", "/etc/passwd", "C:\\secret", "..\\secret", ""]
)
def test_data_outside_the_folder_is_refused_and_not_read(tmp_path, location):
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(KERNEL.tobytes())
    said = refusal(external(folder, location))
    assert "outside the folder of its ONNX file" in said
    assert "tensor 'w'" in said


def test_data_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(KERNEL.tobytes())
    (folder / "a.data").symlink_to(tmp_path / "secret")
    assert "outside the folder" in refusal(external(folder, "a.data"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"offset": "1"}, "reaches to byte 97 of 96"),
        ({"offset": "-1"}, "describe no tensor"),
        ({"offset": "x"}, "is damaged"),
        ({"length": "95"}, "95 bytes for float32"),
    ],
)
def test_data_beside_the_file_that_does_not_fit_is_refused(tmp_path, more, said):
    (tmp_path / "a.data").write_bytes(KERNEL.tobytes())
    assert said in refusal(external(tmp_path, "a.data", **more))


def test_missing_data_beside_the_file_is_named(tmp_path):
    assert "'a.data', which is missing" in refusal(external(tmp_path, "a.data"))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (onnx_tensor("w", (2**40,), bytes(8)), "reaches to byte"),
        (onnx_tensor("w", (2**62, 2**62), bytes(8)), "reaches to byte"),
        (onnx_tensor("w", (-1,), bytes(8)), "describe no tensor"),
        (onnx_tensor("w", (1,), bytes(8)), "of 4 bytes but holds 8"),
        (onnx_tensor("w", (1,) * 20, bytes(4)), "20 dimensions"),
        (field(8, b"\xff"), "is damaged as an ONNX file"),
        (field(8, 3), "a number where text should be"),
        (field(8, "w") + field(2, 1) + field(9, 7), "a number where data should be"),
    ],
)
def test_a_damaged_tensor_is_refused(tmp_path, tensor, said):
    assert said in refusal(write(tmp_path, [CONV], [tensor]))


def test_two_tensors_that_would_bear_one_name_are_refused(tmp_path):
    nodes = [
        onnx_node("Conv", ["x", "a"], name="/conv1/Conv"),
        onnx_node("Conv", ["x", "b"], name="/conv1/Conv_1"),
    ]
    one = np.float32(1).tobytes()
    path = write(tmp_path, nodes, [onnx_tensor("a", (1,), one), onnx_tensor("b", (1,), one)])
    assert "two tensors would be named conv1.weight" in refusal(path)


def test_a_sparse_tensor_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(field(1, 8) + field(7, field(15, b"")))
    assert "sparse tensors" in refusal(path)


def test_a_file_cut_short_is_refused(tmp_path):
    whole = (DATA / "torch-folded.onnx").read_bytes()
    for length in range(1, len(whole) - 1, 41):
        (tmp_path / "a.onnx").write_bytes(whole[:length])
        refusal(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", ["torch-separate.onnx", "torch-folded.onnx", "torch-dynamo.onnx"])
def test_the_graph_agrees_with_the_onnx_library(name):
    onnx = pytest.importorskip("onnx")
    from jtl.weights.readers.onnx_graph import read_graph

    ours, theirs = read_graph(DATA / name), onnx.load(DATA / name).graph
    assert [(n.kind, n.name, list(n.inputs), list(n.outputs)) for n in ours.nodes] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in theirs.node
    ]
    for tensor in theirs.initializer:
        np.testing.assert_array_equal(ours.tensors[tensor.name], onnx.numpy_helper.to_array(tensor))
