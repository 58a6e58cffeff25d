"""Manifests: what a table says of its images, and everything that is wrong with it at once."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jtl.data.sources.folders import load_folder
from jtl.data.sources.manifest import load_manifest
from jtl.errors import DataError

from .files import image_bytes, plant

PATHS = ["b/1.png", "a/2.png", "3.png", "a/4.png"]


@pytest.fixture
def images(tmp_path):
    return plant(tmp_path / "images", PATHS)


def write_csv(folder, *lines, name="table.csv"):
    path = folder / name
    path.write_bytes(b"\n".join(os.fsencode(line) for line in lines) + b"\n")
    return path


def write_parquet(folder, **columns):
    path = folder / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        load_manifest(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_rows_become_examples_in_their_order(images):
    rows = [f"{path},{label}" for path, label in zip(PATHS, ("dog", "cat", "10", "9"), strict=True)]
    source = load_manifest(write_csv(images, "path,label", *rows))
    assert names(source) == PATHS
    assert source.classes == ("9", "10", "cat", "dog")
    np.testing.assert_array_equal(source.labels, [3, 2, 1, 0])
    assert source.labels.dtype == np.int32
    assert (dict(source.splits), source.groups) == ({}, None)
    assert [source[index] for index in range(4)] == [image_bytes(index) for index in range(4)]
    assert source.where(0) == f"{images}/b/1.png"


def test_splits_and_groups_are_taken_from_their_columns(images):
    rows = [
        *("b/1.png,cat,train,ann", "a/2.png,dog,Training,ben"),
        *("3.png,cat,valid,ann", "a/4.png,dog,test,cyd"),
    ]
    source = load_manifest(write_csv(images, "path,label,split,group", *rows))
    found = {name: indices.tolist() for name, indices in source.splits.items()}
    assert found == {"train": [0, 1], "val": [2], "test": [3]}
    np.testing.assert_array_equal(source.groups, [0, 1, 0, 2])
    assert np.issubdtype(source.groups.dtype, np.integer)


@pytest.mark.parametrize("kind", ["|", ";", "lists"])
def test_images_may_have_several_labels(images, kind):
    labels = [["sea", "sky"], ["sky"], ["tree", "sky", "sea"], ["sea"]]
    if kind == "lists":
        path = write_parquet(images, path=PATHS, labels=labels)
    else:
        rows = [f"{name},{f' {kind}'.join(own)}" for name, own in zip(PATHS, labels, strict=True)]
        path = write_csv(images, "path,labels", *rows)
    source = load_manifest(path)
    assert source.classes == ("sea", "sky", "tree")
    expected = np.float32([[1, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(source.labels, expected)
    assert source.labels.dtype == np.float32


def test_parquet_and_csv_say_the_same(images):
    labels, splits = [1, 0, 1, 0], ["train", "train", "val", "val"]
    rows = [f"{n},{label},{s},x" for n, label, s in zip(PATHS, labels, splits, strict=True)]
    by_csv = load_manifest(write_csv(images, "path,label,split,note", *rows))
    path = write_parquet(images, note=["x"] * 4, split=splits, label=labels, path=PATHS)
    by_parquet = load_manifest(path)
    assert by_csv.fingerprint == by_parquet.fingerprint
    for source in (by_csv, by_parquet):
        assert source.provenance["columns left alone"] == ["note"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_tables_of_every_office_are_read(images, comma, start, end):
    rows = [["path", " label"], ["b/1.png", "a cat"], ["3.png", " dog "], []]
    text = start + end.join(comma.join(row) for row in rows)
    (images / "t.csv").write_bytes(text.encode())
    assert load_manifest(images / "t.csv").classes == ("a cat", "dog")


def test_quoted_names_may_hold_anything(tmp_path):
    odd = ['two\nlines,"quoted".png', os.fsdecode(b"caf\xe9.png"), "a\u2028b\x0c.png"]
    plant(tmp_path, odd)
    rows = ['"' + name.replace('"', '""') + f'",{n % 2}' for n, name in enumerate(odd)]
    source = load_manifest(write_csv(tmp_path, "path,label", *rows))
    assert [file.name for file in source.files] == odd
    assert names(source)[:2] == [r'two\nlines,"quoted".png', r"caf\xe9.png"]
    assert len(source.fingerprint) == 64


def test_paths_start_from_another_folder_where_one_is_given(images, tmp_path):
    path = write_csv(
        tmp_path, "path,label", "b/1.png,a", f"{images}/3.png,b", "a/../3.png/../a/2.png,b"
    )
    source = load_manifest(path, root=images)
    assert names(source) == ["b/1.png", "3.png", "a/2.png"]
    assert source[1] == image_bytes(2)


def test_the_folder_may_be_a_link_itself(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    rows = ["b/1.png,a", f"{tmp_path}/link/3.png,b", f"{images}/a/2.png,b"]
    source = load_manifest(write_csv(tmp_path / "link", "path,label", *rows))
    assert names(source) == ["b/1.png", "3.png", "a/2.png"]
    assert source.where(0) == f"{tmp_path}/link/b/1.png"
    assert [source[n] for n in range(3)] == [image_bytes(n) for n in (0, 2, 1)]


def test_a_manifest_and_a_folder_of_the_same_images_share_their_fingerprint(tmp_path):
    folder = load_folder(plant(tmp_path, ["cat/1.png", "dog/2.png"]))
    table = load_manifest(write_csv(tmp_path, "path,label", "cat/1.png,cat", "dog/2.png,dog"))
    other = load_manifest(write_csv(tmp_path, "path,label", "cat/1.png,dog", "dog/2.png,cat"))
    assert folder.fingerprint == table.fingerprint != other.fingerprint


def test_the_fingerprint_changes_with_groups(images):
    prints = set()
    for groups in ("xxyy", "xyyy", "xyxy"):
        rows = [
            f"{path},{n % 2},{g}" for n, (path, g) in enumerate(zip(PATHS, groups, strict=True))
        ]
        prints.add(load_manifest(write_csv(images, "path,label,group", *rows)).fingerprint)
    assert len(prints) == 3


def test_paths_outside_the_folder_are_refused_unless_allowed(images, tmp_path):
    plant(tmp_path, ["secret.png", "other/5.png"])
    (images / "link.png").symlink_to("../secret.png")
    (images / "folder").symlink_to("../other")
    rows = [
        "../secret.png,a",
        f"{tmp_path}/secret.png,a",
        "link.png,b",
        "folder/5.png,b",
        "3.png,b",
    ]
    path = write_csv(images, "path,label", *rows)
    said = refused(path)
    assert "paths lead outside the folder (data.follow_links allows that): ../secret.png, " in said
    for row in rows[:-1]:
        assert row.split(",")[0] in said
    path = write_csv(images, "path,label", *rows[1:])
    source = load_manifest(path, follow_links=True)
    assert names(source) == [f"{tmp_path}/secret.png", "link.png", "folder/5.png", "3.png"]
    assert [source[n] for n in range(3)] == [image_bytes(0), image_bytes(0), image_bytes(1)]


def test_nothing_outside_is_told_to_be_there_or_not(images, tmp_path):
    plant(tmp_path, ["there.png"])
    for name in ("there.png", "missing.png"):
        path = write_csv(images, "path,label", f"../{name},a", "3.png,b")
        assert f"outside the folder (data.follow_links allows that): ../{name}" in refused(path)


def test_links_that_stay_inside_are_followed(images):
    (images / "link.png").symlink_to("a/2.png")
    source = load_manifest(write_csv(images, "path,label", "link.png,a", "3.png,b"))
    assert source[0] == image_bytes(1)


def test_the_same_file_in_two_rows_is_refused(images):
    path = write_csv(images, "path,label", "3.png,a", "a/../3.png,b", "./3.png,b", "a/2.png,b")
    assert "paths stand in several rows: 3.png." in refused(path)


def test_missing_files_are_counted_and_the_first_ones_named(images):
    rows = [f"gone{n}.png,{n % 2}" for n in range(9)]
    said = refused(write_csv(images, "path,label", "3.png,1", *rows))
    assert (
        "paths lead to no file: gone0.png, gone1.png, gone2.png, gone3.png, gone4.png and 4 more"
        in said
    )


def test_all_that_is_wrong_is_told_at_once(images):
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    rows = [
        *("gone.png,cat,train,x", "3.png,,train,x", "3.png,cat,trian,", "a,cat,val,x"),
        *("pipe.png,dog,test,x", ",dog,test,x", "a/2.png,dog", "nul\0.png,cat,val,x"),
        *("loop.png,cat,val,x", "a/2.png/more.png,cat,val,x", f"{'n' * 300}.png,cat,val,x"),
    ]
    said = refused(write_csv(images, "path,label,split,group", *rows))
    for problem in (
        "rows have not 4 cells, as the header has: lines 8",
        "rows have no path: lines 7",
        "rows have no label: lines 3",
        "rows have no group: lines 4",
        "paths lead to no file: gone.png",
        "paths lead to a folder: a",
        "paths lead to a FIFO: pipe.png",
        "paths stand in several rows: 3.png",
        "embedded null",
        "Too many levels of symbolic links",
        "Not a directory",
        "File name too long",
        "names of splits are unknown: trian; a split is train, val or test",
        "classes in val or test that train has no example of: dog",
    ):
        assert problem in said


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("file_path,label", r"the column path is missing \(is 'file_path' meant\?\)"),
        ("Path,label", r"the column path is missing \(is 'Path' meant\?\)"),
        ("path,lable", r"the column label \(or labels\) is missing \(is 'lable' meant\?\)"),
        ("path,class", r"the column label \(or labels\) is missing; the header holds path, class"),
        ("path,label,labels", "there are both label and labels; keep one"),
        ("path,label,splits", r"the column split stands there misspelt \(is 'splits' meant\?\)"),
        ("path,label,Group", r"the column group stands there misspelt \(is 'Group' meant\?\)"),
        ("path,label,path", "the column path stands there twice"),
        ("", "the column path is missing; the column label .* the header holds nothing"),
        ("wh\x1bat", r"path is missing.* label .*the header holds wh\\x1bat"),
    ],
)
def test_a_header_that_does_not_say_what_it_must_is_refused(images, header, said):
    with pytest.raises(DataError, match=said):
        load_manifest(write_csv(images, header, "3.png,a"))


@pytest.mark.parametrize("extra", ["species", "width", "author", "latitude", "url", "id"])
def test_columns_of_other_names_are_left_alone(images, extra):
    path = write_csv(images, f"{extra},path,label", "7,3.png,a", ",a/2.png,b")
    assert load_manifest(path).provenance["columns left alone"] == [extra]


def test_one_class_or_no_rows_are_refused(images):
    one = write_csv(images, "path,label", "3.png,cat", "a/2.png,cat")
    assert "it has one class only, cat" in refused(one)
    assert "it lists no image" in refused(write_csv(images, "path,label"))


def test_what_is_no_table_is_refused(images):
    (images / "t.parquet").write_bytes(b"PAR1 not really")
    assert "t.parquet cannot be read as Parquet" in refused(images / "t.parquet")
    (images / "t.txt").write_text("path,label")
    assert "a manifest is a .csv or a .parquet file, not '.txt'" in refused(images / "t.txt")
    assert "cannot be read (No such file or directory)" in refused(images / "nothing.csv")
    os.mkfifo(images / "pipe.csv")
    assert "pipe.csv is a FIFO, no file" in refused(images / "pipe.csv")
    huge = write_csv(images, "path,label", "3.png," + "a" * 200_000)
    assert "line 2: field larger than field limit" in refused(huge)


def test_lists_where_one_value_belongs_are_refused(images):
    path = write_parquet(images, path=PATHS, label=[["a"], ["b"], ["a"], ["b"]])
    assert "label hold lists, which only labels may hold" in refused(path)


def test_cells_of_separators_alone_name_no_label(images):
    said = refused(write_csv(images, "path,labels", "3.png,a|b", "a/2.png, | ;"))
    assert "rows have no labels: lines 3" in said


@pytest.mark.parametrize("labels", [[["a"], None, ["b"], []], [["a"], [""], ["b"], [None]]])
def test_images_of_no_label_are_named(images, labels):
    assert "rows have no labels: lines 2, 4" in refused(
        write_parquet(images, path=PATHS, labels=labels)
    )


def test_another_column_may_group(images):
    rows = [f"{path},{n % 2},{who}" for n, (path, who) in enumerate(zip(PATHS, "yxyx"))]
    for table in (
        write_csv(images, "path,label,person", *rows),
        write_parquet(images, path=PATHS, label=["0", "1", "0", "1"], person=list("yxyx")),
    ):
        source = load_manifest(table, group="person")
        np.testing.assert_array_equal(source.groups, [1, 0, 1, 0])
    said = refused(write_csv(images, "path,label,person", *rows), group="patient")
    assert "no column 'patient' to group by; the header holds path, label, person" in said
