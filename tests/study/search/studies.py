"""The small studies that tests of the search share: sixty tiny images, a few steps a trial."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.experiment.runs import source

COMMAND = [sys.executable, "-c", "from jtl.cli import main; main()", "tune"]
PATIENCE = 240  # seconds that a process may take, on a busy machine

CONFIG = """
name: tiny
model: {name: resnet_mini, weights: null}
data: {source: images.npz, batch_size: 12, eval_batch_size: 12, split: {val: 0.2, test: 0.2}}
train:
  placement: single
  phases: [{freeze: backbone, epochs: 2, schedule: {rate: 1e-2}}]
"""
SPACE = """
train.phases.0.schedule.rate: {kind: log_uniform, low: 1e-3, high: 1e-1, steps: 2}
train.loss.label_smoothing: {kind: choice, options: [0.0, 0.1]}
"""


def write_study(folder: Path, space: str = SPACE) -> None:
    """The files that `jtl tune` needs, in a folder of their own."""
    own = source()
    np.savez(folder / "images.npz", images=own.images, labels=own.labels)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "space.yaml").write_text(space)


def command(*words: str) -> list[str]:
    return [*COMMAND, "config.yaml", "--space", "space.yaml", *words]


def start(folder: Path, *words: str) -> subprocess.Popen:
    """A worker in a process of its own."""
    project = Path(__file__).parents[3]
    return subprocess.Popen(
        command(*words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tune(folder: Path, *words: str) -> str:
    """What a search prints that ends well."""
    worker = start(folder, *words)
    out, error = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0, error
    return out


def study_of(folder: Path) -> dict:
    return json.loads((folder / "study" / "study.json").read_text())
