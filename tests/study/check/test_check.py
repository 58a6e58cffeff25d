"""Each kind of finding on a small folder made for it, and what is said of clean data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.cli import main
from jtl.data.exclude import excluded
from jtl.data.options import DataOptions, load_source
from jtl.data.sources.arrays import ArraySource
from jtl.errors import DataError
from jtl.report.check_page import check_page
from jtl.study.check.check import check
from jtl.study.check.classes import class_findings
from tests.data.photos import photo, photo_bytes
from tests.data.sources.tfds_sets import Small, prepared

SIZE = (64, 80)


def folder(root, classes=("cat", "dog"), count=12):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(
                photo_bytes(1000 * label + index, "PNG", size=SIZE)
            )
    return root


def checked(root):
    source = load_source(DataOptions(source=str(root)), refuse=False)
    return source, check(source, data=str(root), max_pixels=10**6)


def kinds_of(result, name):
    return {
        finding.kind
        for finding in result.findings
        if name in [result.names[example] for example in finding.examples]
    }


def test_each_image_is_said_to_be_what_is_wrong_with_it(tmp_path):
    root = folder(tmp_path / "photos")
    cat = root / "cat"
    whole = photo_bytes(50, "JPEG", size=SIZE)
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "short.png").write_bytes(photo_bytes(51, "PNG", size=SIZE)[:900])
    (cat / "text.jpg").write_bytes(b"<html>not found</html>")
    (cat / "named.png").write_bytes(whole)
    (cat / "noend.jpg").write_bytes(photo_bytes(52, "JPEG", size=SIZE)[:-2])
    Image.new("RGB", (64, 64), (90, 90, 90)).save(cat / "blank.png")
    photo(53, size=(64, 260)).save(cat / "long.png")
    photo(54, size=(16, 20)).save(cat / "tiny.png")
    photo(55, size=SIZE).point(lambda level: level // 8).save(cat / "dark.png")
    photo(56, size=SIZE).point(lambda level: 235 + level // 13).save(cat / "bright.png")
    _, result = checked(root)
    for name, kind in {
        **{"empty.jpg": "empty_file", "short.png": "truncated", "text.jpg": "unreadable"},
        **{"named.png": "wrong_suffix", "blank.png": "blank", "long.png": "odd_aspect"},
        **{"tiny.png": "small", "dark.png": "dark", "bright.png": "bright"},
    }.items():
        assert kind in kinds_of(result, f"cat/{name}"), name
    assert kinds_of(result, "cat/noend.jpg") & {"damaged", "truncated"}
    assert kinds_of(result, "cat/0.png") <= {"suspected_label"}  # noise has no class


def test_copies_are_told_apart_by_class_and_split(tmp_path):
    root = tmp_path / "photos"
    for split in ("train", "val"):
        folder(root / split, count=6)
        for path in (root / split).rglob("*.png"):
            number = int(path.stem) + 100 * (split == "val") + 1000 * (path.parent.name == "dog")
            path.write_bytes(photo_bytes(number, "PNG", size=SIZE))
    first = (root / "train/cat/0.png").read_bytes()
    (root / "train/cat/same.png").write_bytes(first)
    (root / "val/cat/leak.png").write_bytes((root / "train/cat/1.png").read_bytes())
    (root / "train/dog/cat.png").write_bytes((root / "train/cat/2.png").read_bytes())
    _, result = checked(root)
    assert "exact_copy" in kinds_of(result, "train/cat/same.png")
    assert "leak" in kinds_of(result, "val/cat/leak.png")
    assert "contradiction" in kinds_of(result, "train/dog/cat.png")
    leak = next(finding for finding in result.findings if finding.kind == "leak")
    assert [result.names[example] for example in leak.drop] == ["train/cat/1.png"]


def test_classes_are_compared_by_name_and_number():
    names = ("Cat", "cat", "tulips", "tullip", "house", "horse", "empty")
    found = list(class_findings(names, np.array([500, 40, 300, 3, 200, 200, 0])))
    typos = [finding.message for finding in found if finding.kind == "class_typo"]
    assert [text.split(" ")[0] for text in typos] == ["Cat", "tulips"]
    assert {finding.kind for finding in found} == {
        *("class_typo", "few_examples", "imbalance", "empty_class")
    }


def test_a_folder_with_an_empty_class_is_looked_at_all_the_same(tmp_path):
    root = folder(tmp_path / "photos")
    (root / "bird").mkdir()
    with pytest.raises(DataError, match="bird"):
        load_source(DataOptions(source=str(root)))
    _, result = checked(root)
    assert result.serious
    assert [f.message for f in result.findings if f.kind == "empty_class"] == [
        "bird has no readable image"
    ]


def test_clean_data_passes_and_names_from_outside_stay_text(tmp_path, monkeypatch, capsys):
    evil = "<script>alert(1)<"
    root = folder(tmp_path / "photos", classes=("cat", evil))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["check", "photos"])
    assert end.value.code in (0, None), capsys.readouterr().out
    page = Path("check.html").read_text("utf-8")
    assert evil not in page
    assert "&lt;script&gt;alert" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert not json.loads(Path("check.json").read_text())["serious"]
    assert sorted(path.name for path in root.iterdir()) == sorted(["cat", evil])


def test_nothing_is_written_into_the_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder(tmp_path / "photos", count=2))
    with pytest.raises(SystemExit) as end:
        main(["check", "."])
    assert end.value.code == 2
    assert "within the dataset" in capsys.readouterr().err


def test_a_record_of_other_examples_is_refused(tmp_path):
    source, result = checked(folder(tmp_path / "photos", count=3))
    path = tmp_path / "check.json"
    path.write_text(json.dumps(result.to_json()))
    assert len(excluded(source, path)) == 0
    (tmp_path / "photos/cat/0.png").unlink()
    changed = load_source(DataOptions(source=str(tmp_path / "photos")))
    with pytest.raises(DataError, match="made of other examples"):
        excluded(changed, path)


def test_arrays_are_checked_too_and_the_page_draws_them():
    images = np.stack([np.asarray(photo(index, size=(40, 40))) for index in range(24)])
    images[5] = images[3]
    source = ArraySource(
        images=images, labels=np.arange(24, dtype=np.int32) % 2, classes=("a", "b")
    )
    result = check(source, data="arrays", max_pixels=10**6)
    assert [f.examples for f in result.findings if f.kind == "exact_copy"] == [(3, 5)]
    assert check_page(result, source, 10**6).count("data:image/jpeg") >= 2


def test_one_image_under_two_labels_is_found_though_it_was_compressed_anew(tmp_path):
    root = folder(tmp_path / "photos")
    photo(0, size=SIZE).save(root / "dog/again.jpg", quality=70)
    _, result = checked(root)
    found = [each for each in result.findings if each.kind == "near_contradiction"]
    assert [{result.names[own] for own in each.examples} for each in found] == [
        {"cat/0.png", "dog/again.jpg"}
    ]
    assert result.serious


def test_an_image_unlike_all_others_is_an_outlier(tmp_path):
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    base = np.asarray(photo(7, size=SIZE), np.float32)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for index in range(20):
            levels = base + rng.normal(0, 6, (1, 1, 3)) + rng.normal(0, 3, base.shape)
            Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(
                root / label / f"{index}.png"
            )
    stripes = np.zeros((*SIZE, 3), np.uint8)
    stripes[:, ::8, 1] = stripes[:, 1::8, 0] = 255
    Image.fromarray(stripes).save(root / "cat/odd.png")
    _, result = checked(root)
    outliers = [each.examples for each in result.findings if each.kind == "outlier"]
    assert [[result.names[own] for own in each] for each in outliers] == [["cat/odd.png"]]


def as_npz(tmp_path):
    images = np.stack([np.asarray(photo(index, size=(40, 40))) for index in range(24)])
    images[5] = images[3]
    np.savez(tmp_path / "photos.npz", images=images, labels=np.arange(24) % 2)
    return ["photos.npz"]


def as_manifest(tmp_path):
    root = folder(tmp_path / "photos")
    (root / "cat/copy.png").write_bytes((root / "cat/3.png").read_bytes())
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in root.rglob("*.png"))
    rows = [f"{path},{path.split('/')[1]}" for path in paths]
    (tmp_path / "photos.csv").write_text("\n".join(["path,label", *rows]))
    return ["photos.csv"]


def as_tfds(tmp_path):
    prepared(Small, tmp_path / "tfds")
    return ["tfds:small", "--data-dir", str(tmp_path / "tfds")]


@pytest.mark.parametrize("made", [as_npz, as_manifest, as_tfds])
def test_every_source_that_trains_is_checked_too(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["check", *made(tmp_path)])
    printed = capsys.readouterr()
    assert end.value.code in (None, 0, 1), printed.err
    record = json.loads(Path("check.json").read_text())
    assert record["examples"] == {as_npz: 24, as_manifest: 25, as_tfds: 21}[made]
    assert record["counts"].get("exact_copy", 0) == (made is not as_tfds)
    assert str(tmp_path) not in record["features"]
    assert "data:image/jpeg" in Path("check.html").read_text("utf-8")
