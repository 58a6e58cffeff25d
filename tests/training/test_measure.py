"""What predictions are worth, against scikit-learn; intervals, calibration, comparison, files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from jtl.engine.metrics import METRICS, SEVERAL_METRICS, metric_sums, summarize, total_of
from jtl.errors import CheckpointError, ConfigError
from jtl.training.measure.calibrate import best_thresholds, fit_calibration, untempered
from jtl.training.measure.compare import compare, mcnemar
from jtl.training.measure.intervals import intervals
from jtl.training.measure.predictions import (
    Calibration,
    Predictions,
    read_predictions,
    write_predictions,
)
from jtl.training.measure.tally import Tally

EXAMPLES, CLASSES = 48, 6


def predictions(logits, label, several=False):
    count = len(logits)
    return Predictions(
        logits=logits.astype(np.float32),
        label=label,
        example=np.arange(count, dtype=np.int32),
        name=np.array([f"{i}.png" for i in range(count)]),
        classes=tuple("abcdef"[: logits.shape[1]]),
        several=several,
    )


@st.composite
def single(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, EXAMPLES - CLASSES)])
    scale, shift = draw(st.sampled_from([0.3, 2.0])), draw(st.sampled_from([0.0, 2.0]))
    logits = scale * rng.normal(size=(EXAMPLES, CLASSES)) + shift * np.eye(CLASSES)[label]
    return predictions(np.round(logits, draw(st.sampled_from([0, 6]))), label.astype(np.int32))


@st.composite
def several(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = (rng.random((EXAMPLES, CLASSES)) < 0.4).astype(np.float32)
    label[0], label[1] = 0, 1
    logits = 2 * rng.normal(size=label.shape) + 2 * label
    return predictions(np.round(logits, draw(st.sampled_from([0, 6]))) + 0.01, label, True)


def averages(truth, chosen):
    found = {}
    for name in ("macro", "micro", "weighted"):
        values = oracle.precision_recall_fscore_support(
            truth, chosen, average=name, zero_division=0
        )
        suffix = "" if name == "macro" else f"_{name}"
        found |= {f"{key}{suffix}": own for key, own in zip(("precision", "recall", "f1"), values)}
    return found


@given(single())
def test_every_metric_of_one_label_is_that_of_scikit_learn(said):
    label, p = said.label, said.probabilities()
    chosen, onehot = said.logits.argmax(1), np.eye(CLASSES)[said.label]
    expected = {
        **averages(label, chosen),
        "accuracy": oracle.accuracy_score(label, chosen),
        "balanced_accuracy": oracle.balanced_accuracy_score(label, chosen),
        "kappa": oracle.cohen_kappa_score(label, chosen),
        "log_loss": oracle.log_loss(label, p),
        "brier": ((p - onehot) ** 2).sum(1).mean(),
        "roc_auc": oracle.roc_auc_score(label, p, multi_class="ovr"),
        "average_precision": oracle.average_precision_score(onehot, p),
    }
    found = Tally(said).metrics()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(Tally(said).confusion(), oracle.confusion_matrix(label, chosen))


@given(several())
def test_every_metric_of_several_labels_is_that_of_scikit_learn(said):
    truth, p = said.label.astype(int), said.probabilities()
    chosen = (p >= 0.5).astype(int)
    expected = {
        **averages(truth, chosen),
        "accuracy": oracle.accuracy_score(truth, chosen),
        "hamming_loss": oracle.hamming_loss(truth, chosen),
        "log_loss": np.mean([oracle.log_loss(truth[:, k], p[:, k]) for k in range(CLASSES)]),
        "roc_auc": oracle.roc_auc_score(truth, p),
        "average_precision": oracle.average_precision_score(truth, p),
    }
    found = Tally(said).metrics()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    matrix = oracle.multilabel_confusion_matrix(truth, chosen)
    np.testing.assert_array_equal(Tally(said).confusion(), matrix)


@pytest.mark.parametrize("kind", [single, several])
@given(data=st.data())
def test_sums_on_the_device_over_masked_batches_are_the_same(kind, data):
    said = data.draw(kind())
    losses = np.zeros(EXAMPLES, np.float32)
    mask = np.arange(EXAMPLES) < 30
    many = said.several
    parts = [metric_sums(said.logits, losses, said.label, own, several=many)
             for own in (mask, ~mask)]  # fmt: skip
    ours, expected = summarize(total_of(parts)), Tally(said).metrics()
    names = set(SEVERAL_METRICS if many else METRICS) - {"loss", "ece"}
    assert {n: ours[n] for n in names} == pytest.approx({n: expected[n] for n in names}, abs=1e-6)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        right = rng.random(200) < 0.8
        said = predictions(np.eye(2)[(~right).astype(int)] * 3, np.zeros(200, np.int32))
        low, high = intervals(Tally(said))["accuracy"]
        held += low <= 0.8 <= high
    assert held >= 51  # of 60, where 57 are expected


def test_all_right_is_not_certain():
    said = predictions(np.eye(3)[np.arange(30) % 3] * 5, (np.arange(30) % 3).astype(np.int32))
    low, high = intervals(Tally(said))["accuracy"]
    assert (low, high) == (pytest.approx(0.025 ** (1 / 30)), 1.0)


@given(single(), st.floats(0.5, 3.0))
def test_the_temperature_undoes_a_scale_of_the_logits(said, scale):
    scaled = predictions(said.logits * scale, said.label)
    one, other = fit_calibration(said), fit_calibration(scaled)
    if not one.note and not other.note:
        ratio = other.calibration.temperature / one.calibration.temperature
        assert ratio == pytest.approx(scale, rel=1e-3)
    before, after = (Tally(said, own).metrics() for own in (Calibration(), one.calibration))
    assert after["log_loss"] <= before["log_loss"] + 1e-9


@given(several())
def test_no_threshold_has_a_better_f1_than_the_chosen_one(said):
    p, truth = said.probabilities(), said.truth
    for place, limit in enumerate(best_thresholds(p, truth)):
        own = oracle.f1_score(truth[:, place], p[:, place] >= limit, zero_division=0)
        for cut in p[:, place]:
            other = oracle.f1_score(truth[:, place], p[:, place] >= cut, zero_division=0)
            assert own >= other - 1e-12


@given(several(), st.floats(0.3, 3.0))
def test_decisions_do_not_depend_on_the_temperature(said, temperature):
    scaled = said.probabilities(Calibration(temperature=temperature))
    limits = best_thresholds(scaled, said.truth)
    own = Calibration(temperature=temperature, thresholds=limits)
    np.testing.assert_array_equal(said.chosen(own), said.chosen(untempered(own)))


def test_two_runs_are_compared_example_by_example():
    label = (np.arange(40) % 2).astype(np.int32)
    good, bad = np.eye(2)[label] * 2.0, np.eye(2)[label] * 2.0
    bad[:10] = bad[:10, ::-1]
    found = compare(Tally(predictions(bad, label)), Tally(predictions(good, label)))
    assert (found.only_first, found.only_second) == (0, 10)
    assert found.p_value == pytest.approx(2 * 0.5**10)
    assert found.difference["accuracy"] == pytest.approx(0.25)
    low, high = found.intervals["accuracy"]
    assert 0 < low < 0.25 < high
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ConfigError, match="not evaluated on the same examples: 20 are of one"):
        compare(Tally(predictions(bad, label)), Tally(predictions(good[:20], label[:20])))


@pytest.mark.parametrize("kind", [single, several])
@given(data=st.data())
def test_kept_predictions_come_back(tmp_path_factory, kind, data):
    said = data.draw(kind())
    path = tmp_path_factory.mktemp("kept") / "predictions.npz"
    write_predictions(path, {"test": said})
    back = read_predictions(path, "test")
    assert (back.classes, back.several) == (said.classes, said.several)
    for name in ("logits", "label", "example", "name"):
        np.testing.assert_array_equal(getattr(back, name), getattr(said, name))
    assert read_predictions(path, "val") is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_predictions(path, "test")
