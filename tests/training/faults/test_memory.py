"""A device whose memory is exhausted: one line that says what to reduce, and nothing lost."""

import jax.numpy as jnp
import pytest

from jtl.errors import DeviceMemoryError
from jtl.training.checkpoint import Checkpoints
from jtl.training.events import Taken
from tests.experiment.runs import run


def exhaust_at(step):
    """A listener that asks the runtime for more than there is, and so meets its own error."""

    def listen(event):
        if isinstance(event, Taken) and event.step == step:
            jnp.zeros((1 << 50,), jnp.float32).block_until_ready()

    return listen


@pytest.mark.slow
def test_an_exhausted_memory_is_one_line_and_the_run_goes_on_from_what_is_saved(tmp_path):
    with pytest.raises(DeviceMemoryError) as caught:
        run(tmp_path / "run", listeners=(exhaust_at(8),))
    said = str(caught.value)
    assert "lower data.batch_size (now 12), or raise train.accumulate (now 1)" in said
    assert "Out of memory allocating" in said
    assert "\n" not in said
    assert isinstance(caught.value, MemoryError)  # by which searches tell it from other failures
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.progress().step == 6
        assert checkpoints.recover() == []
    done = run(tmp_path / "run", resume=True)
    assert done.summary["steps"] == 12
