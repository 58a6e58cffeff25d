"""Whether a cache is right and pays, where it is kept, and what it is a function of."""

import dataclasses

import numpy as np
import pytest

from jtl.data.augment import AugmentOptions
from jtl.engine.boundary import Boundary
from jtl.errors import ConfigError
from jtl.rng import base_key
from jtl.training.cache import plan
from jtl.training.cache.identity import cache_key
from jtl.training.cache.options import CacheLimits
from jtl.training.cache.plan import Plan, Refusal, plan_cache, varies
from tests.engine.nets import mini
from tests.training.cached import PLACEMENTS, PREPROCESS, VARIED, Trial

# Twelve images and five to validate, eight float32 features each.
SIZE = (12 + 5) * 8 * 4


def planned(choice="auto", limits=None, trial=None, **options):
    trial = Trial(**options) if trial is None else trial
    events = []
    feed = trial.feed(choice, tell=events.append, limits=limits)
    return plan_cache(feed._demand, trial.phases[0], trial.state())


def test_a_frozen_backbone_is_cached_on_the_device():
    found = planned()
    assert isinstance(found, Plan)
    assert (found.where, found.views, found.bytes) == ("device", 1, SIZE)
    assert found.row.shape == (8,)
    assert found.boundary.first == "head"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"augment": AugmentOptions(flip=0.5)}, "augments anew"),
        ({"augment": AugmentOptions(mixup=0.2, views=2)}, "mixup"),
        ({"augment": AugmentOptions(cutmix=0.2, views=2)}, "CutMix"),
        ({"epochs": 1.0}, "each image is seen only once"),
        ({"augment": VARIED, "epochs": 2.0}, "each view is seen only once"),
    ],
)
def test_what_is_seen_once_is_not_cached(options, reason):
    found = planned("host", **options)
    assert isinstance(found, Refusal)
    assert reason in found.reason


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": "none"},
        {"freeze": ("layer1..layer3",)},
        {"phase": {"frozen_dropout": True}},
        {"phase": {"batch_norm": "statistics"}},
    ],
)
def test_what_moves_from_the_start_is_not_cached_and_needs_no_reason(options):
    assert planned("host", **options) is None


def test_statistics_that_move_bring_the_cut_forward():
    found = planned("host", phase={"batch_norm": {"layer2": "statistics"}})
    assert found.boundary.first == "layer2"


def test_off_is_off():
    assert planned("off") is None


@pytest.mark.parametrize(
    ("limits", "where"),
    [
        ({"device": SIZE}, "device"),
        ({"device": SIZE - 1}, "host"),
        ({"device": 0, "host": SIZE - 1}, "file"),
        ({"device": 0, "host": 0}, "file"),
    ],
)
def test_the_first_place_with_room_is_taken(limits, where):
    assert planned(limits=CacheLimits(**limits)).where == where


def test_without_room_anywhere_nothing_is_cached():
    found = planned(limits=CacheLimits(device=1, host=1, file=1))
    assert isinstance(found, Refusal)
    assert "fit nowhere" in found.reason


def test_a_place_that_was_asked_for_must_have_room():
    with pytest.raises(ConfigError, match=rf"{SIZE:,} bytes.*cache_limits\.host"):
        planned("host", limits=CacheLimits(host=SIZE - 1))


def test_little_that_is_frozen_is_not_worth_it(monkeypatch):
    monkeypatch.setattr(plan, "_LEAST_SHARE", 0.9)
    found = planned(freeze=("stem",))
    assert isinstance(found, Refusal)
    assert "of the forward" in found.reason
    assert planned("host", freeze=("stem",)).where == "host"


def test_what_is_computed_faster_than_read_is_not_cached(monkeypatch):
    monkeypatch.setitem(plan._OPERATIONS_PER_BYTE, "cpu", {"device": 1e9, "host": 1e9, "file": 1e9})
    found = planned()
    assert isinstance(found, Refusal)
    assert "faster than it is read" in found.reason


def test_the_share_grows_with_what_is_frozen():
    stem, two, all_but_head = (
        planned("host", freeze=freeze).share
        for freeze in (("stem",), ("stem..layer2",), "backbone")
    )
    assert 0 < stem < two < all_but_head < 1


def test_defaults_vary_nothing_and_each_augmentation_does():
    assert not varies(AugmentOptions())
    assert not varies(AugmentOptions(views=3, fill=0.0))
    for changed in ({"flip": 0.5}, {"noise": 1.0}, {"scale": (0.9, 1.1)}, {"resolution": (4, 8)}):
        assert varies(AugmentOptions(**changed))


KEY = {
    "model": mini(),
    "boundary": Boundary(stages=("stem",), first="layer1"),
    "held": {"params": {"stem": {"kernel": np.arange(4.0)}}, "batch_stats": {}},
    "preprocess": PREPROCESS.to_dict(),
    "augment": VARIED,
    "rng": base_key(3),
    "fingerprint": "abc",
    "indices": np.arange(5),
    "batch_sizes": (8, 8),
    "place": PLACEMENTS["single"](),
}


@pytest.mark.parametrize(
    "change",
    [
        {"model": mini(widths=(4, 8, 8))},
        {"boundary": Boundary(stages=("stem", "layer1"), first="layer2")},
        {"held": {"params": {"stem": {"kernel": np.arange(4.0) + 1e-9}}, "batch_stats": {}}},
        {"held": {**KEY["held"], "batch_stats": {"stem": {"bn": {"mean": np.zeros(1)}}}}},
        {"preprocess": dataclasses.replace(PREPROCESS, scale=1 / 255).to_dict()},
        {"augment": dataclasses.replace(VARIED, noise=7.0)},
        {"augment": dataclasses.replace(VARIED, views=3)},
        {"rng": base_key(4)},
        {"fingerprint": "abd"},
        {"indices": np.arange(1, 6)},
        {"batch_sizes": (8, 4)},
        {"place": PLACEMENTS["mesh"]()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_changes_with_all_that_rows_depend_on(change):
    assert cache_key(**{**KEY, **change}) != cache_key(**KEY)


def test_the_key_knows_nothing_of_the_head():
    head = mini(num_classes=7, dropout_rate=0.4)
    assert cache_key(**{**KEY, "model": head}) == cache_key(**KEY)
