"""One save in a process of its own, with a fault at one of its file operations."""

import dataclasses
import json
from pathlib import Path

SAVED = (1, 2)  # the steps that stand before it
STEP = 3


def state(step):
    """A state with every kind of leaf, whose parameters hold the step, but for frozen ones."""
    from tests.training.runs import VARIABLES
    from tests.training.test_checkpoint import state_at

    found = state_at(step, fill=step, ema=True, loss_scale=True)
    return dataclasses.replace(found, params={**found.params, "stem": VARIABLES["params"]["stem"]})


def frozen():
    """The digests of the leaves that no step changes, which are stored once."""
    from jtl.tree import digest
    from tests.training.runs import VARIABLES

    return {"params/stem/kernel": digest(VARIABLES["params"]["stem"]["kernel"])}


def save(folder, nth, how, error=0):
    """Saves one more step; 2 if that is said to have failed."""
    from jtl.errors import CheckpointError
    from jtl.training.checkpoint import Checkpoints
    from jtl.training.saved_steps import Progress
    from tests.training.faults.processes import arm, disarm

    folder, status, said = Path(folder), 0, ""
    new = state(STEP)
    with Checkpoints(folder / "run") as checkpoints:
        arm(folder / "run", nth, how, error)
        try:
            # The store of frozen leaves is made by this save, too.
            checkpoints.save(new, Progress(step=STEP, best_step=STEP), frozen())
            checkpoints.wait()
        except CheckpointError as error:
            status, said = 2, str(error)
        count = disarm()
    (folder / "said.json").write_text(json.dumps({"count": count, "said": said}))
    return status


def prepare(folder):
    """Saves what stands before the save that is struck."""
    from jtl.training.checkpoint import Checkpoints
    from jtl.training.saved_steps import Progress

    with Checkpoints(Path(folder) / "run") as checkpoints:
        for step in SAVED:
            checkpoints.save(state(step), Progress(step=step, best_step=step))


def replace(path, nth, how):
    """Replaces a file, as reports, summaries and records are."""
    from jtl.training.files import write_text
    from tests.training.faults.processes import arm

    path = Path(path)
    arm(path.parent, nth, how)
    write_text(path, NEW)
    return 0


OLD, NEW = "old\n" * 5000, "new\n" * 9000


def record(folder, nth, how):
    """Opens the records of a run that goes on from step 2, and writes one more."""
    from jtl.training.events import Stepped
    from jtl.training.logs import JsonLines
    from tests.training.faults.processes import arm

    arm(folder, nth, how)
    lines = JsonLines(Path(folder) / "metrics.jsonl", 2)
    lines(Stepped(step=3, epoch=1.0, phase=0, metrics={}, images_per_second=1.0, seconds_left=1.0))
    lines.close()
    return 0
