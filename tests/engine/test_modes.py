"""BatchNorm by part, and dropout in frozen stages."""

import jax
import pytest

import jtl
from jtl.engine.modes import make_modes
from jtl.errors import ConfigError
from jtl.tree import differences
from tests.engine.nets import Plain, batch_of, build, mini, variables_of

PARAMS = variables_of(mini())["params"]


def modes(freeze, *args):
    return make_modes(jtl.freeze_labels(PARAMS, freeze), *args)


def test_a_module_holds_still_by_its_own_parameters_or_its_stage():
    own = modes(["layer1", "layer2/*/bn1"])
    assert own.batch_norm_mode("layer1/block0/bn1") == "frozen"
    assert own.batch_norm_mode("layer2/block0/bn1") == "frozen"
    assert own.batch_norm_mode("layer2/block0/bn2") == "train"
    assert not own.drops("layer1/block0/drop_path")
    assert own.drops("layer2/block0/drop_path")
    assert own.drops("dropout")
    assert modes("head").drops("layer1/drop_path")
    assert not modes("head").drops("dropout")
    assert modes("layer1", None, True).drops("layer1/block0/drop_path")


def test_a_mode_that_contradicts_the_freeze_spec_is_refused():
    with pytest.raises(ConfigError, match="'frozen' or 'statistics'"):
        modes("layer1", {"layer1": "train"}).batch_norm_mode("layer1/block0/bn1")
    with pytest.raises(ConfigError, match="'affine' or 'train'"):
        modes("layer1", "frozen").batch_norm_mode("layer2/block0/bn1")
    with pytest.raises(ConfigError, match="Did you mean 'statistics'"):
        modes("layer1", "statistic")


# What a step changes in one BatchNorm under each mode, and the freeze spec that goes with it.
CHANGES = {
    "frozen": (["bn"], set()),
    "statistics": (["bn"], {"batch_stats"}),
    "affine": ([], {"params"}),
    "train": ([], {"params", "batch_stats"}),
}


@pytest.mark.parametrize("mode", CHANGES)
def test_each_mode_changes_what_it_says(mode):
    freeze, expected = CHANGES[mode]
    net = Plain()
    variables = variables_of(net)
    step, state = build(net, variables, freeze, batch_norm={"bn": mode})
    after, _ = jax.jit(step)(state, batch_of())
    changed = {
        line.split("/")[0] for line in differences(variables, after.variables) if "/bn/" in line
    }
    assert changed == expected
