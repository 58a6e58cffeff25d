import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.weights.readers.protobuf import fields, packed_integers, signed
from tests.weights.readers.samples import field, varint

NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), VALUES)))
def test_fields_come_back_as_they_were_written(written):
    message = b"".join(field(number, value) for number, value in written)
    read = [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in fields(memoryview(message))
    ]
    assert read == written


@given(st.lists(NUMBERS))
def test_packed_integers_come_back_as_they_were_written(written):
    packed = b"".join(map(varint, written))
    assert packed_integers(memoryview(packed)).tolist() == written


@given(NUMBERS)
def test_a_signed_integer_survives_its_unsigned_spelling(number):
    assert signed(number % 2**64) == number


def test_packed_integers_longer_than_a_block_are_read():
    written = np.arange(100_000) * 7919 - 5
    packed = b"".join(map(varint, written.tolist()))
    np.testing.assert_array_equal(packed_integers(memoryview(packed)), written)


@pytest.mark.parametrize(
    "message",
    [
        *(b"\x0a", b"\x0a\x05ab", b"\x80", b"\x08\x80", b"\x09abc", b"\x0b", b"\x02\x00"),
        b"\x08" + b"\xff" * 11,
        b"\x0a" + b"\xff" * 9 + b"\x01",
    ],
)
def test_damage_is_a_value_error(message):
    with pytest.raises(ValueError, match=r"."):
        list(fields(memoryview(message)))


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\xff", b"\xff" * 11 + b"\x01", b"\xff" * 70_000])
def test_damaged_packed_integers_are_a_value_error(packed):
    with pytest.raises(ValueError, match="packed integer"):
        packed_integers(memoryview(packed))


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_value_error(message):
    with contextlib.suppress(ValueError):
        list(fields(memoryview(message)))
