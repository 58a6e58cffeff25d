"""Trials that differ in numbers only, trained together in one compiled program."""

from jtl.study.vectorised.outcome import Evaluation, Outcome
from jtl.study.vectorised.trials import Trials, train_together

__all__ = ["Evaluation", "Outcome", "Trials", "train_together"]
