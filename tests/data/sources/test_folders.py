"""Folders: which images are found under which class and split, and what is refused."""

import json
import os
import pickle
import shutil
import socket
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.decode import open_picture
from jtl.data.sources.folders import load_folder
from jtl.data.sources.listing import natural_key
from jtl.errors import DataError

from .files import image_bytes, plant

CLASSES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/more/deep/2.png"]
SPLIT = ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/dog/4.png"]


def names(source):
    return [source.name(index) for index in range(len(source))]


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        load_folder(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_give_each_image_its_label(tmp_path):
    source = load_folder(plant(tmp_path / "photos", CLASSES))
    assert names(source) == CLASSES
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    assert source.labels.dtype == np.int32
    assert (dict(source.splits), source.groups) == ({}, None)
    assert source.where(3) == str(tmp_path / "photos" / CLASSES[3])
    for index in range(4):
        assert source[index] == image_bytes(index)
        assert (open_picture(source[index], "it").pixels() == index).all()


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "VALID", "Test")],
)
def test_split_folders_become_the_splits_of_the_source(tmp_path, train, val, test):
    called = {"train": train, "val": val, "test": test}
    paths = [f"{called[name.split('/')[0]]}/{name.split('/', 1)[1]}" for name in SPLIT]
    source = load_folder(plant(tmp_path, paths))
    assert source.classes == ("cat", "dog")
    found = {split: [source.name(index) for index in own] for split, own in source.splits.items()}
    assert found == {"train": paths[:2], "val": paths[2:3], "test": paths[3:]}
    by_name = dict(zip(names(source), source.labels.tolist(), strict=True))
    assert [by_name[path] for path in paths] == [0, 1, 0, 1]
    assert source.provenance["classes missing from a split"] == {"val": ["dog"], "test": ["cat"]}


def test_a_class_may_be_called_like_a_split(tmp_path):
    source = load_folder(plant(tmp_path, ["car/1.png", "train/1.png", "plane/1.png"]))
    assert source.classes == ("car", "plane", "train")
    assert dict(source.splits) == {}


def test_numbers_in_names_count_by_their_value(tmp_path):
    paths = [f"{label}/im{n}.png" for label in ("10", "9", "100") for n in (10, 2, 1)]
    source = load_folder(plant(tmp_path, paths))
    assert source.classes == ("9", "10", "100")
    assert names(source)[:4] == ["9/im1.png", "9/im2.png", "9/im10.png", "10/im1.png"]


@given(st.lists(st.text(st.sampled_from("ab01９٣ é/")), max_size=6))
def test_the_order_of_names_is_one_for_any_that_differ(texts):
    ordered = sorted(set(texts), key=natural_key)
    keys = [natural_key(text) for text in ordered]
    assert all(before < after for before, after in pairwise(keys))


def test_all_suffixes_of_images_are_read_whatever_their_case(tmp_path):
    endings = ["jpg", "JPEG", "Png", "webp", "bmp", "gif", "tif", "TIFF"]
    source = load_folder(plant(tmp_path, [f"{c}/1.{end}" for c in "ab" for end in endings]))
    assert len(source) == 16
    assert "left out" not in source.provenance


def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    plant(tmp_path, CLASSES)
    others = ["cat/notes.txt", "cat/more.TXT", "readme", "cat/.DS_Store", ".git/1.png"]
    others += ["__MACOSX/cat/._1.png", "dog/Thumbs.db", "cat/._1.png"]
    plant(tmp_path, others)
    source = load_folder(tmp_path)
    assert names(source) == CLASSES
    assert source.provenance["left out"] == {".txt": 2, "no suffix": 1, "hidden": 5}
    assert source.provenance["images"] == 4
    json.dumps(source.provenance)


