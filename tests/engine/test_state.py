"""The training state: what it begins as, and what it refuses to hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.errors import ConfigError
from jtl.tree import differences, flatten

PARAMS = {"stem": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones((3, 4))}}
STATS = {"stem": {"mean": jnp.zeros(3)}}


def create(variables=None, **options):
    variables = variables or {"params": PARAMS, "batch_stats": STATS}
    tx = jtl.partition_optimizer(optax.adam(1e-3), jtl.freeze_labels(PARAMS, "stem"))
    return jtl.TrainState.create(variables, tx, **{"rng": 7, **options})


def test_state_begins_at_step_0_with_what_was_given():
    state = create()
    assert state.step == 0
    assert state.step.dtype == jnp.int32
    assert not differences({"params": PARAMS, "batch_stats": STATS}, state.variables)
    assert state.ema is None
    assert state.loss_scale is None


def test_state_is_one_pytree_whose_paths_name_its_fields():
    state = create()
    tops = {path.split("/")[0] for path in flatten(state)}
    assert tops == {"step", "params", "batch_stats", "opt_state", "rng"}
    assert not differences(state, jax.tree.map(lambda leaf: leaf, state))


def test_seed_and_its_keys_are_the_same_state():
    for rng in (jax.random.key(7), jax.random.PRNGKey(7)):
        assert not differences(create(), create(rng=rng))
    assert differences(create(), create(rng=8))


def test_statistics_may_be_absent():
    assert create({"params": PARAMS}).batch_stats == {}


def test_frozen_leaves_are_no_part_of_the_optimizers_state_or_of_running_means():
    state = create(ema=True)
    sizes = {np.size(leaf) for leaf in jax.tree.leaves(state.opt_state)}
    assert sizes == {1, 12}
    assert set(flatten(state.ema["params"])) == {"head/kernel"}


@pytest.mark.parametrize(
    "variables", [{"batch_stats": STATS}, {"params": PARAMS, "cache": {}}, {"parms": PARAMS}]
)
def test_variables_that_no_step_would_update_are_refused(variables):
    with pytest.raises(ConfigError, match="takes 'params' and 'batch_stats'") as caught:
        create(variables)
    assert str(sorted(variables)) in str(caught.value)


def test_a_generator_that_depends_on_sharding_is_refused():
    with pytest.raises(ConfigError, match="rbg"):
        create(rng=jax.random.key(0, impl="rbg"))
