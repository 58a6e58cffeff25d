"""A save on a file system that is full, in a process of its own: `python -m … FOLDER`."""

import os
import sys
from pathlib import Path

from jtl.errors import CheckpointError
from jtl.training.checkpoint import Checkpoints
from jtl.training.saved_steps import Progress, abstract
from jtl.tree import differences
from tests.training.faults import saving


def main(folder):
    with Checkpoints(folder / "run") as checkpoints:
        for step in saving.SAVED:
            checkpoints.save(saving.state(step), Progress(step=step, best_step=step))
        checkpoints.wait()
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(bytes(max(free - 4096, 0)))
        try:
            checkpoints.save(saving.state(3), Progress(step=3, best_step=3))
            checkpoints.wait()
            raise SystemExit("a full disk was taken for a saved step")
        except CheckpointError as error:
            print(error)
        progress = checkpoints.progress()
        assert progress.step == 2
        back = checkpoints.restore(2, abstract(saving.state(0)))
        assert differences(saving.state(2), back) == []
        (folder / "filler").unlink()
        checkpoints.save(saving.state(3), Progress(step=3, best_step=3))
        checkpoints.wait()
        assert checkpoints.progress().step == 3
    print("whole again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
