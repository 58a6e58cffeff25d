"""Checkpoints at an address: what is said to be saved is there, whatever fails."""

import contextlib
import shutil
import threading
from pathlib import Path

import pytest

from jtl.errors import CheckpointError
from jtl.training.checkpoint import CheckpointOptions, Checkpoints
from jtl.training.lease import PREFIX
from jtl.training.manifest import damage
from jtl.training.mirror import fetch_copy, kept_at, mirrored
from jtl.training.saved_steps import Progress, abstract
from jtl.training.storage import ObjectStorage
from jtl.tree import differences
from tests.training.faults import saving

KEEP = CheckpointOptions(keep_last=2)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    storage = ObjectStorage(f"memory://{tmp_path.name}/run")
    yield storage
    storage._files.rm(f"/{tmp_path.name}", recursive=True)


@contextlib.contextmanager
def opened(storage):
    """The checkpoints at an address, as a start finds them, and what it is told."""
    with mirrored(storage, lambda: None) as mirror:
        (mirror.folder / "config.yaml").write_text("name: tiny\n")
        with Checkpoints(mirror.folder, KEEP, mirror=mirror) as checkpoints:
            yield checkpoints, checkpoints.recover(), mirror


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(saving.state(step), Progress(step=step, best_step=step), saving.frozen())
    checkpoints.wait()


def holds(checkpoints, step):
    """Whether the newest step is this one, bit for bit."""
    assert checkpoints.progress().step == step
    found = checkpoints.restore(step, abstract(saving.state(0)))
    return differences(saving.state(step), found) == []


def groups(storage):
    """What stands in `checkpoints` there."""
    return {name.split("/")[1] for name in storage.sizes("checkpoints")}


@pytest.fixture
def stored(storage):
    """Two steps at an address; their store of frozen leaves is the third thing there."""
    with opened(storage) as (checkpoints, notes, _mirror):
        assert notes == []
        save(checkpoints, 1, 2)
    assert len(groups(storage)) == 3
    return storage


def objects_of(storage):
    """All there is but claims, by name."""
    names = (name for name in storage.sizes() if not name.startswith(PREFIX))
    return {name: storage.read(name) for name in names}


def put_back(storage, objects):
    storage.remove(objects_of(storage))
    for name, content in objects.items():
        storage.write(name, content)


def test_another_machine_goes_on_with_the_same_bits_and_the_same_steps_stay(stored):
    with opened(stored) as (checkpoints, notes, mirror):
        assert notes == []
        assert holds(checkpoints, 2)
        save(checkpoints, 3)
        here = {path.name for path in (mirror.folder / "checkpoints").iterdir()}
        assert groups(stored) == here
        assert here > {"2", "3"}
        assert "1" not in here
        assert (mirror.folder / "config.yaml").read_bytes() == stored.read("config.yaml")


def test_what_this_machine_had_never_wins_over_what_is_stored(stored):
    with opened(stored) as (checkpoints, _, mirror):
        save(checkpoints, 3)
        stale, earlier = mirror.folder, objects_of(stored)
    with opened(stored) as (checkpoints, _, _):
        save(checkpoints, 4, 5)
    assert not stale.exists()
    put_back(stored, earlier)
    with opened(stored) as (checkpoints, _, _):
        assert holds(checkpoints, 3)


