import os
import re
import subprocess
import sys

import pytest

from jtl.cli import main
from jtl.cli.fetch import fetch
from jtl.cli.models import models
from jtl.errors import WeightsError
from jtl.weights.catalogue import catalogue, find_architectures
from jtl.weights.fetch import find_source
from tests.weights.loopback import serving


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    monkeypatch.delenv("JTL_OFFLINE", raising=False)
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys, *arguments):
    models(*arguments)
    return capsys.readouterr().out


def test_table_has_one_row_a_network(capsys):
    lines = printed(capsys).splitlines()
    assert lines[0].split() == [
        *("name", "params", "GMACs", "input", "features", "top-1", "%", "licence", "weights")
    ]
    rows = lines[1 : 1 + len(catalogue())]
    assert [row.split()[0] for row in rows] == [network.name for network in catalogue()]
    first = "resnet18 11.7M 1.81 224 512 68.3–73.3 BSD-3-Clause, Apache-2.0, CC-BY-NC-4.0"
    assert " ".join(rows[0].split()) == f"{first} resnet18.tv_in1k_v1 +6"


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_terminal_shows_names_and_figures_unbroken(columns):
    code = "from jtl.cli.models import models; models()"
    environment = {**os.environ, "COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm"}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.stdout.splitlines()]
    assert max(map(len, lines)) <= columns
    begun = [line.split()[:2] for line in lines if line.startswith("inception_v3")]
    assert begun == [["inception_v3", "23.8M"], ["inception_v3", "(Keras)"]]


def test_pipe_gets_no_control_characters(capsys):
    text = printed(capsys) + printed(capsys, "resnet50")
    assert all(line.isprintable() for line in text.splitlines())


def test_detail_shows_every_release_whole(capsys):
    text = printed(capsys, "resnet50")
    lines = [line.strip() for line in text.splitlines()]
    for network in find_architectures("resnet50"):
        for item in network.weights:
            assert item.name in lines
            assert f"address     {item.url}" in lines
            assert item.digest.value in text
    assert "multiply-adds 4,089,184,256 at 224 × 224 pixels" in lines
    assert "size        102.5 MB (102,540,417 bytes)" in lines
    assert lines.count("train with them:") == 2
    assert any(line.endswith("--set model.weights=resnet50.keras_in1k") for line in lines)


def test_detail_says_what_no_publisher_does(capsys):
    lines = [line.strip() for line in printed(capsys, "resnet34").splitlines()]
    assert "size        83.275 MiB, as its publisher rounds it" in lines
    assert "size        not known" in lines


def test_unknown_network_is_one_error():
    with pytest.raises(WeightsError, match="no model 'resnet500'; did you mean resnet50"):
        models("resnet500")


def test_table_needs_no_jax():
    code = (
        "import sys; from jtl.cli.models import models; models(); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout


def test_fetch_prints_the_path_and_the_digest(capsys):
    with serving() as site:
        served = site.add("/a.pth", b"weights")
        fetch(f"{site.url}/a.pth")
        fetch(f"{site.url}/a.pth", offline=True)
    path = find_source(f"{site.url}/a.pth").path
    assert capsys.readouterr().out.splitlines() == [str(path), f"SHA-256 {served.sha256}"] * 2
    assert path.read_bytes() == b"weights"


def test_fetch_offline_is_one_error():
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth and put it at"):
        fetch("resnet18.tv_in1k_v1", offline=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "resnet500"], "jtl: there is no model 'resnet500'; did you mean resnet50"),
        (["weights", "fetch", "resnet50.tv"], "jtl: there are no weights 'resnet50.tv'; did you"),
    ],
)
def test_unknown_name_exits_with_two_and_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == 1
    assert shown.out == ""
