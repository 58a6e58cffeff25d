"""The small runs that tests of training, of the experiment and of the command line share."""

from functools import lru_cache

import numpy as np

from jtl.config import Document, build
from jtl.data.sources.arrays import ArraySource
from jtl.experiment import train
from jtl.experiment.options import Config

CLASSES = ("ant", "bee", "cat")


@lru_cache
def source(examples=60, size=8):
    """Noisy images around one pattern a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(examples, dtype=np.int32) % len(CLASSES)
    patterns = rng.integers(40, 216, (len(CLASSES), size, size, 3))
    noise = rng.integers(-40, 41, (examples, size, size, 3))
    return ArraySource(
        images=np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8),
        labels=labels,
        classes=CLASSES,
        provenance={"dataset": "drawn for a test"},
    )


def config(**changes):
    """Two phases of two epochs, three steps each; a dotted key changes one option."""
    values = {
        "name": "tiny",
        "model": {"name": "resnet_mini", "weights": None},
        "data": {"batch_size": 12, "eval_batch_size": 12, "split": {"val": 0.2, "test": 0.2}},
        "augment": {"flip": 0.5, "noise": 4.0},
        "train": {
            "placement": "single",
            "log_every": 1,
            "phases": [
                {"freeze": "backbone", "epochs": 2},
                {"freeze": ["stem..layer2"], "epochs": 2, "dropout_rate": 0.2},
            ],
        },
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = values
        for parent in parents:
            node = node[int(parent)] if parent.isdecimal() else node.setdefault(parent, {})
        node[last] = value
    return build(Config, Document(values=values))


class InterruptionError(Exception):
    """Stands for whatever ends a process between two steps."""


def stop_at(step):
    """A listener that interrupts a run when it is evaluated at a step."""

    def listen(event):
        if getattr(event, "split", None) == "val" and event.step == step:
            raise InterruptionError

    return listen


def run(workdir, options=None, **arguments):
    return train(options or config(), workdir=workdir, source=source(), **arguments)
