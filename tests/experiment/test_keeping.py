"""Compiled steps that are kept: the next start finds them, and trains to the same bits."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.engine import parallel
from jtl.experiment import keeping as keeping_module
from jtl.experiment.keeping import keeping
from jtl.identity import identity
from jtl.training.kept_programs import KeptProgram, KeptPrograms
from jtl.tree import differences
from tests.experiment.runs import InterruptionError, config, run, stop_at

SHORT = {"train__phases": [{"freeze": "backbone", "epochs": 1}]}
PLACES = {
    "single": {"train__placement": "single"},
    "pmap": {"train__placement": "pmap"},
    "mesh": {"train__placement": "mesh"},
    "spread": {"train__placement": "mesh", "train__mesh": {"model": 2, "zero": True}},
}


@pytest.fixture
def kept(tmp_path):
    """A run in a folder of its own, with what the runs before it kept."""

    def start(name, options=None, **arguments):
        with KeptPrograms(tmp_path / "steps", ("some", "run")) as programs:
            return run(tmp_path / name, options or config(**SHORT), programs=programs, **arguments)

    return start


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("steps/*.program")}


@pytest.mark.parametrize("placement", PLACES)
def test_a_second_start_compiles_no_step_and_trains_to_the_same_bits(placement, kept, tmp_path):
    sizes = {"data__batch_size": 16, "data__eval_batch_size": 16}
    options = config(**PLACES[placement], **sizes, **SHORT)
    bare = run(tmp_path / "bare", options)
    first, second = kept("first", options), kept("second", options)
    assert all(first.summary["step_compilations"])
    assert second.summary["step_compilations"] == [0]
    for own in (first, second):
        assert differences(bare.variables, own.variables) == []
        assert own.summary["final"]["metrics"] == bare.summary["final"]["metrics"]


def test_an_interrupted_run_goes_on_with_kept_steps_to_the_same_bits(kept, tmp_path):
    bare = run(tmp_path / "bare")
    kept("before", config())
    with pytest.raises(InterruptionError):
        kept("cut", config(), listeners=(stop_at(9),))  # in the second phase
    again = kept("cut", config(), resume=True)
    assert again.summary["step_compilations"] == [0, 0]
    assert differences(bare.variables, again.variables) == []


def test_what_the_jax_cache_had_is_kept_in_a_form_that_runs(kept, tmp_path):
    # From here on JAX's own cache has the run's programs.
    bare = run(tmp_path / "bare", config(**SHORT))
    kept("first")
    second = kept("second")
    assert second.summary["step_compilations"] == [0]
    assert differences(bare.variables, second.variables) == []


def test_another_config_finds_other_steps(kept, tmp_path):
    kept("first")
    before = files(tmp_path)
    other = kept("second", config(**SHORT, train__loss={"label_smoothing": 0.2}))
    assert other.summary["step_compilations"] == [1]
    assert len(files(tmp_path)) == len(before) + 1  # evaluation is the same


@pytest.mark.parametrize("place", [0, -1])
def test_a_damaged_program_is_made_anew(place, kept, tmp_path):
    first = kept("first")
    for path in tmp_path.glob("steps/*.program"):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    second = kept("second")
    assert second.summary["step_compilations"] == [1]
    assert differences(first.variables, second.variables) == []
    assert kept("third").summary["step_compilations"] == [0]


def test_what_another_version_wrote_is_made_anew(kept, tmp_path):
    kept("first")
    for path in tmp_path.glob("steps/*.program"):
        strange = b"\x80\x04no pickle at all"
        path.write_bytes(hashlib.sha256(strange).digest() + strange)
    assert kept("second").summary["step_compilations"] == [1]
    assert kept("third").summary["step_compilations"] == [0]


def test_a_note_that_leads_nowhere_costs_nothing(kept, tmp_path):
    kept("first")
    (note,) = tmp_path.glob("steps/*.first")
    right = note.read_text()
    for wrong in (b"0" * 64, b"\xff\xfe", b""):
        note.write_bytes(wrong)
        assert kept("second").summary["step_compilations"] == [0]
        assert note.read_text() == right
        shutil.rmtree(tmp_path / "second")


def test_a_folder_that_cannot_be_written_keeps_nothing_and_ends_no_run(kept, tmp_path):
    (tmp_path / "steps").write_text("a file")
    assert kept("first").summary["steps"] == 3
    assert kept("second").summary["step_compilations"] == [1]
    assert (tmp_path / "steps").read_text() == "a file"


def test_the_programs_used_longest_ago_are_dropped(kept, tmp_path):
    steps = tmp_path / "steps"
    steps.mkdir()
    for age in range(80):
        path = steps / f"{age:064}.program"
        path.write_bytes(b"old")
        os.utime(path, (1e9 - age, 1e9 - age))
    kept("first")
    left = files(tmp_path)
    assert len(left) == 64
    assert f"{0:064}.program" in left
    assert f"{79:064}.program" not in left


@pytest.mark.parametrize("donated", [False, True])
def test_a_kept_step_that_fails_is_made_anew(donated, kept, tmp_path, monkeypatch):
    first = kept("first")

    def fail(self, *args):
        if donated:
            jax.tree.map(lambda leaf: leaf.delete(), args[0])
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Function fusion.2 not found")

    with monkeypatch.context() as context:
        context.setattr(KeptProgram, "__call__", fail)
        if donated:
            with pytest.raises(jax.errors.JaxRuntimeError):
                kept("second")
        else:
            assert kept("second").summary["step_compilations"] == [1]
    third = kept("third")
    assert third.summary["step_compilations"] == [int(donated)]
    assert differences(first.variables, third.variables) == []


def surroundings():
    return identity(keeping_module._surroundings(parallel.single()))


def test_a_program_belongs_to_its_settings_its_compiler_and_its_machine(tmp_path, monkeypatch):
    flags = tmp_path / "flags"
    flags.write_text("--xla_cpu_enable_fast_math=true")
    found = [surroundings()]
    with jax.default_matmul_precision("float32"):
        found.append(surroundings())
    for name, value in (("XLA_FLAGS", "--xla_a=1"), ("XLA_FLAGS", str(flags)), ("NPROC", "1")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            found.append(surroundings())
    flags.write_text("")
    with monkeypatch.context() as context:
        context.setenv("XLA_FLAGS", str(flags))
        found.append(surroundings())
    for name in ("compiler_options", "_compilers", "_machine"):
        with monkeypatch.context() as context:
            context.setattr(keeping_module, name, lambda *_: ["another"])
            found.append(surroundings())
    assert len(set(found)) == len(found)
    assert surroundings() == found[0]


def test_a_program_belongs_to_the_kind_and_the_place_of_its_arguments():
    one, two = jax.devices()[:2]
    arguments = [
        jnp.ones(2), jnp.ones(2, jnp.int32), jnp.ones(3), jnp.asarray(1.0), jnp.float32(1.0),
        np.ones(2, np.float32), [jnp.ones(2)], jax.device_put(jnp.ones(2), two),
    ]  # fmt: skip
    found = [identity(keeping_module._signature((own,))) for own in arguments]
    assert len(set(found)) == len(found)
    again = keeping_module._signature((jax.device_put(jnp.zeros(2), one),))
    assert identity(again) == found[0]


@pytest.mark.parametrize("option", ["jax_disable_jit", "jax_debug_nans"])
def test_who_debugs_gets_the_placement_itself(option, tmp_path):
    place = parallel.single()
    with KeptPrograms(tmp_path, ("debugging",)) as programs:
        jax.config.update(option, True)
        try:
            assert keeping(place, programs) is place
        finally:
            jax.config.update(option, False)
        assert keeping(place, programs) is not place


@dataclasses.dataclass(frozen=True, eq=False)
class Doubled:
    """A step of the caller's own, whose code may change."""

    donated = ()

    def __call__(self, state, batch):
        return jax.tree.map(lambda leaf: leaf * 2, state), jnp.sum(batch["image"])


