"""One save in a process of its own, with a fault at one of its file operations."""

import json
from pathlib import Path

SAVED = (1, 2)  # the steps that stand before it
STEP = 3


def state(step):
    """A state with every kind of leaf, whose parameters hold the step."""
    from tests.training.test_checkpoint import state_at

    return state_at(step, fill=step, ema=True, loss_scale=True)


def save(folder, nth, how, error=0):
    """Saves one more step; 2 if that is said to have failed."""
    from jtl.errors import CheckpointError
    from jtl.training.checkpoint import Checkpoints, Progress
    from tests.training.faults.processes import arm, disarm

    folder, status, said = Path(folder), 0, ""
    new = state(STEP)
    with Checkpoints(folder / "run") as checkpoints:
        arm(folder / "run", nth, how, error)
        try:
            checkpoints.save(new, Progress(step=STEP, best_step=STEP))
            checkpoints.wait()
        except CheckpointError as error:
            status, said = 2, str(error)
        count = disarm()
    (folder / "said.json").write_text(json.dumps({"count": count, "said": said}))
    return status


def prepare(folder):
    """Saves what stands before the save that is struck."""
    from jtl.training.checkpoint import Checkpoints, Progress

    with Checkpoints(Path(folder) / "run") as checkpoints:
        for step in SAVED:
            checkpoints.save(state(step), Progress(step=step, best_step=step))
