import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import assert_same

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
VARIABLES = {
    "params": {"stem": {"kernel": KERNEL, "bias": np.ones(3, ml_dtypes.bfloat16)}},
    "batch_stats": {"stem": {"mean": np.zeros(3, np.float16)}},
}
FLAT = {
    "params/stem/kernel": KERNEL,
    "params/stem/bias": np.ones(3, ml_dtypes.bfloat16),
    "batch_stats/stem/mean": np.zeros(3, np.float16),
}


def write(path, tree):
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def packed(tmp_path, content):
    path = tmp_path / "a.msgpack"
    path.write_bytes(content)
    return path


def extension(code, *parts):
    return msgpack.packb({"a": msgpack.ExtType(code, msgpack.packb(parts))})


def test_variables_come_by_slash_path(tmp_path):
    weights = read_weights(write(tmp_path / "a.msgpack", VARIABLES))
    assert (weights.format, weights.notes) == ("msgpack", ())
    assert_same(weights.tensors, FLAT)


def test_a_training_state_gives_its_variables_and_says_what_it_left(tmp_path):
    state = {**VARIABLES, "step": 7, "opt_state": {"0": {"mu": KERNEL}}}
    weights = read_weights(write(tmp_path / "a.msgpack", state))
    assert_same(weights.tensors, FLAT)
    assert weights.notes == ("left aside 'opt_state', 'step'",)


@pytest.mark.parametrize("wrapper", ["params", "model", "state", "variables"])
def test_variables_within_a_wrapper_are_opened(tmp_path, wrapper):
    weights = read_weights(write(tmp_path / "a.msgpack", {wrapper: VARIABLES, "step": 1}))
    assert_same(weights.tensors, FLAT)
    assert weights.notes == (f"opened {wrapper!r}, left aside 'step'",)


def test_arrays_in_pieces_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    path = write(tmp_path / "a.msgpack", {"params": {"kernel": jnp.asarray(KERNEL)}})
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    assert_same(read_weights(path).tensors, {"params/kernel": KERNEL})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (extension(1, [2**40], "float32", b"\0" * 8), "float32[1099511627776] in 8 bytes"),
        (extension(1, [2], "object", b"\0" * 16), "the element type 'object'"),
        (extension(1, [2], "f4,O", b"\0" * 8), "the element type"),
        (extension(1, [2], 7, b"\0" * 8), "the element type 7"),
        (extension(1, [2]), "not enough values"),
        (extension(9, 1), "unknown kind 9"),
        (b"\x81\xa1a" + b"\x81\xa1a" * 5000 + b"\x01", "damaged"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "damaged"),
        (msgpack.packb({"a": 1}) + b"\x00", "extra data"),
        (msgpack.packb({"a": [1]}), "holds no tensors"),
        (msgpack.packb({"__msgpack_chunked_array__": True, "shape": {}}), "chunks"),
        (msgpack.packb({"__msgpack_chunked_array__": True, "shape": 1, "chunks": {}}), "TypeError"),
    ],
)
def test_damage_is_refused(tmp_path, content, said):
    assert said in refusal(packed(tmp_path, content))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = write(tmp_path / "a.msgpack", VARIABLES).read_bytes()
    for length in range(1, len(whole)):
        refusal(packed(tmp_path, whole[:length]))
