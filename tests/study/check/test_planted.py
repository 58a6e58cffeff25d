"""What was planted in real images is found, and little else; nothing is changed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.check import found
from benchmarks.planted import plant, write_digits
from jtl.cli import main
from jtl.data.options import DataOptions, load_source
from jtl.data.splits import SplitOptions, make_splits
from jtl.study.check.check import check


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted") / "digits"
    write_digits(root, stop=600)
    return root, plant(root, seed=1, scale=0.4)


@pytest.fixture(scope="module")
def result(planted):
    source = load_source(DataOptions(source=str(planted[0])), refuse=False)
    return check(source, data="digits", max_pixels=10**6, threads=2)


def test_all_that_was_planted_is_found_and_little_else(planted, result):
    score = found(result, planted[1])
    assert score["corrupt"] == score["exact"] == score["leaked"] == 1
    assert score["near"] >= 0.95
    assert score["false_corrupt"] == 0
    assert score["false_pairs"] <= 0.01
    assert score["flipped_in_first_tenth"] >= 0.7


def test_what_is_serious_is_said_by_the_exit_status_and_left_out_of_training(
    planted, tmp_path, monkeypatch, capsys
):
    root, wrong = planted
    monkeypatch.chdir(tmp_path)
    before = digest(root)
    with pytest.raises(SystemExit) as end:
        main(["check", str(root)])
    assert end.value.code == 1
    assert digest(root) == before
    assert "empty files" in capsys.readouterr().out
    record = json.loads(Path("check.json").read_text())
    assert record["serious"]
    assert record["left_out"] > 0

    from jtl.data.exclude import excluded

    source = load_source(DataOptions(source=str(root)))
    out = excluded(source, Path("check.json"))
    names = {source.name(index) for index in out}
    assert set(wrong.corrupt) <= names
    assert all(len(pair & names) == 1 for pair in wrong.exact)
    # Of a leaked pair the training image goes, the validation image stays.
    assert all(next(iter(pair & names)).startswith("train/") for pair in wrong.leaked)
    whole = make_splits(source.labels, SplitOptions(test=0.0), 0, named=source.splits)
    left = make_splits(source.labels, SplitOptions(test=0.0), 0, named=source.splits, exclude=out)
    for split, own in whole.items():
        np.testing.assert_array_equal(left[split], np.setdiff1d(own, out))
