"""A run's files are whole or absent, and a damaged one is one error."""

import json

import pytest

from jtl.errors import CheckpointError
from jtl.training.files import read_json, read_lines, write_json, write_text


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "a long first text")
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old"


def test_json_comes_back_as_it_was(tmp_path):
    value = {"name": "Blüte", "metrics": {"loss": 1 / 3}, "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Blüte" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["missing/note.txt", "file/note.txt"])
def test_a_place_that_cannot_be_written_is_one_error(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"note\.txt cannot be written \(N"):
        write_text(tmp_path / place, "text")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ('{"a": ', "cannot be read"),
        ("[1]", "holds no JSON object"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_json_that_cannot_be_read_is_one_error(tmp_path, text, said):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=said):
        read_json(path)


def test_a_last_line_that_was_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    whole = [{"step": 1}, {"step": 2}]
    text = "".join(json.dumps(line) + "\n" for line in whole)
    for cut in ("", '{"st', '{"step": 3'):
        path.write_text(text + cut)
        assert list(read_lines(path)) == whole
