"""The Python in README runs exactly as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

PROJECT = Path(__file__).parent.parent
TEXT = (PROJECT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
RESEARCH = TEXT.partition("## For research code\n")[2].partition("\n## ")[0]
# What takes longer than a few seconds: a whole fine-tuning, and ResNet-18 under pmap.
SLOW = ("jtl.finetune(", '"resnet18"')


def run(block, folder):
    """Runs a block as a program of its own in an empty folder; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def marked(block):
    slow = any(sign in block for sign in SLOW)
    return pytest.param(block, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("block", [marked(b) for b in BLOCKS if b not in RESEARCH])
def test_python_blocks_run_as_printed(block, tmp_path):
    digits = load_digits()
    seven = digits.images[digits.target == 7][0] / 16 * 255
    Image.fromarray(seven.astype(np.uint8)).save(tmp_path / "seven.png")
    assert run(block, tmp_path)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b in RESEARCH][1:])
def test_research_code_runs_as_printed_and_writes_nothing(block, tmp_path):
    run(block, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_research_code_has_a_network_and_a_loop_of_its_own_in_under_25_lines(tmp_path):
    example = next(block for block in BLOCKS if block in RESEARCH)
    assert len(example.splitlines()) < 25
    assert {"class", "for"} <= set(example.split())
    lines = run(example, tmp_path).splitlines()
    printed = [[float(value) for value in line.split()] for line in lines]
    assert len(printed) == 5
    assert all(np.isfinite(loss) and norm > 0 for loss, norm in printed)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_model_has_an_example():
    blocks = [block for block in BLOCKS if block in RESEARCH]
    for sign in ("nn.Module", "nnx.", "def apply(variables, images, train, rngs)"):
        assert any(sign in block for block in blocks), sign