class Watch:
    """What this process asks the system for, while it is on."""

    def __init__(self):
        self.events, self.on = [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.on and event in ("open", "os.scandir", "os.listdir"):
            self.events.append((event, os.fsdecode(arguments[0])))


WATCH = Watch()


@pytest.fixture
def watched():
    WATCH.events.clear()
    WATCH.on = True
    yield WATCH.events
    WATCH.on = False


def test_listing_looks_into_each_folder_once_and_opens_no_file(tmp_path, watched):
    plant(tmp_path / "photos", CLASSES)
    plant(tmp_path / "photos" / ".hidden", ["deep/1.png"])
    watched.clear()
    load_folder(tmp_path / "photos")
    folders = ["", "/cat", "/dog", "/dog/more", "/dog/more/deep"]
    assert sorted(watched) == [("os.scandir", f"{tmp_path}/photos{folder}") for folder in folders]


def test_reading_opens_one_file_and_the_fingerprint_each_once(tmp_path, watched):
    source = load_folder(plant(tmp_path, CLASSES))
    watched.clear()
    source[2]
    assert watched == [("open", str(tmp_path / "dog/1.png"))]
    watched.clear()
    assert source.fingerprint == source.fingerprint
    assert sorted(watched) == [("open", str(tmp_path / name)) for name in CLASSES]


def test_the_folder_may_be_a_link_itself(tmp_path):
    plant(tmp_path / "real", CLASSES)
    (tmp_path / "link").symlink_to("real")
    source, real = load_folder(tmp_path / "link"), load_folder(tmp_path / "real")
    assert names(source) == CLASSES
    assert source[0] == image_bytes(0)
    assert source.where(0) == f"{tmp_path}/link/cat/1.png"
    assert source.fingerprint == real.fingerprint
    assert "links not followed" not in source.provenance


def test_a_folder_that_is_named_from_here_is_found_from_elsewhere(tmp_path, monkeypatch):
    plant(tmp_path / "photos", CLASSES)
    monkeypatch.chdir(tmp_path)
    source = load_folder("photos")
    monkeypatch.chdir("/")
    assert source[0] == image_bytes(0)


def test_links_that_stay_inside_are_followed(tmp_path):
    plant(tmp_path, ["cat/1.png", "dog/2.png", "dog/deep/3.png"])
    (tmp_path / "cat/also.png").symlink_to("../dog/2.png")
    (tmp_path / "cat/deep").symlink_to(tmp_path / "dog/deep")
    source = load_folder(tmp_path)
    assert names(source) == [
        *("cat/1.png", "cat/also.png", "cat/deep/3.png", "dog/2.png", "dog/deep/3.png")
    ]
    assert source[1] == image_bytes(1)


def test_links_that_lead_outside_are_left_alone_unless_allowed(tmp_path, watched):
    plant(tmp_path / "photos", CLASSES)
    plant(tmp_path / "secret", ["1.png", "deep/2.png"])
    for name, target in {"cat/out.png": "secret/1.png", "cat/all": "secret"}.items():
        (tmp_path / "photos" / name).symlink_to(tmp_path / target)
    (tmp_path / "photos/cat/gone.png").symlink_to(tmp_path / "nothing.png")
    watched.clear()
    source = load_folder(tmp_path / "photos")
    assert not [path for _, path in watched if "secret" in path]
    assert names(source) == CLASSES
    assert source.provenance["links not followed"] == {
        "lead outside the folder": {"count": 3, "such as": "cat/all, cat/gone.png, cat/out.png"}
    }
    allowed = load_folder(tmp_path / "photos", follow_links=True)
    more = ["cat/all/1.png", "cat/all/deep/2.png", "cat/out.png"]
    assert names(allowed) == [*CLASSES[:2], *more, *CLASSES[2:]]
    assert allowed.provenance["links not followed"] == {
        "lead nowhere": {"count": 1, "such as": "cat/gone.png"}
    }


def test_a_neighbour_whose_name_goes_on_is_outside(tmp_path):
    plant(tmp_path / "photos", CLASSES)
    plant(tmp_path / "photos2", ["1.png"])
    (tmp_path / "photos/cat/out.png").symlink_to(tmp_path / "photos2/1.png")
    assert names(load_folder(tmp_path / "photos")) == CLASSES


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_in_a_circle_come_to_an_end(tmp_path, follow_links):
    plant(tmp_path, CLASSES)
    for name, target in {
        **{"cat/self": ".", "cat/up": "..", "dog/more/deep/top": "../../..", "cat/dogs": "../dog"},
        **{"dog/cats": "../cat", "cat/loop.png": "loop.png"},
    }.items():
        (tmp_path / name).symlink_to(target)
    source = load_folder(tmp_path, follow_links=follow_links)
    assert set(CLASSES) <= set(names(source))
    assert len(source) == 8  # each class once more within the other
    skipped = source.provenance["links not followed"]
    assert skipped["lead back to a folder above"]["count"] >= 4


def test_many_links_to_each_other_are_not_followed_in_all_combinations(tmp_path):
    plant(tmp_path, [f"{n}/1.png" for n in range(30)])
    for n in range(29):
        for side in ("a", "b"):
            (tmp_path / f"{n}/{side}").symlink_to(f"../{n + 1}")
    assert len(load_folder(tmp_path)) < 100


def test_if_nothing_but_links_is_there_the_error_says_so(tmp_path):
    plant(tmp_path / "real", CLASSES)
    (tmp_path / "links").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    said = refused(tmp_path / "links")
    assert "2 × a link that would lead outside the folder" in said
    assert "data.follow_links" in said
    assert len(load_folder(tmp_path / "links", follow_links=True)) == 4


def test_the_fingerprint_moves_with_the_files_and_forgets_when_they_were_written(tmp_path):
    first = load_folder(plant(tmp_path / "a", CLASSES)).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b/cat/1.png", (1, 1))
    assert load_folder(tmp_path / "b").fingerprint == first


CHANGES = {
    "nothing": {},
    "renamed": {"train/cat/1.png": "train/cat/0.png"},
    "relabelled": {"train/cat/1.png": "train/dog/1.png"},
    "of another split": {"val/cat/3.png": "test/cat/3.png"},
    "edited": {},
    "longer": {},
}


def test_the_fingerprint_changes_with_names_labels_splits_and_contents(tmp_path):
    prints = set()
    for change, moves in CHANGES.items():
        folder = plant(tmp_path / change, [*SPLIT, "train/cat/5.png", "val/dog/6.png"])
        for old, new in moves.items():
            (folder / new).parent.mkdir(exist_ok=True)
            (folder / old).rename(folder / new)
            if not any((folder / old).parent.iterdir()):
                (folder / old).parent.rmdir()
        data = bytearray(image_bytes(0))
        data[len(data) // 2] ^= change == "edited"
        if change in ("edited", "longer"):
            (folder / "train/cat/1.png").write_bytes(data + b"x" * (change == "longer"))
        prints.add(load_folder(folder).fingerprint)
    assert len(prints) == len(CHANGES)


def test_the_fingerprint_of_large_files_looks_at_their_middle(tmp_path):
    plant(tmp_path, CLASSES)
    data = bytearray(np.random.default_rng(0).bytes(100_001))
    prints = []
    for place in (0, 50_000, 47_000, 100_000):
        changed = data.copy()
        changed[place] ^= 1
        (tmp_path / CLASSES[0]).write_bytes(changed)
        prints.append(load_folder(tmp_path).fingerprint)
    assert prints[0] == prints[2] == prints[3] != prints[1]


@pytest.mark.parametrize("change", ["longer", "same size", "gone", "pipe", "folder gone"])
def test_a_file_that_changed_since_it_was_listed_is_named(tmp_path, change):
    source = load_folder(plant(tmp_path, CLASSES))
    path = tmp_path / "dog/1.png"
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"more")
    elif change == "same size":
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(1, source.files[2].mtime + 1))
    elif change == "folder gone":
        shutil.rmtree(tmp_path / "dog")
    else:
        path.unlink()
    if change == "pipe":
        os.mkfifo(path)
    said = "is a FIFO" if change == "pipe" else "was changed while the dataset was in use"
    with pytest.raises(DataError, match=rf"dog/1\.png {said}"):
        source[2]
    with pytest.raises(DataError, match=said):
        source.fingerprint  # noqa: B018
    assert source[0] == image_bytes(0)


