import zipfile

import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import assert_same, npy, zipped

ARRAYS = {
    "params/stem/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(3),
    "empty": np.zeros((0, 4), np.float16),
    "flag": np.array([True, False]),
}


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_bit_identical(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    weights = read_weights(tmp_path / "a.npz")
    assert weights.format == "npz"
    assert_same(weights.tensors, ARRAYS)


def test_another_byte_order_becomes_this_machine_s(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3, dtype=">f4"))
    assert_same(read_weights(tmp_path / "a.npz").tensors, {"a": np.arange(3, dtype=np.float32)})


def test_an_array_of_objects_is_refused_without_unpickling(tmp_path):
    class Attack:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    np.savez(tmp_path / "a.npz", a=np.array([Attack()], dtype=object))
    assert "array 'a' holds Python objects" in refusal(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "V2"), np.zeros(1, "M8")]
)
def test_an_array_of_no_numbers_is_refused(tmp_path, array):
    path = zipped(tmp_path / "a.npz", {"a.npy": npy(array)})
    assert "weights are plain numbers" in refusal(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999,)}", "reaches to byte"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "describe no tensor"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1000000000000)}", "reaches"),
        ("{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}", "damaged header"),
        ("__import__('os').system('true')", "damaged header"),
        ("{'descr': '<f4'}", "damaged header"),
        ("(" * 5000, "damaged header"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1L,)}", "reaches to byte"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, said):
    text = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    assert said in refusal(zipped(tmp_path / "a.npz", {"a.npy": data}))


def test_an_unknown_version_is_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", {"a.npy": b"\x93NUMPY\x09\x00" + bytes(50)})
    assert "damaged header" in refusal(path)


def test_an_empty_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w"):
        pass
    assert "no weights" in refusal(tmp_path / "a.npz")
