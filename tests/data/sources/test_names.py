"""Names shown: always one line that can be written, and different for different names."""

import codecs
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.sources.names import shown

ANY_TEXT = st.text(st.characters(exclude_categories=()))
# As names of files come from the system, whatever their bytes.
NAMES = st.binary(max_size=40).map(os.fsdecode)


@given(ANY_TEXT | NAMES)
def test_any_text_becomes_one_line_that_can_be_written(text):
    line = shown(text)
    assert line.isprintable()
    assert line.encode("utf-8").decode("utf-8") == line


@given(ANY_TEXT | NAMES)
def test_no_text_is_shown_as_another_is(text):
    assert read_back(shown(text)) == text


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="\\")))
def test_what_can_be_seen_stays_as_it_is(text):
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b.jpg", "a b.jpg"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[31mred\x7f", r"\x1b[31mred\x7f"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("\u2028\u0085\u00a0", r"\u2028\u0085\u00a0"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("café 猫 <script>", "café 猫 <script>"),
        ("back\\slash", r"back\\slash"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text, line):
    assert shown(text) == line


def read_back(line):
    """The text of a shown one."""

    def one(match):
        found = match[0]
        raw = found.startswith("\\x") and int(found[2:], 16) >= 0x80
        return chr(0xDC00 + int(found[2:], 16)) if raw else codecs.decode(found, "unicode_escape")

    return re.sub(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)", one, line)
