"""Training from cached rows: the numbers of training without them, wherever the rows lie."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import DataError
from jtl.training.events import Cached
from jtl.tree import differences, flatten
from tests.engine.nets import mini
from tests.training.cached import PLACEMENTS, SOURCE, VARIED, Trial

LAST_STAGE = ("stem..layer2",)
PLACES = ["device", "host", "file"]


def assert_close(expected, actual, **tolerance):
    state, metrics, checked, _ = expected
    own, own_metrics, own_checked, _ = actual
    assert len(own_metrics) == len(metrics) > 3
    for left, right in zip(metrics, own_metrics):
        assert left == pytest.approx(right, rel=tolerance["rtol"], abs=tolerance["atol"])
    assert checked == pytest.approx(own_checked, rel=tolerance["rtol"], abs=tolerance["atol"])
    after = flatten(own.variables)
    for path, leaf in flatten(state.variables).items():
        np.testing.assert_allclose(after[path], leaf, **tolerance, err_msg=path)


def frozen_of(state, freeze):
    names = ("head",) if freeze == "backbone" else ("layer3", "head")
    return {stage: own for stage, own in state.params.items() if stage not in names}


@pytest.mark.parametrize("augment", ["plain", "varied"])
@pytest.mark.parametrize("freeze", ["backbone", LAST_STAGE])
def test_cached_training_equals_uncached_training(x64, freeze, augment):
    options = {"augment": VARIED} if augment == "varied" else {}
    trial = Trial(freeze=freeze, dtype=jnp.float64, **options)
    whole, cached = trial.run("off"), trial.run("device")
    assert whole[3] is None
    assert cached[3] is not None
    assert_close(whole, cached, rtol=1e-9, atol=1e-9)
    assert not differences(frozen_of(trial.state(), freeze), frozen_of(cached[0], freeze))


@pytest.mark.parametrize(
    "placement", ["pmap", "mesh", pytest.param("mesh in parts", marks=pytest.mark.slow)]
)
def test_cached_training_equals_uncached_training_on_several_devices(x64, placement):
    # Augmented, with dropout and trained BatchNorm behind the cut.
    trial = Trial(freeze=LAST_STAGE, augment=VARIED, dtype=jnp.float64)
    spread = dataclasses.replace(trial, place=PLACEMENTS[placement]())
    assert_close(trial.run("off"), spread.run("device"), rtol=1e-9, atol=1e-9)


MANY = [pytest.param(name, marks=pytest.mark.slow) for name in PLACEMENTS if name != "single"]


@pytest.mark.parametrize("placement", ["single", *MANY])
def test_rows_have_the_same_bits_wherever_they_lie(placement):
    trial = Trial(augment=VARIED, place=PLACEMENTS[placement]())
    first, *others = (trial.run(choice) for choice in PLACES)
    for other in others:
        assert not differences(first[0], other[0])
        assert first[1:3] == other[1:3]


def test_single_precision_agrees_to_its_rounding():
    trial = Trial()
    assert_close(trial.run("off"), trial.run("auto"), rtol=2e-5, atol=2e-6)


def test_running_means_and_micro_batches_go_on_behind_the_cut(x64):
    train = {"ema_decay": 0.9, "accumulate": 2}
    trial = Trial(freeze=LAST_STAGE, train=train, dtype=jnp.float64)
    whole, cached = trial.run("off"), trial.run("host")
    assert_close(whole, cached, rtol=1e-9, atol=1e-9)
    after = flatten(cached[0].ema)
    for path, leaf in flatten(whole[0].ema).items():
        np.testing.assert_allclose(after[path], leaf, rtol=1e-9, atol=1e-12, err_msg=path)


def test_batches_carry_what_uncached_ones_do():
    trial = Trial(augment=VARIED)
    feeds = [trial.feed(choice) for choice in ("off", "device", "host")]
    for feed in feeds:
        feed.enter(0, trial.state())
    batches = [list(feed.batches(0, 1, 6)) for feed in feeds]
    for plain, *others in zip(*batches):
        for other in others:
            assert other.keys() == plain.keys()
            for name in plain.keys() - {"image"}:
                np.testing.assert_array_equal(other[name], plain[name], err_msg=name)
                assert other[name].dtype == plain[name].dtype
                assert other[name].sharding == plain[name].sharding


@pytest.mark.parametrize(("choice", "stop"), [("device", 2), ("file", 1), ("file", 4)])
def test_a_run_that_goes_on_has_the_same_bits(tmp_path, choice, stop):
    trial = Trial(augment=VARIED)
    whole = trial.run(choice)
    # Ended without a farewell, in the first view and in the second.
    first = trial.run(choice, stop=stop, feed=trial.feed(choice, tmp_path))
    second = trial.run(choice, state=first[0], feed=trial.feed(choice, tmp_path))
    assert first[1] + second[1] == whole[1]
    assert not differences(whole[0], second[0])
    assert second[2] == whole[2]


class Counting:
    """A source that counts the images that are asked for."""

    def __init__(self):
        self.read = 0

    def __getattr__(self, name):
        return getattr(SOURCE, name)

    def __len__(self):
        return len(SOURCE)

    def __getitem__(self, index):
        self.read += 1
        return SOURCE[index]


def test_each_view_is_read_once():
    trial = Trial(augment=VARIED, source=Counting(), epochs=8.0)
    trial.run("device")
    # Twelve images in two batches of eight for each of two views, five to validate.
    assert trial.source.read == 2 * 16 + 5


def test_views_are_computed_when_they_are_due():
    trial = Trial(augment=VARIED, source=Counting(), epochs=8.0)
    feed = trial.feed("host")
    feed.enter(0, trial.state())
    # Steps of eight out of twelve: the second one begins the second view.
    list(feed.batches(0, 0, 1))
    assert trial.source.read == 16
    list(feed.batches(0, 1, 2))
    assert trial.source.read == 32


def test_an_interrupted_run_finds_its_file_and_an_ended_one_leaves_none(tmp_path):
    source, events = Counting(), []
    trial = Trial(source=source)
    trial.run("file", feed=trial.feed("file", tmp_path, events.append))
    read = source.read
    feed = trial.feed("file", tmp_path, events.append)
    trial.run("file", feed=feed)
    assert source.read == read
    assert [event.note for event in events] == ["", "what is there already is used again"]
    feed.close()
    assert not (tmp_path / "activations").exists()


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_damaged_file_is_found_and_made_again(tmp_path, name):
    trial, events = Trial(), []
    whole = trial.run("file", feed=trial.feed("file", tmp_path))
    path = tmp_path / "activations" / f"{name}.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = trial.run("file", feed=trial.feed("file", tmp_path, events.append))
    assert "is damaged" in events[0].note
    assert str(path) in events[0].note
    assert not differences(whole[0], again[0])
    assert whole[2] == again[2]


def test_other_weights_do_not_take_the_file_of_these(tmp_path):
    trial = Trial()
    trial.run("file", feed=trial.feed("file", tmp_path))
    changed = trial.start
    changed["params"]["stem"] = {
        name: {key: value * 1.5 for key, value in own.items()}
        for name, own in changed["params"]["stem"].items()
    }
    other = dataclasses.replace(trial, variables=changed)
    found = other.run("file", feed=other.feed("file", tmp_path))
    assert not differences(other.run("device")[0], found[0])


def test_the_event_says_what_is_kept_and_saved():
    events = []
    trial = Trial(augment=VARIED)
    trial.run("host", feed=trial.feed("host", tell=events.append))
    (event,) = events
    assert event == Cached(
        step=0,
        phase=0,
        stages=("stem", "layer1", "layer2", "layer3"),
        examples=12,
        views=2,
        bytes=(12 * 2 + 5) * 8 * 4,
        where="host",
        share=event.share,
    )
    assert 0.9 < event.share < 1


def test_rows_are_kept_over_phases_with_the_same_cut(tmp_path):
    trial, events = Trial(source=Counting()), []
    feed = trial.feed("host", tell=events.append)
    state = trial.run("host", feed=feed)[0]
    read = trial.source.read
    feed.enter(0, dataclasses.replace(state, step=jnp.int32(2)))
    list(feed.batches(0, 2, 4))
    assert trial.source.read == read
    assert len(events) == 2


def test_labels_beyond_the_classes_are_refused_before_anything_is_computed():
    labels = SOURCE.labels.copy()
    labels[3] = 4
    wrong = dataclasses.replace(SOURCE, labels=labels, classes=("a", "b", "c", "d", "e"))
    trial = Trial(source=wrong)
    with pytest.raises(DataError, match="example 3 has the label 4"):
        trial.feed("device").enter(0, trial.state())


@pytest.mark.slow
def test_half_precision_rows_are_kept_as_they_are(tmp_path):
    model = mini(dropout_rate=0.3, dtype=jnp.bfloat16)
    trial = Trial(model=model, freeze=LAST_STAGE)
    device, file = trial.run("device"), trial.run("file")
    assert not differences(device[0], file[0])