@pytest.fixture
def without_rights():
    """Runs as a user without rights, where the tests run as one with all of them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def open_up(path):
    """Lets every user reach a folder that only its owner can."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(0o755)


def test_a_file_that_may_not_be_read_is_named(tmp_path, request):
    source = load_folder(plant(tmp_path, CLASSES))
    open_up(tmp_path)
    (tmp_path / "dog/1.png").chmod(0)
    request.getfixturevalue("without_rights")
    with pytest.raises(DataError, match=r"dog/1\.png cannot be read: Permission denied; allow"):
        source[2]
    assert len(source.fingerprint) == 64


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, request):
    plant(tmp_path, [*CLASSES, "emu/1.png"])
    open_up(tmp_path)
    (tmp_path / "emu").chmod(0)
    try:
        request.getfixturevalue("without_rights")
        said = refused(tmp_path)
        assert "the folder emu cannot be listed: Permission denied" in said
    finally:
        os.seteuid(os.getuid())
        (tmp_path / "emu").chmod(0o755)


def test_a_source_survives_a_journey_to_another_process(tmp_path):
    source = load_folder(plant(tmp_path, SPLIT))
    copy = pickle.loads(pickle.dumps(source))
    assert (names(copy), copy.fingerprint) == (names(source), source.fingerprint)
    assert copy[0] == source[0]


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    assert "there is no such folder (No such file" in refused(tmp_path / "nothing")
    assert "there is no such folder (embedded null" in refused(str(tmp_path) + "/\0")
    assert "is no folder; give one that holds a folder for each class" in refused(tmp_path / "file")
    assert "is no folder" in refused(tmp_path / "pipe")


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    assert "holds no image (.bmp, " in refused(tmp_path)
    plant(tmp_path, ["a/1.txt", "a/2.txt", "b/3.mp4", ".hidden.png"])
    assert "only 2 × .txt, 1 × .mp4, 1 × hidden; give a folder that" in refused(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path):
    plant(tmp_path, ["1.png", "2.png"])
    assert "all images lie right in the folder" in refused(tmp_path)
    plant(tmp_path / "splits", ["train/1.png", "test/2.png"])
    assert "all images lie right in the split folders of" in refused(tmp_path / "splits")


