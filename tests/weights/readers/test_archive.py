import io
import struct
import zipfile
import zlib

import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from jtl.weights.readers.archive import open_archive
from tests.weights.readers.samples import npy, zipped

ONES = npy(np.ones(64, np.float32))


def read_all(path):
    archive = open_archive(path)
    return {name: archive.read(name) for name in archive.members}


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def zip_bytes(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return bytearray(file.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_whole(tmp_path, compression):
    archive = open_archive(zipped(tmp_path / "a.zip", {"a": ONES, "b/": b""}, compression))
    assert list(archive.members) == ["a"]
    assert archive.read("a").tobytes() == ONES


def test_a_stored_member_is_a_view(tmp_path):
    archive = open_archive(zipped(tmp_path / "a.zip", {"a": ONES}))
    assert not archive.read("a").flags.owndata


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = zipped(tmp_path / "a.npz", {"a.npy": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert "as a decompression bomb does" in refusal(path)
    with pytest.raises(WeightsError, match="decompression bomb"):
        read_weights(path)


def test_a_bomb_of_many_members_is_refused(tmp_path):
    members = {f"{index}.npy": bytes(2**20) for index in range(40)}
    path = zipped(tmp_path / "a.npz", members, zipfile.ZIP_DEFLATED)
    assert "decompression bomb" in refusal(path)


def test_a_member_that_unpacks_to_more_than_it_claims_is_refused(tmp_path):
    data = zip_bytes({"a": bytes(5000)}, zipfile.ZIP_DEFLATED)
    place = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, place + 24, 100)
    struct.pack_into("<I", data, place + 16, zlib.crc32(bytes(100)))
    (tmp_path / "a.zip").write_bytes(data)
    assert "does not match its checksum" in refusal(tmp_path / "a.zip")


def test_overlapping_members_are_refused(tmp_path):
    data = zip_bytes({"a": bytes(50), "b": bytes(50)})
    second = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, second + 42, 0)
    (tmp_path / "a.zip").write_bytes(data)
    assert "overlap" in refusal(tmp_path / "a.zip")


def test_a_member_listed_twice_is_refused(tmp_path):
    data = zip_bytes({"a": b"1", "b": b"2"})
    (tmp_path / "a.zip").write_bytes(bytes(data).replace(b"b", b"a"))
    assert "lists a member twice" in refusal(tmp_path / "a.zip")


def test_a_member_beyond_the_end_is_refused(tmp_path):
    data = zip_bytes({"a": bytes(50)})
    place = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, place + 20, 10_000)
    struct.pack_into("<I", data, place + 24, 10_000)
    (tmp_path / "a.zip").write_bytes(data)
    assert "reaches beyond the end" in refusal(tmp_path / "a.zip")


def test_a_member_that_is_not_where_the_directory_says_is_refused(tmp_path):
    data = zip_bytes({"a": bytes(50)})
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 42, 7)
    (tmp_path / "a.zip").write_bytes(data)
    assert "is not where" in refusal(tmp_path / "a.zip")


def test_an_encrypted_member_is_refused(tmp_path):
    data = zip_bytes({"a": bytes(50)})
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "is encrypted" in refusal(tmp_path / "a.zip")


def test_an_unusual_packing_is_refused_by_its_number(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": ONES}, zipfile.ZIP_LZMA)
    assert "zip method 14" in refusal(path)


def test_a_directory_that_claims_too_much_is_refused(tmp_path):
    data = zip_bytes({"a": bytes(50)})
    struct.pack_into("<I", data, data.rfind(b"PK\x05\x06") + 12, 2**31)
    (tmp_path / "a.zip").write_bytes(data)
    assert "its zip directory claims 2,147,483,648 bytes" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_cut_anywhere_is_refused(tmp_path, compression):
    data = zip_bytes({"a.npy": ONES}, compression)
    for length in range(1, len(data)):
        (tmp_path / "a.npz").write_bytes(data[:length])
        refusal(tmp_path / "a.npz")
