"""Objects below an address: on a server that speaks as Google's, and in memory."""

import threading

import pytest

from jtl.errors import CheckpointError
from jtl.training.storage import ObjectStorage, is_address


@pytest.fixture(params=["gs", "memory"])
def storage(request, objects, tmp_path):
    bucket = "bucket" if request.param == "gs" else tmp_path.name
    return ObjectStorage(f"{request.param}://{bucket}/{tmp_path.name}/run/")


def test_what_was_written_is_listed_read_and_removed(storage, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 4096)
    assert storage.sizes() == {}
    assert storage.top() == []
    assert storage.read("a") is None
    storage.write("checkpoints/7/state", b"seven")
    storage.upload(file, "checkpoints/70/state")
    storage.write("empty", b"")
    for end in (b"\r", b"\n", b"\r\n", b"\n\n--==0==--"):
        storage.write("end", b"1" + end)
        assert storage.read("end") == b"1" + end
    storage.remove(["end"])
    assert storage.sizes() == {
        "checkpoints/7/state": 5,
        "checkpoints/70/state": 1 << 20,
        "empty": 0,
    }
    assert storage.sizes("checkpoints/7") == {"checkpoints/7/state": 5}
    assert storage.top() == ["checkpoints", "empty"]
    assert storage.top("em") == ["empty"]
    storage.download("checkpoints/70/state", tmp_path / "new" / "state")
    assert (tmp_path / "new" / "state").read_bytes() == file.read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state"]
    storage.remove(["checkpoints/7/state", "gone", "empty"])
    assert set(storage.sizes()) == {"checkpoints/70/state"}
    with pytest.raises(CheckpointError, match=r"run/gone cannot be fetched \(it is not there"):
        storage.download("gone", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_an_object_is_made_once_and_what_made_it_may_ask_again(storage):
    assert storage.create("claim", b"first")
    assert not storage.create("claim", b"second")
    assert storage.create("claim", b"first"), "as after an answer that was lost"
    assert storage.read("claim") == b"first"


def test_of_many_that_make_an_object_one_succeeds(objects, tmp_path):
    storage = ObjectStorage(f"gs://bucket/{tmp_path.name}")
    made, start = [], threading.Barrier(8)

    def make(number):
        start.wait()
        made.append(storage.create("claim", b"%d" % number))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_an_upload_that_does_not_arrive_whole_is_an_error(storage, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    cut = tmp_path / "cut"
    cut.write_bytes(b"123")
    put = storage._files.put_file
    monkeypatch.setattr(storage._files, "put_file", lambda path, name: put(str(cut), name))
    with pytest.raises(CheckpointError, match=r"name cannot be written \(3 of 4 bytes"):
        storage.upload(file, "name")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/run", "gs://BUCKET/FOLDER or s3://BUCKET/FOLDER"),
        ("gs://", "gs:// is no folder|gs: is no folder"),
        ("s3://bucket/run", r"needs s3fs, which is not installed: pip install 'jtl\[s3\]'"),
    ],
)
def test_what_is_not_served_is_refused_with_what_to_do(address, said, monkeypatch):
    import fsspec

    def missing(scheme, **options):
        raise ImportError(f"no {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(CheckpointError, match=said):
        ObjectStorage(address)


def test_a_bucket_that_does_not_exist_is_named(objects):
    with pytest.raises(CheckpointError, match=r"gs://nobody/run/name cannot be written.*bucket"):
        ObjectStorage("gs://nobody/run").write("name", b"1")
    with pytest.raises(CheckpointError, match=r"gs://nobody/run/name cannot be written.*bucket"):
        ObjectStorage("gs://nobody/run").create("name", b"1")


def test_folders_are_no_addresses():
    assert is_address("gs://bucket/run")
    assert is_address("s3://b")
    assert is_address("ftp://host")
    assert not any(map(is_address, ["runs/gs", "/runs/a:b", "C:/runs"[2:], "a:b/c", "./gs:/run"]))


def test_what_arrives_spoilt_at_full_length_is_no_success(objects, tmp_path, monkeypatch):
    storage = ObjectStorage(f"gs://bucket/{tmp_path.name}")
    arrived = storage._files.info

    def spoilt(path):
        storage._files.pipe_file(path, b"sPoilt")
        return arrived(path)

    (tmp_path / "file").write_bytes(b"spoilt")
    storage.upload(tmp_path / "file", "file")
    monkeypatch.setattr(storage._files, "info", spoilt)
    with pytest.raises(CheckpointError, match=r"file cannot be written \(it has arrived damaged"):
        storage.upload(tmp_path / "file", "file")
    with pytest.raises(CheckpointError, match="arrived damaged"):
        storage.write("file", b"spoilt")
