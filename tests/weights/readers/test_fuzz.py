"""Whatever bytes are damaged, only a WeightsError comes out."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtl.errors import WeightsError
from jtl.weights.readers import check_finite, read_weights
from tests.weights.readers.samples import GOLDEN, save_orbax, small_files


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return {path.name: path.read_bytes() for path in small_files(tmp_path_factory.mktemp("honest"))}


NAMES = ["a.safetensors", "a.npz", "b.npz", "a.msgpack", *GOLDEN]


def touch_everything(path):
    """Only a WeightsError may come out, whatever the bytes; what is read must be readable."""
    said = str(path)
    try:
        weights = read_weights(path)
        for tensor in weights.tensors.values():
            tensor.tobytes()
        check_finite(weights)
    except WeightsError as error:
        said = str(error)
    assert str(path) in said


def damage(draw, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        # The beginning and the end hold the headers and directories: they get half of the hits.
        near = draw(st.integers(0, min(400, len(data)) - 1))
        place = draw(st.sampled_from([near, -1 - near, draw(st.integers(0, len(data) - 1))]))
        data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, data[place] ^ 0x10]))
    return bytes(data[: draw(st.sampled_from([len(data), draw(st.integers(1, len(data)))]))])


def check_damage(path, data, whole):
    # A new file each time: the one before may still be mapped.
    path.unlink(missing_ok=True)
    path.write_bytes(damage(data.draw, whole))
    touch_everything(path)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_give_one_typed_error_or_honest_tensors(tmp_path, honest, name, data):
    check_damage(tmp_path / name, data, honest[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_damaged_files_give_one_typed_error_or_honest_tensors(tmp_path, honest, name, data):
    check_damage(tmp_path / name, data, honest[name])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=300),
    suffix=st.sampled_from([".pth", ".h5", ".npz", ".onnx", ".msgpack", ".safetensors", ".x"]),
)
def test_arbitrary_bytes_give_one_typed_error(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    touch_everything(path)


@pytest.fixture(scope="module", params=[True, False], ids=["database", "folders"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax") / "item"
    return save_orbax(folder, use_ocdbt=request.param)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_orbax_folder_gives_one_typed_error_or_honest_tensors(checkpoint, data):
    files = [p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size]
    path = sorted(files)[data.draw(st.integers(0, len(files) - 1))]
    whole = path.read_bytes()
    try:
        check_damage(path, data, whole)
    finally:
        path.write_bytes(whole)
    assert list(read_weights(checkpoint).tensors) == ["params/bn1.bias", "params/conv1.weight"]
