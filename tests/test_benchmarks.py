"""Every benchmark in its smallest size: it runs, and its JSON says where and what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ahead, picture, record, shares, summary
from benchmarks.__main__ import scripts
from benchmarks.absent.chips import CHIPS
from benchmarks.contest.cell import Cell
from benchmarks.contest.contestants import Contestant, Entry, prepare_alone, take_turns
from benchmarks.reading import Operation, Sum, library_calls, operations, sums_over_devices

PROJECT = Path(__file__).parent.parent
SCRIPTS = sorted(scripts())
ABSENT = "ahead"  # whose results are named for the chips that it asks about

# What starts many processes or trains many runs even in its smallest size.
LONG = (
    *("scorecard", "digits_fewshot", "tune_digits", "cache_gain"),
    *("check", "end_to_end", "input_pipeline", "rank", "resume"),
    *("frozen_cost", "placement", "vectorised"),
)


def cases():
    long, slow = pytest.mark.soak, pytest.mark.slow
    return [
        pytest.param(name, marks=long if name in LONG else slow)
        for name in SCRIPTS
        if name != ABSENT
    ]


@pytest.mark.parametrize("script", cases())
def test_a_benchmark_writes_what_it_measured_and_where(script, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--smoke", "--results", str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "JTL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["name"] == path.stem == script
    assert found["rows"]
    here = found["environment"]
    assert here["device"] == "cpu"
    assert here["versions"]["jax"]
    assert {"date", "commit", "python", "driver", "cores"} <= here.keys()
    assert path.name in finished.stdout


PROGRAM = """
%fused (p0: bf16[8,64], p1: f32[64]) -> f32[64] {
  %p0 = bf16[8,64]{1,0} parameter(0)
  %p1 = f32[64]{0} parameter(1)
  ROOT %r = f32[64]{0} reduce(%p0), metadata={op_name="jit(s)/jvp(N)/reduce_sum"}
}

ENTRY %main (x: bf16[8,64], w: f32[64]) -> (f32[64]) {
  %x = bf16[8,64]{1,0} parameter(0)
  %w = f32[64]{0} parameter(1)
  %reduce_fusion.1 = f32[64]{0} fusion(%x, %w), kind=kInput, calls=%fused
  %conv.2 = (bf16[8,8]{1,0}, u8[16]{0}) custom-call(%x, %w), \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(s)/transpose(jvp(N))/conv"}
  %turned = f32[64]{0} transpose(%w), dimensions={0}
  ROOT %add.3 = f32[2000000]{0} add(%turned, %w), metadata={op_name="jit(s)/add"}
}
""".replace("\\\n", "")


def test_a_program_s_operations_say_where_they_belong_and_what_they_move():
    found = operations(PROGRAM)
    assert "r" not in found  # a part of a fusion
    moved = 2 * 8 * 64 + 4 * 64
    sums = Operation(part="forward", kind="sums", bytes=moved + 4 * 64)
    products = Operation(part="backward", kind="products", bytes=moved + 2 * 8 * 8 + 16)
    assert (found["reduce_fusion.1"], found["conv.2"]) == (sums, products)
    assert found["turned"].kind == "layout"
    update = Operation(part="update", kind="elementwise", bytes=4 * (2_000_000 + 2 * 64))
    assert found["add.3"] == update


def test_shares_are_of_all_that_ran_and_small_operations_are_counted_by_themselves():
    def event(name, operation, seconds):
        return shares.Event(name=name, operation=operation, seconds=seconds)

    events = [
        *(event("reduce_fusion_1", "command_buffer_7", 1e-6), event("add_3", "", 5e-6)),
        *(event("winograd", "conv.2", 1e-6), event("gemm", "conv.2", 2e-6)),
        event("memset", "command_buffer_7", 1e-6),
    ]
    rows = shares.shares([*events, *events], operations(PROGRAM), steps=2)
    named = {(row["part"], row["kind"]): row for row in rows}
    assert list(named)[:2] == [("update", "elementwise"), ("backward", "products")]
    assert named["backward", "products"]["seconds"] == pytest.approx(3e-6)
    assert named["backward", "products"]["runs"] == 2
    assert named["", "small"]["share"] == named["", "other"]["share"] == pytest.approx(0.1)
    rate = named["update", "elementwise"]["bytes_per_second"]
    assert rate == pytest.approx(4 * (2_000_000 + 2 * 64) / 5e-6)


@pytest.mark.slow
def test_beside_an_accelerator_each_side_compiles_by_itself_first(tmp_path):
    cell = Cell(network="resnet18", trained="cached head", precision="float32", batch=2, pixels=32)
    entry = Entry(name="jtl", module="jtl_process")
    said = prepare_alone(entry, cell, tmp_path)
    kept = {path.name for path in (tmp_path / "xla").iterdir()}
    assert any(name.endswith("-cache") for name in kept)
    assert said["make_seconds"] > 0
    with Contestant(entry, cell, tmp_path) as own:
        own.get_ready()
        take_turns([own], rounds=1, seconds=0.0, most_steps=1)
        assert len(own.seconds) == 1
        assert own.facts["flops"] > 0
    assert {path.name for path in (tmp_path / "xla").iterdir()} == kept  # nothing was compiled


@pytest.mark.soak
@pytest.mark.parametrize("chip", sorted(CHIPS))
def test_what_a_step_needs_on_a_chip_that_is_not_here_is_written_beside_that_chip(chip, tmp_path):
    if CHIPS[chip].missing:
        pytest.skip(f"{CHIPS[chip].compiler} is not installed")
    command = [sys.executable, "-m", "benchmarks.ahead", "--smoke", "--chips", chip]
    finished = subprocess.run(
        [*command, "--results", str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    assert path.stem == f"ahead{record.suffix(CHIPS[chip].name)}"
    plain, again, *together = json.loads(path.read_text())["rows"]
    assert again["flops"] > plain["flops"]  # what is computed again is not merged
    assert not plain["sums"]
    wide, own = (len(row["sums"]) for row in together)
    assert wide > own > 0


def test_a_compiler_that_is_not_installed_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.absent.chips.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["ahead", "--results", str(tmp_path)])
    ahead.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHIPS)
    assert all("is not installed" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_sums_and_library_calls_are_read_off_a_compiled_program():
    text = """
