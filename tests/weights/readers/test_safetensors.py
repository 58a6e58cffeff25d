import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import assert_same, safetensors


def entry(begin, end, shape=(1,), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


def refusal(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
    ],
)
def test_tensors_are_bit_identical_for_every_element_type(tmp_path, dtype):
    tensors = {
        "matrix": (np.arange(6) % 2).reshape(2, 3).astype(dtype),
        "scalar": np.asarray(1).astype(dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "np"})
    weights = read_weights(tmp_path / "a.safetensors")
    assert_same(weights.tensors, tensors)
    assert (weights.format, weights.metadata) == ("safetensors", {"format": "np"})


def test_tensors_are_views_of_the_mapped_file(tmp_path):
    save_file({"a": np.ones(1000, np.float32)}, tmp_path / "a.safetensors")
    tensor = read_weights(tmp_path / "a.safetensors").tensors["a"]
    assert not tensor.flags.owndata
    assert not tensor.flags.writeable


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_file({"a": np.ones(8, np.float32), "b": np.ones(3)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in range(len(whole)):
        refusal(tmp_path, whole[:length])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (safetensors({}, length=2**63), "claims 9,223,372,036,854,775,808 bytes"),
        (safetensors({}, length=2**24 + 1, body=bytes(2**24 + 64)), "claims 16,777,217 bytes"),
        (safetensors({"a": entry(0, 8, (2,)), "b": entry(4, 8)}, bytes(8)), "'a' and 'b' overlap"),
        (safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "leave a gap at byte 8"),
        (safetensors({"a": entry(0, 4)}, bytes(9)), "5 bytes of data belong to no tensor"),
        (safetensors({"a": entry(0, 8, (2,))}, bytes(4)), "reaches to byte 8 of 4"),
        (safetensors({"a": entry(0, 4, (2,))}, bytes(4)), "is F32[2] of 8 bytes in 4"),
        (safetensors({"a": entry(0, 4, (2**40, 2**40))}, bytes(4)), "bytes in 4"),
        (safetensors({"a": entry(0, 4, (-1,))}, bytes(4)), "has the shape [-1]"),
        (safetensors({"a": entry(0, 4, (True,))}, bytes(4)), "has the shape [True]"),
        (safetensors({"a": entry(4, 0)}, bytes(4)), "in -4"),
        (safetensors({"a": entry(0, 4, kind="F4")}, bytes(4)), "element type 'F4'; readable are"),
        (safetensors({"a": entry(0, 4, kind=[])}, bytes(4)), "element type []"),
        (safetensors({"a": {"dtype": "F32"}}, bytes(4)), "'a' lacks dtype, shape or data_offsets"),
        (safetensors({"a": 3}, bytes(4)), "'a' lacks"),
        (safetensors(b'{"a": 1, "a": 2}'), "names given twice: a"),
        (safetensors(b'{"a": ' + b"[" * 9000 + b"}"), "not valid JSON"),
        (safetensors(b"{\xff}"), "not valid JSON"),
        (safetensors({"__metadata__": {"a": 1}}), "__metadata__ is not text"),
        (safetensors({}), "holds no tensors"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, data, said):
    assert said in refusal(tmp_path, data)


def test_every_wrong_span_is_listed_at_once(tmp_path):
    header = {"a": entry(0, 4), "b": entry(8, 12), "c": entry(10, 14)}
    said = refusal(tmp_path, safetensors(header, bytes(20)))
    assert "leave a gap at byte 8" in said
    assert "'b' and 'c' overlap" in said
    assert "6 bytes of data" in said
