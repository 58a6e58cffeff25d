import shutil

import numpy as np
import pytest

from jtl.errors import CheckpointError, ConfigError
from jtl.report.compare import compare_runs
from jtl.report.live import follow, write_live
from jtl.report.outcomes import Outcomes, read_outcomes
from jtl.report.run import load_run, with_report
from tests.experiment import runs
from tests.report.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run <b>$&"
    made = with_report(runs.run(folder))
    made.report()
    return made


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with Browser() as own:
        yield own


def test_a_report_holds_all_its_parts_and_its_figures_as_files(run):
    text = (run.workdir / "report.html").read_text("utf-8")
    for name in ("Metrics", "Learning", "Classes", "Mistakes", "Data", "Frozen", "Weights",
                 "Speed", "Repeat"):  # fmt: skip
        assert f'id="{name.lower()}-title">{name}<' in text
    plots = {path.name for path in (run.workdir / "plots").iterdir()}
    assert {"loss.png", "accuracy.png", "confusion.png", "reliability.png"} <= plots
    assert "phase 2" in text
    assert all(name in text for name in runs.CLASSES)


def test_a_report_is_the_same_each_time(run):
    before = (run.workdir / "report.html").read_bytes()
    assert run.report().read_bytes() == before


def test_a_report_without_the_examples_says_so(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.workdir, copy)
    config = copy / "config.yaml"
    gone = config.read_text("utf-8").replace("source: digits", f"source: {tmp_path / 'gone'}")
    config.write_text(gone, "utf-8")
    assert "The examples cannot be shown" in load_run(copy).report().read_text("utf-8")


def test_a_report_in_chromium_makes_no_request_and_no_complaint(run, browser, tmp_path):
    page = run.workdir / "report.html"
    for width, dark in ((1200, False), (1200, True), (390, False)):
        browser.open(page, width=width, dark=dark)
        assert browser.requests == [browser.value("location.href")]
        assert browser.complaints == []
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth)")
        browser.screenshot(tmp_path / "shot.png")
        assert (tmp_path / "shot.png").stat().st_size > 20_000
    assert browser.print(tmp_path / "page.pdf") > 10_000


def test_the_table_of_classes_sorts_by_keyboard(run, browser):
    browser.open(run.workdir / "report.html")
    names = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[0].textContent)"
    assert browser.value(names) == list(runs.CLASSES)
    for _ in range(40):
        browser.press("Tab")
        if browser.value("document.activeElement.textContent") == "class":
            break
    browser.press("Enter")
    browser.press("Enter")
    assert browser.value(names) == sorted(runs.CLASSES, reverse=True)
    order = "document.activeElement.parentElement.getAttribute('aria-sort')"
    assert browser.value(order) == "descending"


def test_colours_follow_the_dark(run, browser):
    page, colours = run.workdir / "report.html", []
    for dark in (False, True):
        browser.open(page, dark=dark)
        colours.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_runs_are_compared_in_one_page(run, tmp_path):
    other = runs.run(tmp_path / "other", runs.config(seed=1, data__split__seed=0))
    output = tmp_path / "both.html"
    compare_runs([run.workdir, other.workdir], output)
    text = output.read_text("utf-8")
    assert "seed" in text
    assert str(other.workdir) in text
    with pytest.raises(ConfigError, match="exists"):
        compare_runs([run.workdir, other.workdir], output)
    with pytest.raises(ConfigError, match="twice"):
        compare_runs([run.workdir, run.workdir], tmp_path / "new.html")
    with pytest.raises(CheckpointError, match="is no run"):
        compare_runs([run.workdir, tmp_path], tmp_path / "new.html")


def test_a_live_page_follows_a_run_until_it_has_ended(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.workdir, copy)
    summary = (copy / "summary.json").read_text("utf-8")
    (copy / "summary.json").unlink()
    assert 'http-equiv="refresh"' in write_live(copy, 3).read_text("utf-8")
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            (copy / "summary.json").write_text(summary, "utf-8")

    follow(copy, 3, wait)
    assert waits == [3, 3]


def test_predictions_of_other_classes_are_refused(run, tmp_path):
    shutil.copy(run.workdir / "predictions.csv", tmp_path)
    with pytest.raises(CheckpointError, match="does not have the 2 classes"):
        read_outcomes(tmp_path, ("ant", "bee"))
    assert read_outcomes(tmp_path / "nowhere", runs.CLASSES) is None


def test_outcomes_count_as_scikit_learn_does():
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    own = Outcomes(
        split="test",
        examples=np.arange(50),
        names=tuple(map(str, range(50))),
        truth=np.eye(4, dtype=bool)[labels],
        given=np.eye(4, dtype=bool)[probabilities.argmax(1)],
        probabilities=probabilities,
        classes=("a", "b", "c", "d"),
    )
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(4))
    assert (own.confusion() == expected).all()
    assert own.reliability()[2].sum() == 50
    logits = np.log(probabilities) / 2
    sharp = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sure, _, counts = own.reliability(temperature=2.0)
    assert (sure * counts).sum() == pytest.approx(sharp.max(1).sum())
    mistakes = own.most_confident_mistakes(5)
    assert not own.right[mistakes].any()
    assert (np.diff(own.confidence[mistakes]) <= 0).all()


def test_confidence_in_each_of_several_classes_is_calibrated_at_its_own_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 3)) * 2
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    own = Outcomes(
        split="test",
        examples=np.arange(300),
        names=tuple(map(str, range(300))),
        truth=truth,
        given=truth,
        probabilities=1 / (1 + np.exp(-logits * 3)),  # too sure by a factor of 3
        classes=("a", "b", "c"),
    )

    def gap(temperature):
        sure, right, counts = own.reliability(temperature)
        assert counts.sum() == truth.size
        return (np.abs(sure - right) * counts).sum() / counts.sum()

    assert gap(3.0) < 0.05 < gap(1.0)
