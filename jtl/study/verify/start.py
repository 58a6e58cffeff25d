"""One start of a run that is watched, in a process of its own: `python -m … FOLDER`."""

import json
import logging
import sys
import time
from pathlib import Path

from jtl.errors import JtlError, PreemptedError
from jtl.experiment.options import read_config
from jtl.experiment.train import train
from jtl.study.verify.examples import NAME, ExampleLog
from jtl.training.events import Event, Taken
from jtl.training.kept_programs import KeptPrograms
from jtl.training.preemption import STATUS

RUN, CONFIG, STEPS = "run", "config.yaml", "steps.jsonl"


class _Watched:
    """Says when each step is taken, for who kills this process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Taken):
            self._file.write(json.dumps({"step": event.step, "time": time.monotonic()}) + "\n")
            self._file.flush()


def start(folder: Path) -> int:
    """Begins or goes on with the run in a folder; the status to exit with.

    Args:
        folder: holds `config.yaml`; the run stands in `run`, beside it the log of examples.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    listeners = (ExampleLog(folder / NAME), _Watched(folder / STEPS))
    try:
        config = read_config(str(folder / CONFIG))
        with KeptPrograms.of(str(folder)) as programs:  # as `jtl train` does
            train(config, workdir=folder / RUN, resume=True, listeners=listeners, programs=programs)
    except PreemptedError as error:
        print(f"jtl: {error}", file=sys.stderr)
        return STATUS
    except JtlError as error:
        print(f"jtl: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1])))
