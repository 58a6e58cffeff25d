"""The freeze spec: what each form of entry matches, and what is refused."""

import jax
import pytest

import jtl
from jtl.engine.freeze import stage_table
from jtl.errors import ConfigError
from jtl.tree import flatten
from tests.engine.nets import Plain, mini, variables_of

PARAMS = variables_of(mini())["params"]


def frozen(freeze, params=PARAMS, stages=None):
    labels = flatten(jtl.freeze_labels(params, freeze, stages))
    return {path for path, label in labels.items() if label == "frozen"}


def stages_of(paths):
    return {path.split("/")[0] for path in paths}


@pytest.mark.parametrize(
    ("freeze", "stages"),
    [
        ("none", set()),
        ([], set()),
        ("backbone", {"stem", "layer1", "layer2", "layer3"}),
        ("all", {"stem", "layer1", "layer2", "layer3", "head"}),
        (["stem..layer2"], {"stem", "layer1", "layer2"}),
        ("layer2..layer2", {"layer2"}),
        (["head", "stem"], {"head", "stem"}),
    ],
)
def test_entries_freeze_whole_stages(freeze, stages):
    paths = frozen(freeze)
    assert stages_of(paths) == stages
    assert paths == {path for path in flatten(PARAMS) if path.split("/")[0] in stages}


def test_globs_freeze_parts_of_stages():
    paths = frozen(["layer*/*/bn*", "stem/**/scale"])
    assert paths
    assert all("/bn" in p or p == "stem/bn/scale" for p in paths)
    assert "layer1/block0/bn1/bias" in paths
    assert "stem/bn/bias" not in paths


def test_ranges_follow_the_network_and_not_the_alphabet():
    assert next(iter(PARAMS)) == "head"
    assert stages_of(frozen("stem..layer3")) == {"stem", "layer1", "layer2", "layer3"}


def test_ranges_of_other_networks_follow_the_stages_given():
    params = variables_of(Plain())["params"]
    assert stages_of(frozen("conv..bn", params, ("conv", "bn", "head"))) == {"conv", "bn"}
    assert stages_of(frozen("backbone", params)) == {"conv", "bn"}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["layr1"], "Did you mean 'layer1'"),
        (["layer9..head"], "names no stage 'layer9'"),
        (["layer3..stem"], "runs backwards"),
        (["all", "head"], "stands alone"),
        (["layer1/nothing*"], "matches no parameter"),
    ],
)
def test_entries_that_match_nothing_are_refused(freeze, message):
    with pytest.raises(ConfigError, match=message):
        jtl.freeze_labels(PARAMS, freeze)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        jtl.freeze_labels(PARAMS, ["layr1", "hed"])
    assert "layr1" in str(caught.value)
    assert "hed" in str(caught.value)


def test_backbone_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="no 'head'"):
        jtl.freeze_labels({"a": {"w": jax.numpy.ones(2)}}, "backbone")


def test_an_entry_after_an_exclamation_mark_thaws():
    paths = frozen(["backbone", "!**/bn*"])
    assert "layer1/block0/conv1/kernel" in paths
    assert not [path for path in paths if "/bn" in path]
    assert frozen(["all", "!head"]) == frozen("backbone")


def test_stage_table_adds_up():
    labels = jtl.freeze_labels(PARAMS, "stem..layer1")
    rows = stage_table(PARAMS, labels, mini().stages)
    assert [row.stage for row in rows] == list(mini().stages)
    assert sum(row.parameters for row in rows) == jtl.tree.count(PARAMS)
    assert [row.stage for row in rows if row.frozen] == ["stem", "layer1"]
