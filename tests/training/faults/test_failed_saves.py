"""A disk that fails for a while: the run stops or goes on, as it was told, and never says saved."""

import pytest

from jtl.errors import CheckpointError, TakenOverError
from jtl.training import checkpoint
from jtl.training.checkpoint import Checkpoints
from jtl.training.events import Unsaved
from tests.training.runs import VARIABLES, run_loop, scripted

# Of the evaluations after steps 3, 5, 8 and 10 the second is best, and the last is next.
SCORES = (0.5, 0.9, 0.6, 0.7)


@pytest.fixture
def failing(monkeypatch):
    """Makes the saves of these steps fail as a full disk lets them fail."""
    write = checkpoint.write_manifest

    def fail(*steps):
        def full(folder, *rest):
            if int(folder.name) in steps:
                raise OSError(28, "No space left on device")
            write(folder, *rest)

        monkeypatch.setattr(checkpoint, "write_manifest", full)

    return fail


def test_a_failed_save_ends_the_run_at_the_next_one(tmp_path, failing):
    failing(5)
    with pytest.raises(CheckpointError, match=r"step 5 could not be saved .*No space left"):
        run_loop(tmp_path, validate=scripted(SCORES))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 3


def test_a_run_that_was_told_to_goes_on_and_its_best_is_one_that_it_has(tmp_path, failing):
    failing(5, 8)
    heard = []
    _, progress = run_loop(
        tmp_path, validate=scripted(SCORES), on_failure="continue", listeners=(heard.append,)
    )
    notes = [event.note for event in heard if isinstance(event, Unsaved)]
    assert [note.partition(" could not be saved")[0] for note in notes] == ["step 5", "step 8"]
    assert (progress.step, progress.best_step) == (10, 10)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 10
        assert checkpoints.has(10)
        assert not checkpoints.has(5)
        checkpoints.variables(progress.best_step, VARIABLES)


def test_the_last_save_must_succeed(tmp_path, failing):
    failing(10)
    with pytest.raises(CheckpointError, match="step 10 could not be saved"):
        run_loop(tmp_path, validate=scripted(SCORES), on_failure="continue")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 8


def test_a_run_that_another_process_goes_on_with_ends_whatever_it_was_told(tmp_path, monkeypatch):
    write = checkpoint.write_manifest

    def lost(folder, *rest):
        if int(folder.name) == 5:
            raise TakenOverError("the run was taken over by process 7 on other")
        write(folder, *rest)

    monkeypatch.setattr(checkpoint, "write_manifest", lost)
    with pytest.raises(TakenOverError, match=r"^the run was taken over by process 7 on other$"):
        run_loop(tmp_path, validate=scripted(SCORES), on_failure="continue")