def test_a_flipped_bit_is_noticed_and_the_step_before_used(stored):
    whole = objects_of(stored)
    of_newest = sorted(name for name in whole if name.startswith("checkpoints/2/"))
    for name in {*of_newest[::6], "checkpoints/2/manifest.json"}:
        put_back(stored, whole)
        broken = bytearray(whole[name])
        broken[len(broken) // 2] ^= 1 << 3
        stored.write(name, bytes(broken))
        with opened(stored) as (checkpoints, notes, _):
            (note,) = notes
            assert note.startswith("step 2 is damaged (")
            assert note.endswith(f"set aside as {stored.address}/checkpoints/damaged-2-1")
            assert holds(checkpoints, 1), name
        assert "2" not in groups(stored)
        assert stored.read(name.replace("/2/", "/damaged-2-1/")) == broken
    with opened(stored) as (checkpoints, notes, _):
        assert notes == []
        assert holds(checkpoints, 1)


def test_a_flipped_bit_in_the_frozen_leaves_is_noticed(stored):
    (name,) = [name for name in groups(stored) if name.startswith("frozen-")]
    leaf = max(stored.sizes(f"checkpoints/{name}").items(), key=lambda item: item[1])[0]
    stored.write(leaf, bytes(byte ^ 1 for byte in stored.read(leaf)))
    with opened(stored) as (checkpoints, notes, _):
        assert any(note.startswith(f"the frozen leaves {name} are damaged") for note in notes)
        assert checkpoints.progress() is None


def test_frozen_leaves_that_are_made_anew_are_stored_anew(stored):
    from tests.training.runs import VARIABLES

    (name,) = [name for name in groups(stored) if name.startswith("frozen-")]
    stored.remove([f"checkpoints/{name}/manifest.json"])
    with (
        mirrored(stored, lambda: None) as mirror,
        Checkpoints(mirror.folder, KEEP, mirror=mirror) as checkpoints,
    ):
        checkpoints.recover(VARIABLES)
        assert holds(checkpoints, 2)
    with opened(stored) as (checkpoints, notes, _):
        assert notes == []
        assert holds(checkpoints, 2)


def test_a_step_whose_manifest_is_lost_does_not_count_and_is_removed(stored):
    stored.remove(["checkpoints/2/manifest.json"])
    with opened(stored) as (checkpoints, _notes, _):
        assert "2" not in groups(stored)
        assert holds(checkpoints, 1)


def test_what_only_arrived_damaged_is_fetched_again(stored, monkeypatch):
    download, broken = ObjectStorage.download, []

    def damaging(self, name, path):
        download(self, name, path)
        if name.startswith("checkpoints/2/") and not broken:
            broken.append(name)
            path.write_bytes(b"?" + path.read_bytes())

    monkeypatch.setattr(ObjectStorage, "download", damaging)
    with opened(stored) as (checkpoints, notes, _):
        assert broken
        assert notes == []
        assert holds(checkpoints, 2)


class KilledError(BaseException):
    """Stands for the end of the process."""


class Striking:
    """Strikes at the nth change of what is stored, and at all that follow.

    Args:
        storage: whose operations fail.
        nth: from 1; 0 only counts.
        kill: whether the process ends there, or is answered with errors.
    """

    def __init__(self, storage, nth, *, kill):
        self._files, self._nth, self._kill = storage._files, nth, kill
        self.count, self._turn = 0, threading.Lock()

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for name in ("put_file", "pipe_file", "rm_file"):
            self._patch.setattr(self._files, name, self._struck(getattr(self._files, name)))
        return self

    def __exit__(self, *error):
        self._patch.undo()

    def _struck(self, change):
        def struck(path, *arguments, **options):
            if PREFIX in str(path):
                return change(path, *arguments, **options)  # signs of life come as they come
            with self._turn:
                self.count += 1
                count = self.count
            if self._kill and count == self._nth:
                raise KilledError
            if self._nth and count >= self._nth:
                raise OSError("no answer")
            return change(path, *arguments, **options)

        return struck


def operations(storage):
    """How many changes a third save makes."""
    before = objects_of(storage)
    with opened(storage) as (checkpoints, _, _), Striking(storage, 0, kill=False) as striking:
        save(checkpoints, 3)
    put_back(storage, before)
    return striking.count


def strike(storage, nth, *, kill):
    """A third save that is struck, and what the next start finds."""
    said = None
    with (
        contextlib.suppress(KilledError, CheckpointError),
        opened(storage) as (checkpoints, _, _),
        Striking(storage, nth, kill=kill),
    ):
        try:
            save(checkpoints, 3)
            said = "saved"
        except CheckpointError as error:
            said = str(error)
            assert f"step 3 could not be saved in {storage.address}/checkpoints" in said
            assert checkpoints.progress().step == 2
        finally:
            stands = "checkpoints/3/manifest.json" in storage.sizes()
    assert said is not None or kill
    if said == "saved":
        assert stands
    elif not kill:
        assert not stands
    shutil.rmtree(kept_at(storage.address))
    with opened(storage) as (checkpoints, notes, mirror):
        assert notes == []
        assert holds(checkpoints, 3 if stands else 2)
        save(checkpoints, 4)
        assert groups(storage) == {path.name for path in (mirror.folder / "checkpoints").iterdir()}
        assert holds(checkpoints, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["errors", "kill"])
def test_a_save_struck_at_any_change_leaves_what_was_saved(stored, kill):
    before, count = objects_of(stored), operations(stored)
    assert count > 30
    for nth in {*range(1, count, count // 3), count}:
        put_back(stored, before)
        strike(stored, nth, kill=kill)


@pytest.mark.soak
@pytest.mark.parametrize("kill", [False, True], ids=["errors", "kill"])
def test_a_save_struck_at_every_change_leaves_what_was_saved(stored, kill):
    before = objects_of(stored)
    for nth in range(1, operations(stored) + 1):
        put_back(stored, before)
        strike(stored, nth, kill=kill)


def test_nothing_is_written_after_another_has_taken_over(stored):
    with contextlib.suppress(CheckpointError), opened(stored) as (checkpoints, _, _mirror):
        number = int(stored.top(PREFIX)[-1].removeprefix(PREFIX)) + 1
        assert stored.create(f"{PREFIX}{number}", b'{"process": 1, "host": "far"}')
        before = objects_of(stored)
        with pytest.raises(CheckpointError, match="was taken over by process 1 on far"):
            save(checkpoints, 3)
        assert objects_of(stored) == before


def test_records_are_stored_whole_with_the_summary_last(storage, monkeypatch):
    order, write = [], ObjectStorage.write

    def noting(self, name, content):
        order.append(name)
        write(self, name, content)

    with mirrored(storage, lambda: None) as mirror:
        for name in ("summary.json", "metrics.jsonl", "config.yaml", "plots/a.png", ".new.1.tmp"):
            path = mirror.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(name)
        (mirror.folder / "activations").mkdir()
        (mirror.folder / "activations" / "train.bin").write_bytes(b"large")
        monkeypatch.setattr(ObjectStorage, "write", noting)
        mirror.store_records()
        mirror.store_records()
        (mirror.folder / "metrics.jsonl").write_text("more than before")
        mirror.store_records()
    names = [name for name in order if not name.startswith(PREFIX)]
    assert names == ["config.yaml", "metrics.jsonl", "plots/a.png", "summary.json", "metrics.jsonl"]
    assert storage.read("metrics.jsonl") == b"more than before"


def test_a_name_that_leads_out_of_the_folder_is_refused(stored):
    bad = "../" * 3 + "out"
    objects = stored._files.store  # by whatever names others gave them
    objects[f"{stored._root}/{bad}"] = objects[f"{stored._root}/config.yaml"]
    try:
        with pytest.raises(CheckpointError, match="names no file of a run"), opened(stored):
            pass
    finally:
        del objects[f"{stored._root}/{bad}"]
    assert not Path(kept_at(stored.address), "1", bad).exists()


def test_readers_that_begin_at_once_all_find_the_run_whole(stored):
    found, start = [], threading.Barrier(6)

    def read():
        start.wait()
        folder = fetch_copy(stored.address, 2)
        found.append(damage(folder / "checkpoints" / "2"))

    for _ in range(3):
        shutil.rmtree(kept_at(stored.address), ignore_errors=True)
        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[]] * 18
