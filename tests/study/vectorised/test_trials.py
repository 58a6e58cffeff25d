"""Each trial that is trained together with others equals its ordinary run."""

import jax
import numpy as np
import pytest

from jtl.errors import ConfigError
from jtl.study.vectorised import Trials, train_together
from jtl.training.compilations import Compilations
from jtl.training.measure.ranking import RANKINGS
from jtl.tree import flatten
from tests.experiment.runs import config, run, source

TOLERANCE = 1e-5
KINDS = ("cosine", "linear", "constant", "step", "one_cycle")


def trial(number, **changes):
    """A trial that differs from others in every number, in seed, fold and schedule."""
    phase = {
        "freeze": "backbone",
        "epochs": 2,
        "dropout_rate": 0.1 * number,
        "schedule": {"rate": 0.01 * (number + 1), "kind": KINDS[number % len(KINDS)]},
        "optimizer": {"weight_decay": 0.1 * number, "l2_sp": 0.05 * number, "b1": 0.8},
    }
    values = {
        "seed": number // 2,
        "augment": {},
        "data__split": {"test": 0.2, "fold": {"count": 3, "index": number % 3}},
        "train__phases": [phase],
        "train__loss": {"label_smoothing": 0.05 * number, "class_weights": "balanced"},
    }
    return config(**{**values, **changes})


def check_equal(outcome, workdir, tolerance=TOLERANCE):
    """Compares an outcome with the ordinary run of its config."""
    ordinary = run(workdir, outcome.config)
    best, final = ordinary.summary["best"], ordinary.summary["final"]
    assert outcome.best_step == best["step"]
    assert outcome.evaluations[-1].step == final["step"]
    for own, other in ((outcome.best, best), (outcome.final, final)):
        expected = other["metrics"]["val"]
        # A run ends with metrics of scores one by one too; trials report what validation sums.
        assert own.keys() == expected.keys() - set(RANKINGS)
        for name in own:
            value = expected[name]
            assert own[name] == pytest.approx(value, abs=TOLERANCE, nan_ok=True), name
    expected = flatten(ordinary.variables)
    for path, leaf in flatten(outcome.variables).items():
        np.testing.assert_allclose(leaf, expected[path], atol=tolerance, err_msg=path)


def test_trial_equals_its_ordinary_run(tmp_path):
    configs = [trial(number) for number in range(5)]
    outcomes = train_together(configs, source=source(), keep_variables=True)
    assert [own.config for own in outcomes] == configs
    for number in (1, 4):
        check_equal(outcomes[number], tmp_path / str(number))


def test_validation_examples_are_the_folds_own():
    outcomes = train_together([trial(number, seed=0) for number in range(3)], source=source())
    seen = np.concatenate([own.examples for own in outcomes])
    assert len(np.unique(seen)) == len(seen) == 48  # all but the test split
    for own in outcomes:
        hits = (own.logits.argmax(-1) == own.labels).mean()
        assert hits == pytest.approx(own.best["accuracy"])


def test_images_that_vary_are_refused():
    varied = trial(0, augment={"flip": 0.5})
    assert Trials(source=source()).refusal(varied) == "training images are varied"
    with pytest.raises(ConfigError, match="training images are varied"):
        train_together([varied], source=source())


def test_trials_that_come_later_take_the_programs_of_those_before():
    trials = Trials(source=source())

    def compilations(*numbers, **changes):
        with Compilations() as compiled:
            found = trials.run([trial(number, seed=0, **changes) for number in numbers])
        return compiled.count, found

    first, whole = compilations(0, 1, 2, 3, 4, 5)
    assert first
    again, found = compilations(3)  # the number of one order's trials, where there were six
    assert again == 0
    np.testing.assert_allclose(found[0].logits, whole[3].logits, atol=TOLERANCE)
    assert compilations(0, 3)[0] == 0  # neither dropout nor decay in the first of them
    # Another size of batches is another shape, whose own programs serve it again.
    assert compilations(0, 1, 2, 3, 4, 5, data__batch_size=8)[0] > 0
    assert compilations(4, data__batch_size=8)[0] == 0
    assert compilations(5)[0] == 0


def test_devices_change_nothing():
    configs = [trial(number, seed=0) for number in range(3)]
    one, four = (
        Trials(source=source(), devices=jax.devices()[:count]).run(configs) for count in (1, 3)
    )
    for own, other in zip(one, four):
        np.testing.assert_allclose(own.logits, other.logits, atol=TOLERANCE)


@pytest.mark.slow
def test_two_phases_with_a_tail_of_convolutions(tmp_path):
    phases = [
        {"freeze": "backbone", "epochs": 1},
        {"freeze": "stem..layer2", "epochs": 2, "dropout_rate": 0.2, "optimizer": {"l2_sp": 0.1}},
    ]
    changes = {"train__phases": phases, "train__ema_decay": 0.9}
    stopping = {"patience": 1, "monitor": "loss"}
    configs = [trial(number, train__early_stopping=stopping, **changes) for number in range(2)]
    assert "convolutions" in Trials(source=source()).refusal(configs[0])
    trials = Trials(source=source(), convolutions=True)
    outcomes = trials.run(configs, keep_variables=True)
    # In the program of all trials a kernel's gradient is summed in another order, and where it is
    # nearly nothing Adam makes much of that: of 147,456 weights one moved by 1.4e-5.
    check_equal(outcomes[1], tmp_path / "run", tolerance=3e-5)
