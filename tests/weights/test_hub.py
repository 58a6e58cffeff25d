import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jtl.errors import WeightsError
from jtl.weights.cache import read_record
from jtl.weights.fetch import locate
from jtl.weights.hub import HubFile, parse_hub_file
from jtl.weights.progress import Silent
from tests.weights.loopback import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = f"hf:owner/net/sub/model.safetensors@{COMMIT}"
CONTENT = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    monkeypatch.setenv("JTL_CACHE", str(root))
    monkeypatch.delenv("JTL_OFFLINE", raising=False)
    return root


def test_name_is_read_with_folders_in_the_file():
    assert parse_hub_file(NAME) == HubFile(
        repository="owner/net", file="sub/model.safetensors", revision=COMMIT
    )


@pytest.mark.parametrize("name", ["hf:net/model.bin", "hf:o/n/../../x@" + COMMIT, "hf:o/n@a/b"])
def test_name_of_another_form_is_refused(name):
    with pytest.raises(WeightsError, match="does not have the form hf:owner/name/file@revision"):
        parse_hub_file(name)


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("", "no revision is pinned"),
        ("@main", "the revision 'main' can move"),
        ("@v1.0", "the revision 'v1.0' can move"),
        ("@" + COMMIT[:12], "can move"),
    ],
)
def test_revision_that_is_not_pinned_is_refused(revision, said):
    with pytest.raises(WeightsError, match=said) as error:
        parse_hub_file(f"hf:owner/net/model.safetensors{revision}")
    assert "huggingface.co/owner/net/commits" in str(error.value)


def test_missing_library_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'jtl\[hub\]'"):
        locate(NAME, progress=Silent)


def test_offline_file_put_there_by_hand_needs_no_library(monkeypatch, cache_root):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="put it at"):
        locate(NAME, offline=True)
    path = cache_root / "hf" / "owner" / "net" / COMMIT / "sub" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert locate(NAME, offline=True) == path


SCRIPT = """
import sys
from jtl.errors import WeightsError
from jtl.weights.fetch import locate
try:
    print(locate(sys.argv[1]))
except WeightsError as error:
    sys.exit(f"WeightsError: {error}")
"""


def ask_hub(url, tmp_path, name):
    """The real huggingface_hub against our server; it reads its address when it is imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", SCRIPT, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def hub():
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("needs huggingface_hub (the extra `hub`)")
    with serving() as site:
        yield site


def add(site, etag):
    path = f"/owner/net/resolve/{COMMIT}/sub/model.safetensors"
    site.add(path, CONTENT, etag=f'"{etag}"', headers={"X-Repo-Commit": COMMIT})


def test_pinned_file_lands_in_the_cache_verified(hub, tmp_path, cache_root):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    add(hub, sha256)
    done = ask_hub(hub.url, tmp_path, NAME)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == cache_root / "hf" / "owner" / "net" / COMMIT / "sub" / "model.safetensors"
    assert path.read_bytes() == CONTENT
    assert read_record(path).published == f"SHA-256 {sha256}"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "model.safetensors",
        "model.safetensors.json",
        "model.safetensors.lock",
    ]


def test_file_that_is_not_what_the_hub_published_is_refused(hub, tmp_path, cache_root):
    add(hub, "0" * 64)
    done = ask_hub(hub.url, tmp_path, NAME)
    assert done.returncode == 1
    assert f"SHA-256 {'0' * 64} was published" in done.stderr
    assert not list(cache_root.rglob("model.safetensors"))


def test_file_that_the_hub_lacks_is_one_error(hub, tmp_path):
    done = ask_hub(hub.url, tmp_path, NAME)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("WeightsError: https://huggingface.co/owner/net")
    assert "Traceback" not in done.stderr
