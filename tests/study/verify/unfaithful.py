"""A start that resumes almost exactly: one number of one leaf comes back a little changed."""

import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp

from jtl.study.verify.start import start
from jtl.training.checkpoint import Checkpoints

restore = Checkpoints.restore


def almost(self, step, like):
    state = restore(self, step, like)
    head = state.params["head"]
    bias = jnp.asarray(head["bias"]).at[3].add(1e-4)
    return dataclasses.replace(state, params={**state.params, "head": {**head, "bias": bias}})


Checkpoints.restore = almost

if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1])))
