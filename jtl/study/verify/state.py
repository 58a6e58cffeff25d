"""The last state that a run saved, read back whole."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jtl.engine.state import TrainState
from jtl.experiment.options import Config
from jtl.experiment.setup import Setup, set_up
from jtl.training.saved_steps import Progress, SavedSteps, abstract
from jtl.tree import count, differences, flatten


class Saved:
    """Compares the last checkpoints of runs of one config.

    Args:
        config: of the runs.
        folder: of one of them.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._setup: Setup = set_up(config, folder)
        self.leaves, self.numbers = 0, 0

    def compare(self, reference: Path, other: Path) -> Iterator[str]:
        """A line for each leaf, and each thing that is known beside, which is not identical.

        Args:
            reference: the run's folder that was left alone.
            other: the folder of the one that was not.
        """
        (expected, known), (found, other_known) = self._read(reference), self._read(other)
        self.leaves = len(flatten(expected))
        self.numbers = count(expected)
        # Parameters first: what the optimizer keeps of them says less to who reads it.
        ordered = sorted(differences(expected, found), key=lambda line: "params/" not in line[:7])
        for line in ordered:
            yield f"step {known.step}, {line}"
        for field in dataclasses.fields(Progress):
            a, b = getattr(known, field.name), getattr(other_known, field.name)
            # As text, in which a NaN equals itself.
            if field.name != "seconds" and repr(a) != repr(b):
                yield f"the last checkpoint: {field.name} is {b} and not {a}"

    def like(self, phase: int) -> TrainState:
        """The structure, shapes and dtypes of a state in a phase, from 0."""
        setup, train = self._setup, self._setup.config.train
        state = TrainState.create(
            setup.pretrained.variables,
            setup.phases[phase].tx,
            rng=setup.config.seed,
            ema=train.ema_decay is not None,
            loss_scale=setup.config.model.precision == "float16",
        )
        return abstract(state)

    def _read(self, folder: Path) -> tuple[TrainState, Progress]:
        with SavedSteps(folder) as checkpoints:
            progress = checkpoints.progress() or Progress()
            return checkpoints.restore(progress.step, self.like(progress.phase)), progress
