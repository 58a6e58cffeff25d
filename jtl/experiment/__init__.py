"""From a config to a finished run: the only place that assembles the rooms."""

from jtl.experiment.run import Run, load_run
from jtl.experiment.train import finetune, train

__all__ = ["Run", "finetune", "load_run", "train"]
