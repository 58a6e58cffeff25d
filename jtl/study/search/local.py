"""What the methods share whose only memory is the study's folder; pruning by the median."""

import statistics
from collections.abc import Sequence

from jtl.study.search.trial import Objective, Trial

_FEWEST = 5  # trials that have come as far, before one is compared with them


class Local:
    """A method that knows nothing but what the folder holds.

    Args:
        objective: of the search.
        median: whether trials are pruned that are worse than the median of those before them at
            the same validation.
    """

    size: int | None = None
    learns = False

    def __init__(self, objective: Objective, *, median: bool = False) -> None:
        self._objective, self._median = objective, median

    def known(self, own: Sequence[Trial]) -> list[Trial]:
        """The trials in the folder, which are all."""
        return list(own)

    def report(self, trial: Trial, known: Sequence[Trial]) -> bool:
        """Whether the trial's best so far is worse than the median of others at its latest."""
        place = len(trial.reports)
        others = [
            self._objective.loss(own.reports[place - 1][1])
            for own in known
            if own.number != trial.number and len(own.reports) >= place
        ]
        if not self._median or len(others) < _FEWEST:
            return False
        best = min(self._objective.loss(value) for _, value in trial.reports)
        return best > statistics.median(others)

    def tell(self, trial: Trial) -> None:
        """Nothing: the folder holds it."""