ENTRY %main (x: bf16[8,6,6,4]) -> f32[9] {
  %x = bf16[8,6,6,4]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,4]{3,2,1,0} parameter(1)
  %c = (bf16[8,6,6,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={}
  %y = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%c), index=0
  %w = (bf16[16,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={}
  %a = f32[5,6]{1,0} parameter(2)
  %b = f32[6,7]{1,0} parameter(3)
  %p = (f32[5,7]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm"
  %s = (f32[7]{0}, bf16[2,2]{1,0}) all-reduce(%u, %v), replica_groups={}
  %t = f32[] all-reduce-start(%n), replica_groups={}
  %f = (f32[3]{0}, s32[2]{0}) fusion(%a), kind=kLoop, calls=%computation
  %d = f32[] all-reduce-done(%t)
  %g = f32[9]{0} fusion(%a), kind=kLoop, calls=%computation
""".replace("\\\n", "")
    alone = Sum(bytes=7 * 4 + 4 * 2)
    assert sums_over_devices(text) == (alone, Sum(bytes=4, meanwhile=(5 * 6 + 3 + 2) * 4))
    convolution = 2 * (8 * 6 * 6 * 16) * (3 * 3 * 4)
    flops, moved = library_calls(text)
    assert flops == pytest.approx(2 * convolution + 2 * 5 * 6 * 7)
    arrays = 8 * 6 * 6 * 4 + 16 * 3 * 3 * 4 + 8 * 6 * 6 * 16
    assert moved == 2 * 2 * arrays + 4 * (5 * 6 + 6 * 7 + 5 * 7)


def test_the_runner_knows_every_script_and_leaves_out_what_does_not_fit(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--results", str(tmp_path)]
    finished = subprocess.run(
        [*command, "--minutes", "0"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    named = [line.split()[1].rstrip(":") for line in finished.stdout.splitlines()]
    assert sorted(named) == SCRIPTS
    assert not list(tmp_path.iterdir())


def test_the_table_of_readme_is_made_from_the_results():
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert readme.count(summary.BEGIN) == readme.count(summary.END) == 1
    assert summary.insert(readme, summary.table(record.RESULTS)) == readme


def test_every_result_of_an_asked_script_is_in_the_table_and_each_question_has_its_script():
    table = summary.table(record.RESULTS)
    assert {row.split()[0] for _, _, row in summary.QUESTIONS.values()} == set(summary.QUESTIONS)
    assert set(summary.QUESTIONS) <= set(SCRIPTS)
    assert picture.PANELS.keys() <= summary.QUESTIONS.keys()
    for path in record.RESULTS.glob("*.json"):
        name = json.loads(path.read_text("utf-8"))["name"]
        assert (f"benchmarks.{name}" in table) == (name in summary.QUESTIONS)


def step(name, rate, device_batch=256, trained="full", **fields):
    cell = {"network": "resnet50", "trained": trained, "precision": "bfloat16"}
    return {**cell, "batch": device_batch, "name": name, "images_per_second": rate, **fields}


def test_results_of_a_cpu_and_of_an_accelerator_lie_and_are_drawn_side_by_side(tmp_path):
    assert record.suffix("cpu") == ""
    for device, factor in (("cpu", 1), ("NVIDIA H100 80GB HBM3", 100)):
        rows = [step("jtl", 30.0 * factor), step("PyTorch", 20.0 * factor), step("jtl", 4.0, 64)]
        rows.append({**step("PyTorch, compiled", 0.0), "failed": "out of memory"})
        rows.append(step("jtl", 5.0 * factor, trained="head only"))
        path = tmp_path / f"train_step{record.suffix(device)}.json"
        result = {"name": "train_step", "environment": {"device": device}, "rows": rows}
        path.write_text(json.dumps(result))
    assert (tmp_path / "train_step-nvidia-h100-80gb-hbm3.json").is_file()
    _, _, *lines = summary.table(tmp_path).splitlines()
    assert sorted("H100" in line for line in lines) == [False, True]
    (fast,) = [line for line in lines if "(NVIDIA H100 80GB HBM3)" in line]
    said = "resnet50, full: 3,000 images/s in bfloat16 at 256 a step, 1.50 × PyTorch"
    assert f"{said} (PyTorch, compiled failed);" in fast
    picture.draw(tmp_path, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
