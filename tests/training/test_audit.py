"""The audit: what was frozen throughout has its bits; what was trained at some time need not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.pipeline import TrainOrder
from jtl.errors import JtlError
from jtl.training.audit import audit_frozen, check_frozen, frozen_digests
from jtl.training.options import PhaseOptions, TrainOptions
from jtl.training.phases import make_phases
from jtl.tree import count, flatten, unflatten
from tests.engine.nets import mini, variables_of

NET = mini()
VARIABLES = variables_of(NET)
ORDER = TrainOrder(indices=np.arange(8), batch_size=4, seed=0)


def phases(*specs):
    options = TrainOptions(phases=tuple(PhaseOptions(freeze=spec) for spec in specs))
    return make_phases(options, NET, VARIABLES["params"], ORDER, None)


def changed(*paths):
    leaves = flatten(VARIABLES)
    return unflatten({path: leaf + 1 if path in paths else leaf for path, leaf in leaves.items()})


def test_an_untouched_network_passes_and_is_counted():
    audit = audit_frozen(VARIABLES, VARIABLES, phases("backbone", "stem..layer2"))
    frozen = {name: VARIABLES["params"][name] for name in ("stem", "layer1", "layer2")}
    assert audit["parameters"] == count(frozen)
    stats = VARIABLES["batch_stats"]
    assert audit["statistics"] == count([stats[name] for name in ("stem", "layer1", "layer2")])
    assert len(audit["before"]) == 64
    assert audit["before"] == audit["after"]


def test_what_was_trained_in_some_phase_may_change():
    after = changed("params/head/bias", "params/layer3/block0/conv1/kernel")
    audit_frozen(VARIABLES, after, phases("backbone", "stem..layer2"))
    with pytest.raises(JtlError, match="layer3/block0/conv1/kernel"):
        audit_frozen(VARIABLES, after, phases("backbone"))


@pytest.mark.parametrize(
    "path", ["params/stem/conv/kernel", "params/layer1/block0/bn1/bias", "batch_stats/stem/bn/var"]
)
def test_a_frozen_leaf_that_changed_is_named(path):
    assert path in flatten(VARIABLES)
    with pytest.raises(JtlError, match=f"frozen leaves changed in training: {path}: differs"):
        audit_frozen(VARIABLES, changed(path), phases("backbone"))


def test_the_smallest_change_is_found():
    def next_up(leaf):
        return jnp.nextafter(leaf, jnp.inf)

    after = {**VARIABLES, "params": jax.tree.map(lambda leaf: leaf, VARIABLES["params"])}
    after["params"]["stem"]["conv"]["kernel"] = next_up(after["params"]["stem"]["conv"]["kernel"])
    with pytest.raises(JtlError, match="stem/conv/kernel"):
        audit_frozen(VARIABLES, after, phases("stem"))


def test_statistics_that_a_mode_lets_move_are_not_audited():
    options = PhaseOptions(freeze="stem", batch_norm={"stem/**": "statistics"})
    own = make_phases(TrainOptions(phases=(options,)), NET, VARIABLES["params"], ORDER, None)
    assert audit_frozen(VARIABLES, changed("batch_stats/stem/bn/mean"), own)["statistics"] == 0


def test_nothing_frozen_is_nothing_audited():
    audit = audit_frozen(VARIABLES, changed("params/head/bias"), phases("none"))
    assert audit["parameters"] == audit["statistics"] == 0


def test_a_phase_that_thaws_later_is_audited_while_it_is_frozen():
    first, second = phases("backbone", "none")
    before = frozen_digests(VARIABLES, first)
    check_frozen(before, changed("params/head/bias"), first)
    with pytest.raises(JtlError, match=r"in the phase that ends at step 10: params/stem/conv"):
        check_frozen(before, changed("params/stem/conv/kernel"), first)
    check_frozen(frozen_digests(VARIABLES, second), changed("params/stem/conv/kernel"), second)
