"""`jtl params` and `--find-rate`: what a user reads there."""

import re

import pytest

from jtl.cli import main

SMALL = ["--set", "train.placement=single", "--set", "data.batch_size=16"]


def said(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code in (0, None)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


def test_params_shows_stages_rates_modes_and_cost_of_each_phase(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decay = ["--set", "train.phases.1.layer_decay=0.5"]
    text = said(capsys, "params", "digits", *SMALL, *decay)
    first, second = text.split("phase 2")
    assert re.search(r"1,290 of 203,858 parameters trained \(0\.6%\)", first)
    assert re.search(r"layer3 +189,184 +0\.0% +frozen", first)
    assert re.search(r"head +1,290 +100\.0% +0\.03\b", first)
    assert re.search(r"layer3 +189,184 +100\.0% +0\.0015 +train", second)
    flops = [float(n) for n in re.findall(r"([\d.]+) MFLOP an image", text)]
    assert 0 < flops[0] < flops[1]
    memory = re.findall(r"optimizer state ([\d.]+) (KiB|MiB)", text)
    assert [unit for _, unit in memory] == ["KiB", "MiB"]
    assert list(tmp_path.iterdir()) == []


def test_a_rate_is_suggested_as_the_option_that_sets_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = said(capsys, "train", "digits", "--find-rate", *SMALL)
    assert re.search(r"suggested  --set train\.phases\.0\.schedule\.rate=0\.\d+", text)
    assert list(tmp_path.iterdir()) == []
