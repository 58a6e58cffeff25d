"""The loop runs ahead of the device: nothing in it waits but the log, and that late."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.data.pipeline import TrainOrder
from jtl.errors import DivergedError
from jtl.training.events import Taken
from jtl.training.logs import Records
from jtl.training.pace import Pace
from tests.training.runs import phase, run_loop

STEPS = 24


@pytest.fixture
def reads(monkeypatch):
    """Hears of each array that this thread waits for or reads."""
    array, mine, found = type(jnp.zeros(())), threading.get_ident(), []
    value, block = array._value, array.block_until_ready

    def hear(name):
        if threading.get_ident() == mine:
            found.append(name)

    def read(self):
        hear("read")
        return value.fget(self)

    def wait(self):
        hear("wait")
        return block(self)

    monkeypatch.setattr(array, "_value", property(read))
    monkeypatch.setattr(array, "block_until_ready", wait)
    return found


def test_every_way_to_wait_is_heard(reads):
    made = jax.jit(lambda x: x + 1)(jnp.zeros(()))
    for way in (float, bool, jax.device_get, jax.block_until_ready, type(made).__array__):
        reads.clear()
        way(made + 0)
        assert reads, way


@pytest.mark.parametrize("place", ["single", "pmap"])
@pytest.mark.parametrize("log_every", [5, 10])
def test_only_the_log_waits_for_the_device(tmp_path, reads, log_every, place):
    waited, step = {}, 0

    def hear(event):
        nonlocal step
        if isinstance(event, Taken):
            waited[step] = len(reads)
            reads.clear()
            step = event.step

    place = jtl.parallel.single() if place == "single" else jtl.parallel.pmap(jax.devices()[:2])
    with Records(tmp_path, 0) as records:
        run_loop(
            tmp_path,
            place=place,
            phases=(phase(0, STEPS, "none"),),
            listeners=(hear, records),
            log_every=log_every,
            evaluate_every=1e9,
        )
    # While a step runs, what came of the one before it is read: of the first, which may show that
    # nothing is a number, and of those that are logged.
    logged = {1, *range(log_every, STEPS - 1, log_every)}
    assert {step for step in range(1, STEPS) if waited[step]} == {step + 1 for step in logged}


@pytest.mark.parametrize(
    ("skipped", "limit", "last"),
    [
        pytest.param({3, 4}, 2, 4, id="hidden behind a good step"),
        pytest.param({8, 9, 10, 11, 12}, 5, 12, id="from one report into the next"),
        pytest.param({10, 12, 14, 15}, 3, None, id="never so many in a row"),
        pytest.param({1, 2, 3, 4, 5, 6, 7, 8, 9}, 10, None, id="one too few"),
    ],
)
def test_steps_skipped_in_a_row_are_counted_though_only_the_last_is_reported(skipped, limit, last):
    order = TrainOrder(indices=np.arange(8), batch_size=4, seed=0)
    pace = Pace(
        phase(0, 20, "none"),
        0,
        order=order,
        start=0,
        skipped=0,
        last=20,
        log_every=10,
        max_skipped=limit,
        tell=lambda event: None,
    )

    def run():
        for step in range(1, 21):
            pace.stepped(step, {"loss": jnp.ones(()), "skipped": jnp.asarray(step in skipped)})
        pace.flush()

    if last is None:
        run()
        assert pace.skipped == 0
    else:
        with pytest.raises(
            DivergedError, match=f"{limit} steps in a row, the last is step {last};"
        ):
            run()
