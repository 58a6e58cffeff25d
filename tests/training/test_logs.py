"""Records on disk: every event once, in order, also over a resumption."""

import dataclasses
import io
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jtl.training.events import Began, Cached, Ended, Evaluated, Pictured, Stepped
from jtl.training.logs import Records
from jtl.training.pictures import confusion_picture


def stepped(step):
    return Stepped(
        step=step,
        epoch=step / 10,
        phase=0,
        metrics={"loss": 1 / step, "rate": 0.1},
        images_per_second=100.0,
        seconds_left=5.0,
    )


def evaluated(step):
    return Evaluated(
        step=step, epoch=step / 10, phase=0, split="val", metrics={"accuracy": 0.5}, best=True
    )


def record(folder, start, events):
    with Records(folder, start) as records:
        for event in events:
            records(event)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """What TensorBoard reads, from all event files in order."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def summaries(folder):
    """What TensorBoard would show: (step, value)."""
    for event in events(folder):
        yield from ((event.step, own) for own in event.summary.value)


def scalars(folder):
    """Tag, step and value of each number."""
    own = summaries(folder)
    return [(v.tag, step, v.simple_value) for step, v in own if v.HasField("simple_value")]


def pictures(folder):
    """Tag, step and pixels of each picture."""
    own = [(step, v) for step, v in summaries(folder) if v.HasField("image")]
    return [
        (v.tag, step, np.asarray(Image.open(io.BytesIO(v.image.encoded_image_string))))
        for step, v in own
    ]


def test_steps_and_evaluations_are_recorded_as_they_come(tmp_path):
    events = [Began(step=0, steps=9), stepped(1), stepped(2), evaluated(2), Ended(summary={})]
    record(tmp_path, 0, events)
    assert [(line["kind"], line["step"]) for line in lines(tmp_path)] == [
        ("train", 1),
        ("train", 2),
        ("evaluation", 2),
    ]
    assert lines(tmp_path)[1]["metrics"] == {"loss": 0.5, "rate": 0.1}
    assert lines(tmp_path)[2]["split"] == "val"


def test_records_can_be_read_while_the_run_goes_on(tmp_path):
    with Records(tmp_path, 0) as records:
        records(stepped(1))
        assert lines(tmp_path)[0]["step"] == 1


@pytest.mark.parametrize("cut", ["", '{"kind": "tr'])
def test_a_resumed_run_drops_what_it_is_about_to_do_again(tmp_path, cut):
    record(tmp_path, 0, [stepped(1), stepped(2), evaluated(2), stepped(3)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(cut)
    record(tmp_path, 2, [stepped(3), stepped(4)])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 2, 3, 4]


def test_a_run_begun_again_drops_all(tmp_path):
    record(tmp_path, 0, [stepped(1), stepped(2)])
    record(tmp_path, 0, [stepped(1)])
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_tensorboard_is_given_every_metric_under_its_split(tmp_path):
    record(tmp_path, 0, [stepped(4), evaluated(4)])
    assert scalars(tmp_path) == [
        ("train/loss", 4, 0.25),
        ("train/rate", 4, pytest.approx(0.1)),
        ("val/accuracy", 4, 0.5),
    ]


def test_tensorboard_is_told_where_a_resumed_run_goes_on(tmp_path):
    record(tmp_path, 0, [stepped(1)])
    assert not [event for event in events(tmp_path) if event.HasField("session_log")]
    (tmp_path / "resumed").mkdir()
    record(tmp_path / "resumed", 2, [stepped(3)])
    first, begins, *rest = events(tmp_path / "resumed")
    assert first.file_version == "brain.Event:2"
    # TensorBoard drops what an earlier file has from that step on.
    assert (begins.step, begins.session_log.status) == (3, SessionLog.START)
    assert [event.step for event in rest] == [3]


def test_tensorboard_is_given_pictures_and_each_confusion_matrix(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    counts = np.array([[3, 1], [0, 4]])
    checked = dataclasses.replace(evaluated(4), confusion=counts)
    shown = Pictured(step=2, name="train/examples", image=drawn)
    with Records(tmp_path, 0, ("ant", "bee")) as records:
        records(shown)
        records(checked)
    (first, second) = pictures(tmp_path)
    assert first[:2] == ("train/examples", 2)
    assert (first[2] == drawn).all()
    assert second[:2] == ("val/confusion", 4)
    assert (second[2] == confusion_picture(counts, ("ant", "bee"))).all()
    assert "confusion" not in lines(tmp_path)[-1]


def test_each_phase_records_its_cache_once_also_over_a_resumption(tmp_path):
    first, second = Cached(step=0, phase=0, where="host"), Cached(step=4, phase=1, note="why not")
    again = Cached(step=2, phase=0, where="host", note="what is there already is used again")
    record(tmp_path, 0, [first, stepped(1), stepped(2), stepped(3)])
    record(tmp_path, 2, [again, stepped(3), second])
    kept = [line for line in lines(tmp_path) if line["kind"] == "cache"]
    assert [(line["step"], line["phase"], line["where"]) for line in kept] == [
        (0, 0, "host"),
        (4, 1, None),
    ]


def test_a_package_that_takes_seconds_to_import_is_left_out(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    program = (
        "import sys; from pathlib import Path; from jtl.training.logs import TensorBoard\n"
        f"TensorBoard(Path({str(tmp_path)!r}), 0).close()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ended.stderr == "torch was imported\n"  # by the last line, and by no other
    assert len(list(tmp_path.glob("events*"))) == 1
