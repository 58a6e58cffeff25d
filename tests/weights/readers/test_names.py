import numpy as np
import pytest

from jtl.weights.readers.names import open_collections, open_wrapper, strip_prefixes

A = np.zeros(1)


def stripped(*names):
    tensors, notes = strip_prefixes(dict.fromkeys(names, A))
    return list(tensors), notes


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "model.", "backbone.", "_orig_mod.", "state_dict.", "ema."),
        *("module._orig_mod.", "_orig_mod.module.", "model.module.backbone.", "module.module."),
    ],
)
def test_prefixes_that_all_names_share_are_removed(prefix):
    names, notes = stripped(f"{prefix}conv1.weight", f"{prefix}fc.weight")
    assert names == ["conv1.weight", "fc.weight"]
    assert len(notes) == len(prefix.split(".")) - 1


def test_a_head_outside_the_prefix_keeps_its_name():
    names, notes = stripped("backbone.conv1.weight", "backbone.bn1.bias", "fc.weight", "fc.bias")
    assert names == ["conv1.weight", "bn1.bias", "fc.weight", "fc.bias"]
    assert notes == ("removed 'backbone' from 2 of 4 names",)


@pytest.mark.parametrize(
    "names",
    [
        ("model.conv1.weight", "neck.conv.weight"),
        ("backbone.fc.weight", "fc.weight"),
        ("modules.conv1.weight",),
        ("fc.weight", "head.bias"),
        ("features.0.weight", "classifier.0.weight"),
    ],
)
def test_names_stay_where_a_prefix_is_not_the_whole_network_s(names):
    assert stripped(*names) == (list(names), ())


def test_a_compiled_part_loses_its_mark_within_the_name():
    names, notes = stripped("conv1.weight", "layer1._orig_mod.0.weight", "fc._orig_mod.bias")
    assert names == ["conv1.weight", "layer1.0.weight", "fc.bias"]
    assert notes == ("removed '_orig_mod' from 2 of 3 names",)


def test_prefixes_behind_a_flax_collection_are_removed():
    names, _ = stripped("params/model/stem/kernel", "batch_stats/model/stem/mean")
    assert names == ["params/stem/kernel", "batch_stats/stem/mean"]


def test_the_counter_of_averaged_models_is_left_aside():
    tensors = {"n_averaged": np.array(3), "module.conv1.weight": A}
    names, notes = strip_prefixes(tensors)
    assert list(names) == ["conv1.weight"]
    assert "n_averaged" in notes[0]


def test_a_known_wrapper_is_opened_before_an_average():
    tree, notes = open_wrapper("x", {"ema": {"a": A}, "model": {"b": A}, "epoch": 1})
    assert list(tree) == ["b"]
    assert notes == ("opened 'model', left aside 'ema', 'epoch'",)


def test_wrappers_within_wrappers_are_opened():
    tree, notes = open_wrapper("x", {"model": {"state_dict": {"a": A}}})
    assert list(tree) == ["a"]
    assert notes == ("opened 'model'", "opened 'state_dict'")


def test_the_only_entry_is_opened_whatever_its_name():
    tree, notes = open_wrapper("x", {"net": {"a": A}, "epoch": 1})
    assert list(tree) == ["a"]
    assert notes == ("opened 'net', left aside 'epoch'",)


def test_a_bare_state_dict_stays_as_it_is():
    tree, notes = open_wrapper("x", {"conv1.weight": A, "fc.weight": A})
    assert (list(tree), notes) == (["conv1.weight", "fc.weight"], ())


def test_bare_parameters_stay_as_they_are():
    tree, notes = open_collections("x", {"stem": {"kernel": A}})
    assert (tree, notes) == ({"stem": {"kernel": A}}, ())
