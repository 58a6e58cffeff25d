"""Learning rates: their values at the start, the peak, the milestones and the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.engine.schedules import ScheduleOptions, make_schedule

KINDS = ["constant", "cosine", "linear", "step", "one_cycle"]


def rates(steps, **options):
    schedule = make_schedule(ScheduleOptions(**options), steps)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps + 1)), np.float64)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_decay_rises_to_the_peak_and_falls_to_its_share(kind):
    values = rates(100, rate=0.2, kind=kind, warmup=0.1, final=0.05)
    assert values[0] == pytest.approx(0.2 / 11)
    assert values[10] == values.max() == pytest.approx(0.2)
    assert values[55] == pytest.approx(0.01 + 0.19 / 2)
    assert values[100] == pytest.approx(0.01)
    assert (np.diff(values[:11]) > 0).all()
    assert (np.diff(values[10:]) < 0).all()


def test_constant_keeps_the_peak_after_the_warm_up():
    values = rates(50, rate=0.2, kind="constant", warmup=0.1)
    np.testing.assert_allclose(values[5:], 0.2)
    np.testing.assert_allclose(np.diff(values[:6]), 0.2 / 6, rtol=1e-5)


def test_step_drops_at_each_milestone():
    values = rates(40, rate=0.2, kind="step", warmup=0.1, milestones=(0.5, 0.75), factor=0.1)
    np.testing.assert_allclose(values[4:20], 0.2)
    np.testing.assert_allclose(values[20:30], 0.02, rtol=1e-5)
    np.testing.assert_allclose(values[30:], 0.002, rtol=1e-5)


def test_milestones_of_one_step_all_count():
    values = rates(3, rate=0.2, kind="step", warmup=0.0, milestones=(0.5, 0.75), factor=0.1)
    assert values[0] == pytest.approx(0.2)
    assert values[3] == pytest.approx(0.002)


def test_one_cycle_is_torchs():
    # torch.optim.lr_scheduler.OneCycleLR(max_lr=0.2, total_steps=101, pct_start=0.3), cosine:
    # starts at 0.2 / 25 and ends at 0.2 / 25 / 1e4; optax divides the peak by 1e4 and 25.
    values = rates(100, rate=0.2, kind="one_cycle", warmup=0.3)
    assert values[0] == pytest.approx(0.2 / 25)
    assert values[15] == pytest.approx((0.2 + 0.2 / 25) / 2, rel=1e-4)
    assert values[30] == values.max() == pytest.approx(0.2)
    assert values[100] == pytest.approx(0.2 / 25 / 1e4, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0.0, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_no_step_is_wasted_and_none_exceeds_the_peak(kind, warmup, steps):
    values = rates(steps, rate=0.2, kind=kind, warmup=warmup)[:steps]
    assert values.min() > 0
    assert values.max() <= 0.2 * (1 + 1e-6)
    if kind not in ("step", "one_cycle"):
        assert values.max() == pytest.approx(0.2)