def test_images_beside_class_folders_are_refused(tmp_path):
    plant(tmp_path / "a", [*CLASSES, "1.png", "2.png"])
    assert "images lie beside the class folders" in refused(tmp_path / "a")
    plant(tmp_path / "b", [*SPLIT, "test/1.png", "2.png"])
    assert "2.png, test/1.png; move them into a class folder, or out" in refused(tmp_path / "b")


def test_one_class_only_is_refused(tmp_path):
    said = refused(plant(tmp_path, ["cat/1.png", "cat/2.png"]))
    assert "has one class only, cat; telling classes apart needs at least two" in said


@pytest.mark.parametrize("held", ["nothing", "text", "blank"])
def test_a_class_folder_without_images_is_refused(tmp_path, held):
    plant(tmp_path, CLASSES)
    (tmp_path / "emu").mkdir()
    if held != "nothing":
        (tmp_path / "emu" / ("1.txt" if held == "text" else "1.png")).write_bytes(b"")
    holds = {"nothing": "nothing", "text": "only 1 × .txt", "blank": "only 1 × of 0 bytes"}[held]
    assert f"the class folder emu holds no image that can be read, {holds}" in refused(tmp_path)


def test_a_class_without_training_images_is_refused(tmp_path):
    said = refused(plant(tmp_path, [*SPLIT, "val/emu/1.png", "test/fox/1.png"]))
    assert "classes in val or test that train has no example of: emu, fox" in said
    (tmp_path / "train/emu").mkdir()
    assert "emu, fox" in refused(tmp_path)


def test_an_empty_split_folder_is_refused(tmp_path):
    plant(tmp_path, SPLIT[:2])
    (tmp_path / "val").mkdir()
    assert "the split folder val holds no image" in refused(tmp_path)


def test_names_that_can_be_read_in_two_ways_are_refused(tmp_path):
    said = refused(plant(tmp_path / "a", [*SPLIT, "extra/1.png"]))
    assert "look like split folders, test, train, val, beside folders that are not: extra" in said
    said = refused(plant(tmp_path / "b", [*SPLIT, "valid/cat/1.png"]))
    assert "several folders for the split val: val, valid" in said


def test_what_only_has_an_images_name_is_refused_and_never_opened(tmp_path, watched, monkeypatch):
    plant(tmp_path, CLASSES)
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    os.mkfifo(tmp_path / "cat/pipe.txt")
    (tmp_path / "dog/link.png").symlink_to("../cat/pipe.jpg")
    monkeypatch.chdir(tmp_path / "dog")  # A socket's path holds 107 bytes at most.
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("socket.png")
        watched.clear()
        said = refused(tmp_path)
    assert "cat/pipe.jpg has an image's name but is a FIFO" in said
    assert "dog/link.png has an image's name but is a FIFO" in said
    assert "dog/socket.png has an image's name but is a socket" in said
    assert "pipe.txt" not in said
    assert {event for event, _ in watched} == {"os.scandir"}


def test_all_problems_are_told_at_once(tmp_path):
    plant(tmp_path, ["cat/1.png", "stray.png"])
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    (tmp_path / "emu").mkdir()
    said = refused(tmp_path)
    for problem in ("pipe.jpg", "stray.png", "class folder emu", "one class only"):
        assert problem in said


ODD = ["two\nlines", "\u202egnp", "<script>alert(1)<", "a\\b", "tab\t", "'; --", "ｎ１"]


def test_any_name_works_and_is_shown_on_one_line(tmp_path):
    folders = [os.fsdecode(b"caf\xe9"), *ODD]
    for folder in folders:
        plant(tmp_path, [f"{folder}/{name}.png" for name in folders])
    source = load_folder(tmp_path)
    assert len(source) == len(folders) ** 2
    assert len(set(source.classes)) == len(folders)
    assert {r"caf\xe9", r"two\nlines", r"\u202egnp", "<script>alert(1)<"} <= set(source.classes)
    assert len(set(names(source))) == len(source)
    for text in (*source.classes, *names(source), source.where(3)):
        assert text.isprintable()
        text.encode("utf-8")
    assert all(source[index][:4] == b"\x89PNG" for index in range(len(source)))
    assert len(source.fingerprint) == 64
