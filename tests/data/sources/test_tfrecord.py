"""TFRecord files: every record by its place, and no damage unnoticed."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.sources.tfrecord import masked_crc32c, read_record, scan_records
from jtl.errors import ChangedDataError, DataError
from tests.data.sources.tfds_sets import framed, write_tfrecord

PAYLOADS = [b"", b"one", b"two" * 50]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path, PAYLOADS)
    return path


def read_all(path):
    starts = scan_records(str(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        pairs = zip(starts[:-1].tolist(), starts[1:].tolist())
        return [read_record(descriptor, str(path), *pair) for pair in pairs]
    finally:
        os.close(descriptor)


def test_the_checksum_is_the_one_of_the_standard():
    # The check value of CRC-32C, 0xE3069283 (RFC 3720), masked as TFRecord has it.
    plain = 0xE3069283
    masked = ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == masked


@given(payloads=st.lists(st.binary(max_size=300), max_size=8))
def test_what_was_written_is_read(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("records") / "a"
    write_tfrecord(path, payloads)
    assert read_all(path) == payloads


def test_a_file_cut_off_anywhere_within_a_record_is_found(file):
    whole = file.read_bytes()
    edges = set(scan_records(str(file)).tolist())
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        if size in edges:
            assert read_all(file) == PAYLOADS[: sorted(edges).index(size)]
        else:
            with pytest.raises(DataError, match=r"a\.tfrecord is damaged: .* is cut off"):
                scan_records(str(file))


@pytest.mark.parametrize("byte", range(12))
def test_a_flipped_bit_in_a_length_or_its_checksum_is_found(file, byte):
    damaged = bytearray(file.read_bytes())
    damaged[scan_records(str(file))[1] + byte] ^= 0x10
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="the record at byte 16 has a length that its checksum"):
        scan_records(str(file))


def test_a_length_beyond_the_file_is_not_believed(file):
    length = struct.pack("<Q", 1 << 60)
    file.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"x" * 20)
    with pytest.raises(DataError, match="is cut off"):
        scan_records(str(file))


def test_a_record_that_moved_since_it_was_listed_is_noticed(file):
    starts = scan_records(str(file)).tolist()
    file.write_bytes(framed(b"longer than nothing") + file.read_bytes())
    with file.open("rb") as opened, pytest.raises(ChangedDataError, match="start again"):
        read_record(opened.fileno(), str(file), starts[1], starts[2])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="gone cannot be read: No such file"):
        scan_records(str(tmp_path / "gone"))
