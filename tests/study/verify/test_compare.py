"""What two runs took, recorded and ended with: nothing that differs goes unnamed."""

import json

import numpy as np
import pytest

from jtl.study.verify.compare import compare_examples, compare_records, compare_summaries
from jtl.study.verify.examples import NAME, ExampleLog, read_examples
from jtl.study.verify.start import RUN
from jtl.training.events import Taken

BATCHES = [np.array([4, 1, 3]), np.array([0, 2, 5]), np.array([1, 4, 0])]


def batch(example, fill=0):
    image = np.full((3, 2, 2, 3), fill, np.uint8)
    return {"example": example, "view": np.zeros(3, np.int32), "image": image}


def take(folder, steps, **changed):
    """One start that takes these steps; `step2` gives another batch for the second."""
    folder.mkdir(exist_ok=True)
    log = ExampleLog(folder / NAME)
    for step in steps:
        given = changed.get(f"step{step}", batch(BATCHES[step - 1]))
        log(Taken(step=step, batch=given))


@pytest.fixture
def whole(tmp_path):
    take(tmp_path / "whole", (1, 2, 3))
    return tmp_path / "whole"


def test_steps_that_are_taken_again_are_no_difference(whole, tmp_path):
    take(tmp_path / "killed", (1, 2))
    take(tmp_path / "killed", (2, 3))
    assert list(compare_examples(whole, tmp_path / "killed")) == []
    assert len(read_examples(tmp_path / "killed" / NAME)) == 4


def test_a_line_that_a_kill_cut_off_is_passed_over(whole, tmp_path):
    take(tmp_path / "killed", (1, 2))
    log = tmp_path / "killed" / NAME
    log.write_bytes(log.read_bytes()[:-20])
    take(tmp_path / "killed", (2, 3))
    assert list(compare_examples(whole, tmp_path / "killed")) == []
    assert len(read_examples(log)) == 3


@pytest.mark.parametrize(
    ("starts", "changed", "said"),
    [
        ([(1, 2), (3,)], {"step3": batch(BATCHES[1])}, "step 3: example 0 of its batch was 0 and"),
        ([(1, 2), (2, 3)], {"step2": batch(BATCHES[1][::-1])}, "step 2: example 0 of its batch"),
        ([(1, 2), (3,)], {"step2": batch(BATCHES[1], fill=1)}, "step 2: took the same examples"),
        ([(1, 2), (3,)], {"step3": batch(BATCHES[2][:2])}, "step 3: took another number of exa"),
        ([(1,), (3,)], {}, "step 2: took no batch"),
    ],
    ids=["other", "order", "content", "fewer", "missing"],
)
def test_a_step_that_takes_something_else_is_named(whole, tmp_path, starts, changed, said):
    for steps in starts:
        take(tmp_path / "killed", steps, **changed)
    assert next(compare_examples(whole, tmp_path / "killed")).startswith(said)


def test_a_step_too_many_is_named(whole, tmp_path):
    take(tmp_path / "killed", (1, 2))
    found = list(compare_examples(tmp_path / "killed", whole))
    assert found == ["step 3: took a batch, which the reference never did"]


def run_of(folder, records, ends):
    (folder / RUN).mkdir(parents=True)
    (folder / RUN / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / RUN / "summary.json").write_text(json.dumps({"best": ends[0], "final": ends[1]}))
    return folder


def record(step, loss, **more):
    return {"kind": "train", "step": step, "metrics": {"loss": loss}, **more}


def test_records_agree_but_for_what_a_clock_measured(tmp_path):
    first = [{"kind": "cache", "step": 0}, record(1, float("nan"), images_per_second=3.0)]
    one = run_of(tmp_path / "one", first, ({"step": 1}, {"step": 1}))
    other = run_of(tmp_path / "two", [record(1, float("nan"))], ({"step": 1}, {"step": 1}))
    assert list(compare_records(one, other)) == []
    assert list(compare_summaries(one, other)) == []


def test_records_and_ends_that_differ_are_named(tmp_path):
    one = run_of(tmp_path / "one", [record(1, 0.5), record(2, 0.25)], ({"step": 1}, {"step": 2}))
    two = run_of(tmp_path / "two", [record(1, 0.5), record(2, 0.26)], ({"step": 2}, {"step": 2}))
    short = run_of(tmp_path / "short", [record(1, 0.5)], ({"step": 1}, {}))
    assert list(compare_records(one, two)) == [
        "metrics.jsonl, record 2: metrics.loss is 0.26 and not 0.25"
    ]
    assert list(compare_records(one, short)) == ["metrics.jsonl, record 2 on: missing"]
    assert list(compare_records(short, one)) == ["metrics.jsonl, record 2 on: left over"]
    assert list(compare_summaries(one, two)) == ["summary.json, best: step is 2 and not 1"]
    assert list(compare_summaries(one, short)) == ["summary.json, final: step is null and not 2"]
