import zlib

import h5py
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers.hdf5 import read_hdf5
from jtl.weights.readers.mapped import map_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def read(path):
    return read_hdf5(str(path), map_file(path))


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 3)},
        {"chunks": (2, 3), "compression": "gzip"},
        {"chunks": (2, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "u1", "?", "<c8"])
def test_arrays_are_read_bit_for_bit_however_they_are_stored(path, options, dtype):
    array = (np.arange(24).reshape(4, 6) % 5).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("group/array", data=array, **options)
    found = read(path).arrays["group/array"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_the_attributes_of_keras_are_read_and_others_left(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group.attrs["layer_names0"] = [b"one", b"two"]
        group.attrs["weight_names"] = ["one", "two"]
        group.attrs["name"] = "three"
        group.attrs["backend"] = np.bytes_(b"four")
        group.attrs["keras_version"] = 5
        group.attrs["reference"] = group.ref
        group.attrs["note"] = "text"
    assert read(path).attributes["a"] == {
        "layer_names0": ["one", "two"],
        "weight_names": ["one", "two"],
        "name": "three",
        "backend": "four",
    }


def test_an_array_never_written_is_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (3,), "f4")
    assert "'a' has no values" in refusal(path)


def test_an_array_of_no_elements_is_read(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (0, 3), "f4")
    assert read(path).arrays["a"].shape == (0, 3)


def test_a_missing_chunk_is_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (4, 4), "f4", chunks=(2, 4))[:2] = 1
    assert "the chunk at [2, 0] is missing" in refusal(path)


def test_a_damaged_chunk_is_found_by_its_checksum(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("a", data=np.arange(99.0), chunks=(50,), fletcher32=True)
        place = dataset.id.get_chunk_info(1).byte_offset
    whole = bytearray(path.read_bytes())
    whole[place + 7] ^= 1
    path.write_bytes(whole)
    assert "does not match its checksum" in refusal(path)


@pytest.mark.parametrize("array", [np.zeros(7), np.full(7, 255, "u1"), np.full(200_001, 255, "u1")])
def test_the_checksum_agrees_with_the_library_s_at_its_edges(path, array):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=array, chunks=array.shape, fletcher32=True)
    np.testing.assert_array_equal(read(path).arrays["a"], array)


def test_a_chunk_that_unpacks_to_more_than_its_size_is_refused(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("a", (64,), "u1", chunks=(64,), compression="gzip")
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(10_000)))
    assert "a chunk unpacks to 128 bytes where 64 belong" in refusal(path)


def test_text_and_records_are_no_arrays(path):
    with h5py.File(path, "w") as file:
        file["text"] = "words"
        file["record"] = np.zeros(2, [("a", "f4")])
        file["nothing"] = h5py.Empty("f4")
    assert read(path).arrays == {}


def test_an_external_link_is_refused_and_not_followed(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3)
    with h5py.File(path, "w") as file:
        file["layers/0"] = h5py.ExternalLink("other.h5", "/secret")
    said = refusal(path)
    assert "'layers/0' is a link to the file 'other.h5'" in said


def test_a_soft_link_is_refused(path):
    with h5py.File(path, "w") as file:
        file["a"] = h5py.SoftLink("/etc/passwd")
    assert "'a' is a link to another place, '/etc/passwd'" in refusal(path)


def test_external_storage_is_refused_and_not_read(path, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(12))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (3,), "f4", external=[(str(tmp_path / "secret"), 0, 12)])
    assert "'a' keeps its values in other files" in refusal(path)


def test_a_virtual_dataset_is_refused(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3)
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)
    assert "'a' keeps its values in other files" in refusal(path)


def test_a_group_that_holds_itself_is_refused(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["again"] = group
    assert "is reached twice" in refusal(path)


def test_a_shape_far_beyond_the_file_is_refused_before_it_is_allocated(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (2**40,), "f8", chunks=(2**10,), compression="gzip")
    assert "asks for 8,796,093,022,208 bytes of memory" in refusal(path)


def test_a_chunk_far_beyond_the_file_is_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (4,), "f8", maxshape=(None,), chunks=(2**28,))
    assert "claims chunks of 2,147,483,648 bytes" in refusal(path)


def test_many_small_claims_add_up(path):
    with h5py.File(path, "w") as file:
        for index in range(40):
            file.create_dataset(str(index), (2**17,), "f8", chunks=(2**10,))
    assert "bytes of memory" in refusal(path)


def test_a_filter_that_is_a_plug_in_is_refused_and_not_looked_for(path):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((4,))
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, space, creation)
    assert "the HDF5 filter 32015, which is not read" in refusal(path)


def test_an_attribute_whose_damaged_type_would_kill_the_library_is_not_read(path):
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["name"] = "text"
    # Class 9, text of variable length: the next byte tells text (1) from a sequence (0).
    whole = path.read_bytes()
    place = whole.index(b"\x19\x01\x01\x00\x10\x00\x00\x00")
    path.write_bytes(whole[: place + 1] + b"\x33" + whole[place + 2 :])
    assert read(path).attributes["a"] == {}


def test_a_file_cut_short_is_refused(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(2000)
    whole = path.read_bytes()
    for length in range(8, len(whole), 499):
        path.write_bytes(whole[:length])
        refusal(path)


def test_texts_whose_walk_would_never_end_are_refused(path):
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["name"] = "text"
    whole = bytearray(path.read_bytes())
    heap = whole.index(b"GCOL")
    # The free rest behind the one text of four bytes: a size of nothing is walked for ever.
    rest = heap + 16 + 16 + 8
    assert int.from_bytes(whole[rest + 8 : rest + 16], "little") == 4096 - 40
    whole[rest + 8 : rest + 16] = bytes(8)
    path.write_bytes(whole)
    assert f"the texts at byte {heap:,} are damaged" in refusal(path)


def test_places_of_another_width_are_refused(path):
    with h5py.File(path, "w"):
        pass
    whole = bytearray(path.read_bytes())
    whole[13] = 4
    path.write_bytes(whole)
    assert "places of 4 and lengths of 8 bytes" in refusal(path)
