"""Runs at an address of object storage: begun, interrupted, gone on with elsewhere, and read."""

import json
import shutil
from pathlib import Path

import pytest

from jtl import load_run
from jtl.errors import CheckpointError, ConfigError
from jtl.experiment.place import placed
from jtl.study.verify.compare import compare_records, compare_summaries
from jtl.training.storage import ObjectStorage
from jtl.tree import differences
from tests.experiment.runs import InterruptionError, config, run, stop_at

ADDRESS = "memory://runs/tiny"
SHORT = {"train__phases": [{"freeze": "backbone", "epochs": 3}], "train__checkpoint__every": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a folder, left alone."""
    return run(tmp_path_factory.mktemp("whole") / "run", config(**SHORT))


@pytest.fixture(scope="module", autouse=True)
def machines(tmp_path_factory):
    """What three machines keep of addresses: the one that begins, the one that goes on, a third."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("machines")

    def enter(name):
        patch.setenv("JTL_CACHE", str(folder / name))
        return folder / name

    yield enter
    patch.undo()
    ObjectStorage(ADDRESS)._files.store.clear()


@pytest.fixture(scope="module")
def went_on(machines):
    """The same run at an address, interrupted on one machine and gone on with on another."""
    first = machines("first")
    with pytest.raises(InterruptionError):
        run(ADDRESS, config(**SHORT), listeners=[stop_at(6)])
    shutil.rmtree(first)
    machines("second")
    with pytest.raises(CheckpointError, match=rf"^{ADDRESS} already holds a run: add --resume"):
        run(ADDRESS, config(**SHORT))
    with pytest.raises(ConfigError, match=rf"^{ADDRESS} was made from another config \(seed"):
        run(ADDRESS, config(**SHORT, seed=5), resume=True)
    with pytest.raises(CheckpointError, match=rf"^{ADDRESS} has no summary.json yet"):
        load_run(ADDRESS)
    return run(Path(ADDRESS), config(**SHORT), resume=True)


def test_a_run_that_is_interrupted_goes_on_elsewhere_with_the_same_bits(went_on, whole, tmp_path):
    assert went_on.kept == went_on.address == ADDRESS
    assert differences(whole.variables, went_on.variables) == []
    (tmp_path / "run").symlink_to(went_on.workdir)
    assert list(compare_summaries(whole.workdir.parent, tmp_path)) == []
    assert list(compare_records(whole.workdir.parent, tmp_path)) == []
    expected = {path.name for path in whole.workdir.iterdir()} - {".lock"}
    there = {name for name in ObjectStorage(ADDRESS).top() if not name.startswith(".claim-")}
    tensorboard = {name for name in expected | there if name.startswith("events.out")}
    assert there - tensorboard == expected - tensorboard
    assert len(there & tensorboard) == 2


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_third_machine_reads_the_run_and_what_it_says(went_on, whole, machines, checkpoint):
    machines("third")
    back = load_run(ADDRESS, checkpoint)
    assert back.address == ADDRESS
    other = load_run(whole.workdir, checkpoint)
    assert differences(other.variables, back.variables) == []
    assert back.summary["best"] == other.summary["best"]
    kept = back.workdir / "checkpoints" / str(back.record["step"]) / "manifest.json"
    kept.write_bytes(b"what was fetched before counts only if it is what is stored\n")
    (back.workdir / "gone.txt").write_text("of an earlier run")
    assert differences(other.variables, load_run(ADDRESS, checkpoint).variables) == []
    assert not (back.workdir / "gone.txt").exists()


@pytest.mark.slow
def test_reports_and_exports_are_stored_with_the_run(went_on, machines, capsys):
    from jtl.cli import main

    machines("third")
    for words in (["report", ADDRESS], ["export", ADDRESS]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code in (None, 0)
    storage = ObjectStorage(ADDRESS)
    assert ADDRESS.encode() in storage.read("report.html")
    assert {"model.safetensors", "plots"} <= set(storage.top())
    first, *others = capsys.readouterr().out.splitlines()
    assert others[0] == f"{ADDRESS}/model.safetensors"
    page = Path(first)
    assert page.read_bytes() == storage.read("report.html")
    load_run(ADDRESS)
    assert {"model.safetensors", "report.html"} <= {path.name for path in page.parent.iterdir()}


def test_a_run_at_an_address_is_compared_and_not_followed(went_on, whole, tmp_path, capsys):
    from jtl.cli import main

    page = tmp_path / "both.html"
    with pytest.raises(SystemExit) as ended:
        main(["report", ADDRESS, str(whole.workdir), "--output", str(page)])
    assert ended.value.code in (None, 0)
    assert ADDRESS in page.read_text()
    with pytest.raises(SystemExit) as ended:
        main(["report", ADDRESS, "--live"])
    assert ended.value.code == 2
    assert f"follows a run in a folder, and {ADDRESS} is an address" in capsys.readouterr().err


def test_a_damaged_step_is_not_read(went_on, machines):
    machines("third")
    storage, step = ObjectStorage(ADDRESS), went_on.record["step"]
    name = max(storage.sizes(f"checkpoints/{step}").items(), key=lambda item: item[1])[0]
    content = storage.read(name)
    storage.write(name, bytes([content[0] ^ 1]) + content[1:])
    try:
        machines("fourth")
        with pytest.raises(CheckpointError, match=rf"{ADDRESS}/checkpoints/{step} .*is damaged"):
            load_run(ADDRESS)
    finally:
        storage.write(name, content)


def test_what_is_no_run_is_left_as_it_is():
    storage = ObjectStorage("memory://elsewhere/photos")
    storage.write("one/a.jpg", b"1")
    with pytest.raises(CheckpointError, match=rf"^{storage.address} is no run .* is not empty"):
        run(storage.address, config(**SHORT), resume=True)
    assert storage.sizes() == {"one/a.jpg": 1}
    with pytest.raises(CheckpointError, match=rf"^{storage.address} is no run: it has no config"):
        load_run(storage.address)


def test_an_address_that_is_not_served_is_refused_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for workdir in ("ftp://host/run", Path("ftp://host/run")):
        with pytest.raises(CheckpointError, match=r"ftp://host/run is no folder and no address"):
            run(workdir, config(**SHORT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["crossval", "digits", "--folds", "2"],
        ["verify-resume", "digits"],
        ["tune", "digits", "--method", "grid", "--space", "space.yaml"],
    ],
    ids=lambda words: words[0],
)
def test_other_commands_refuse_an_address_and_make_no_folder(words, tmp_path, monkeypatch, capsys):
    from jtl.cli import main

    monkeypatch.chdir(tmp_path)
    space = tmp_path / "space.yaml"
    space.write_text("seed: {kind: choice, options: [0, 1]}\n")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--workdir", ADDRESS])
    assert ended.value.code == 2
    assert "is an address of object storage, where only jtl train" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [space]


def test_several_processes_are_refused_before_the_address_is_touched(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    address = "memory://several/run"
    with (
        pytest.raises(CheckpointError, match="keeps runs of one process, and these are 2"),
        placed(address, resume=True, tell=pytest.fail),
    ):
        pass
    assert ObjectStorage(address).top() == []


def test_the_records_of_a_run_name_no_folder_of_this_machine(went_on):
    storage = ObjectStorage(ADDRESS)
    said = b"".join(storage.read(name) for name in ("summary.json", "config.yaml", "data.json"))
    assert str(went_on.workdir).encode() not in said
    assert json.loads(storage.read("summary.json")) == went_on.summary