def test_a_step_of_the_callers_own_is_compiled_as_ever(tmp_path):
    with KeptPrograms(tmp_path, ("own",)) as programs:
        step = keeping(parallel.single(), programs).compile(Doubled())
        state, total = step({"a": jnp.ones(3)}, {"image": jnp.ones((2, 2))})
    assert state["a"].tolist() == [2, 2, 2]
    assert total == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("again", [False, True])
def test_arguments_of_another_shape_or_structure_are_served_too(again, tmp_path):
    from jtl.engine.evaluation import make_predict_step
    from jtl.models.registry import create_model

    model = create_model("resnet_mini", num_classes=3)
    images = np.random.default_rng(0).random((6, 8, 8, 3), np.float32)
    variables = {"batch_stats": {}, **model.init(jax.random.key(0), images)}
    plain = parallel.single().compile(make_predict_step(model))
    for _ in range(1 + again):
        with KeptPrograms(tmp_path, ("shapes",)) as programs:
            step = keeping(parallel.single(), programs).compile(make_predict_step(model))
            for rows in (4, 6, 4):
                found = step(variables, {"image": images[:rows]})
                np.testing.assert_array_equal(found, plain(variables, {"image": images[:rows]}))
            with_mask = {"image": images[:4], "mask": np.ones(4, bool)}
            np.testing.assert_array_equal(step(variables, with_mask), plain(variables, with_mask))
            assert step.lower(variables, with_mask) is not None


def test_the_command_keeps_its_steps(tmp_path):
    words = ["train", "digits", "--set", "train.phases=[{freeze: backbone, steps: 2}]"]
    words += ["--set", "data.batch_size=16", "--set", "train.placement=single", "--no-report"]

    def compilations(name):
        program = "import sys; from jtl.cli import main; main(sys.argv[1:])"
        ended = subprocess.run(
            [sys.executable, "-c", program, *words, "--workdir", str(tmp_path / name)],
            env={**os.environ, "JTL_CACHE": str(tmp_path / "cache")},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads((tmp_path / name / "summary.json").read_text())["step_compilations"]

    assert compilations("first") == [1]
    assert compilations("second") == [0]
