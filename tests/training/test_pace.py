"""The loop runs ahead of the device: nothing in it waits but the log, and that late."""

import threading

import jax
import jax.numpy as jnp
import pytest

import jtl
from jtl.training.events import Taken
from jtl.training.logs import Records
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
