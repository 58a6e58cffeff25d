"""What the terminal shows of a finished run: little, and that with its interval."""

import io

from rich.console import Console

from jtl.cli.result import show_result
from jtl.training.measure.tally import HEADLINES


def record(step, **calibration):
    metrics = dict.fromkeys([*HEADLINES, "log_loss", "precision_micro", "kappa"], 0.5)
    bounds = {name: [0.4321, 0.6] for name in metrics}
    return {
        "step": step,
        "metrics": {"val": metrics, "test": metrics},
        "intervals": {"val": bounds, "test": bounds},
        "calibration": {
            "temperature": 0.75,
            "before": {"test": {"log_loss": 0.5, "ece": 0.2}},
            "after": {"test": {"log_loss": 0.4, "ece": 0.1}},
            **calibration,
        },
    }


def shown(best, final):
    file = io.StringIO()
    summary = {"best": best, "final": final, "steps": 9, "seconds": 3.2}
    show_result(Console(file=file, width=120), "runs/x", summary, "runs/x/report.html")
    return file.getvalue().splitlines()


def test_the_headline_figures_stand_beside_their_intervals():
    lines = shown(record(4), record(9))
    heads = " ".join(lines[0].split())
    assert heads == "test best, step 4 95 % interval final, step 9 95 % interval"
    names = [line.split()[0] for line in lines[1 : 1 + len(HEADLINES)]]
    assert names == list(HEADLINES)
    assert all(line.count("0.4321 to 0.6000") == 2 for line in lines[1 : 1 + len(HEADLINES)])
    assert lines[1 + len(HEADLINES)] == (
        "temperature 0.750, of validation, changes test log_loss 0.5000 to 0.4000, "
        "ece 0.2000 to 0.1000"
    )
    assert lines[2 + len(HEADLINES)] == "9 steps in 3 s; all in runs/x"
    assert "report   runs/x/report.html" in lines


def test_one_column_is_enough_where_the_last_is_the_best():
    lines = shown(record(9, note="there are no validation examples"), record(9))
    assert " ".join(lines[0].split()) == "test best, step 9 95 % interval"
    assert "temperature 0.750: there are no validation examples" in lines


def test_a_run_without_evaluation_says_where_it_lies():
    nothing = {"step": 9, "metrics": {}}
    assert shown(nothing, nothing)[0] == "9 steps in 3 s; all in runs/x"
