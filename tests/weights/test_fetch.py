import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jtl.errors import WeightsError
from jtl.weights import cache
from jtl.weights.cache import cache_folder, locked, read_record, record_path, writing
from jtl.weights.digest import file_digests, parse_digest
from jtl.weights.download import Patience, download
from jtl.weights.fetch import find_source, locate
from jtl.weights.progress import Silent
from tests.weights.loopback import serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = bytes(reversed(CONTENT))
IMPATIENT = Patience(timeout=5, attempts=3, backoff=0.01)
ONCE = Patience(timeout=5, attempts=1, backoff=0.01)


@pytest.fixture
def site():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    monkeypatch.setenv("JTL_CACHE", str(root))
    monkeypatch.delenv("JTL_OFFLINE", raising=False)
    return root


def fetch(name, patience=IMPATIENT, **options):
    return locate(name, patience=patience, progress=Silent, **options)


def kept(root):
    """Every file of the cache but locks, which stay."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.name for path in files)


def test_file_arrives_whole_with_its_record(site, cache_root):
    served = site.add("/a.pth", CONTENT)
    path = fetch(f"{site.url}/a.pth#sha256={served.sha256}")
    assert path.read_bytes() == CONTENT
    assert kept(cache_root) == ["a.pth", "a.pth.json"]
    assert read_record(path) == cache.Record(
        url=f"{site.url}/a.pth",
        bytes=len(CONTENT),
        sha256=served.sha256,
        published=f"SHA-256 {served.sha256}",
    )


def test_second_call_asks_no_server(site):
    site.add("/a.pth", CONTENT)
    first = fetch(f"{site.url}/a.pth")
    assert fetch(f"{site.url}/a.pth") == first
    assert len(site.requests) == 1


def test_equal_file_names_of_two_addresses_stay_apart(site):
    site.add("/v1/a.pth", CONTENT)
    site.add("/v2/a.pth", OTHER)
    first, second = fetch(f"{site.url}/v1/a.pth"), fetch(f"{site.url}/v2/a.pth")
    assert first.name == second.name == "a.pth"
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)


def test_broken_connection_resumes_where_it_stopped(site):
    served = site.add("/a.pth", CONTENT, cuts=[300_000, 200_000])
    path = fetch(f"{site.url}/a.pth#sha256={served.sha256}")
    assert path.read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-", "bytes=500000-"]
    assert site.requests[1][1]["If-Range"] == served.etag


def test_later_call_resumes_what_an_earlier_one_left(site, cache_root):
    site.add("/a.pth", CONTENT, cuts=[300_000])
    with pytest.raises(WeightsError, match="ended after 300000 of 1048576 bytes"):
        fetch(f"{site.url}/a.pth", ONCE)
    assert kept(cache_root) == ["a.pth.part", "a.pth.part.json"]
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-"]
    assert kept(cache_root) == ["a.pth", "a.pth.json"]


def test_part_that_is_complete_is_not_asked_for_again(site, cache_root):
    served = site.add("/a.pth", CONTENT, cuts=[300_000])
    name = f"{site.url}/a.pth#sha256={served.sha256}"
    with pytest.raises(WeightsError):
        fetch(name, ONCE)
    next(cache_root.rglob("*.part")).write_bytes(CONTENT)
    assert fetch(name).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_server_without_ranges_starts_anew(site):
    site.add("/a.pth", CONTENT, ranges=False, cuts=[300_000])
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-"]


def test_server_without_validators_is_not_resumed(site):
    site.add("/a.pth", CONTENT, etag=None, cuts=[300_000])
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT
    assert site.ranges() == [None, None]


@pytest.mark.parametrize("believes", [True, False], ids=["if-range", "piece-of-another-file"])
def test_file_that_changed_between_attempts_is_never_mixed(site, believes):
    site.add("/a.pth", CONTENT, cuts=[300_000])
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a.pth", ONCE)
    site.add("/a.pth", OTHER, believes=believes)
    assert fetch(f"{site.url}/a.pth").read_bytes() == OTHER


@pytest.mark.parametrize("how", [{"skew": 7}, {"longer": b"x"}], ids=["place", "length"])
def test_piece_that_does_not_fit_is_refused(site, how):
    tag = site.add("/a.pth", CONTENT, cuts=[300_000]).etag
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a.pth", ONCE)
    content = CONTENT + how.pop("longer", b"")
    site.add("/a.pth", content, etag=tag, **how)
    assert fetch(f"{site.url}/a.pth").read_bytes() == content


def test_file_that_became_shorter_starts_anew(site):
    site.add("/a.pth", CONTENT, cuts=[300_000])
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a.pth", ONCE)
    site.add("/a.pth", OTHER[:1000], believes=False)
    assert fetch(f"{site.url}/a.pth").read_bytes() == OTHER[:1000]


def test_wrong_digest_leaves_nothing_and_names_both(site, cache_root):
    served = site.add("/a.pth", CONTENT)
    wrong = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(WeightsError) as error:
        fetch(f"{site.url}/a.pth#sha256={wrong}")
    assert served.sha256 in str(error.value)
    assert wrong in str(error.value)
    assert kept(cache_root) == []
    assert len(site.requests) == 1


def test_wrong_digest_of_resumed_file_is_fetched_once_more(site, cache_root):
    served = site.add("/a.pth", CONTENT, cuts=[300_000])
    name = f"{site.url}/a.pth#sha256={served.sha256}"
    with pytest.raises(WeightsError):
        fetch(name, ONCE)
    part = next(cache_root.rglob("*.part"))
    part.write_bytes(bytes(part.stat().st_size))
    assert fetch(name).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-", None]


def test_md5_and_first_digits_of_sha256_verify(site):
    served = site.add("/a.pth", CONTENT)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    fetch(f"{site.url}/a.pth#md5={md5}")
    assert fetch(f"{site.url}/a.pth#sha256={served.sha256[:8]}").is_file()
    with pytest.raises(WeightsError, match="and SHA-256 00000000… was published"):
        fetch(f"{site.url}/a.pth#sha256=00000000")


def test_missing_file_is_asked_for_once(site, cache_root):
    with pytest.raises(WeightsError, match=r"a\.pth: the file is no longer there \(404 Not Found"):
        fetch(f"{site.url}/a.pth")
    assert len(site.requests) == 1
    assert kept(cache_root) == []


def test_busy_server_is_asked_again(site):
    site.add("/a.pth", CONTENT, statuses=[503, 429])
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_server_that_stays_busy_is_given_up(site):
    site.add("/a.pth", CONTENT, statuses=[503] * 9)
    with pytest.raises(WeightsError, match="answered 503 Service Unavailable, 3 times in a row"):
        fetch(f"{site.url}/a.pth")
    assert len(site.requests) == IMPATIENT.attempts


def test_stalled_server_times_out_and_the_start_is_kept(site, cache_root):
    site.add("/a.pth", CONTENT, stalls=[300_000])
    with pytest.raises(WeightsError, match="the connection stalled; run the same command again"):
        fetch(f"{site.url}/a.pth", Patience(timeout=0.2, attempts=1, backoff=0.01))
    assert next(cache_root.rglob("*.part")).stat().st_size == 300_000
    site.release.set()
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT


def test_unreachable_server_is_one_error(site):
    url = site.url.rpartition(":")[0] + ":1"
    with pytest.raises(WeightsError, match=r"cannot reach the server .*3 times in a row"):
        fetch(f"{url}/a.pth")


def test_other_size_than_published_is_refused_at_once(site, tmp_path):
    site.add("/a.pth", CONTENT)
    part = tmp_path / "a.part"
    with pytest.raises(WeightsError, match="offers 1048576 bytes where 999 were published"):
        download(f"{site.url}/a.pth", part, expected=999, progress=Silent("a"), patience=IMPATIENT)
    assert not part.exists()


def test_file_larger_than_the_disk_is_refused_at_once(site, cache_root):
    site.add("/a.pth", CONTENT, length=10**18)
    with pytest.raises(WeightsError, match=r"no space left: 1000000000000\.0 MB are still to come"):
        fetch(f"{site.url}/a.pth")
    assert not [name for name in kept(cache_root) if name == "a.pth"]


def test_full_disk_says_how_to_mend_it(tmp_path):
    mend = pytest.raises(WeightsError, match=r"no space left; free some .* or set JTL_CACHE")
    with mend, writing(tmp_path), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


@pytest.fixture
def unprivileged():
    """The rights of `nobody`, as tests in a container often run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_folder_without_permission_says_how_to_mend_it(site, cache_root, unprivileged, monkeypatch):
    site.add("/a.pth", CONTENT)
    monkeypatch.setenv("JTL_CACHE", "/usr/jtl-cache")
    with pytest.raises(WeightsError, match="no permission to write; set JTL_CACHE to a folder"):
        fetch(f"{site.url}/a.pth")


def test_cache_below_a_file_is_one_error(site, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match="Not a directory; mend that or set JTL_CACHE"):
        fetch(f"{site.url}/a.pth")


SCRIPT = """
import sys
from jtl.weights.download import Patience
from jtl.weights.fetch import locate
print(locate(sys.argv[1], patience=Patience(timeout=20, attempts=1)))
"""


def other_process(name):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_two_processes_at_once_fetch_once(site):
    served = site.add("/a.pth", CONTENT, stalls=[1000])
    name = f"{site.url}/a.pth#sha256={served.sha256}"
    first = other_process(name)
    assert site.stalled.wait(60)
    second = other_process(name)
    assert "is fetching it: waiting" in second.stderr.readline()
    site.release.set()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert Path(outputs[0][0].strip()).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_killed_process_leaves_no_lock_and_is_resumed(site, cache_root):
    served = site.add("/a.pth", CONTENT, stalls=[300_000])
    name = f"{site.url}/a.pth#sha256={served.sha256}"
    killed = other_process(name)
    assert site.stalled.wait(60)
    while not [p for p in cache_root.rglob("*.part") if p.stat().st_size == 300_000]:
        assert killed.poll() is None  # what the server sent is still being written
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert next(cache_root.rglob("*.lock")).read_text() == str(killed.pid)
    assert fetch(name).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-"]


def test_lock_is_held_by_one_at_a_time(tmp_path):
    told = []

    class GaveUpError(Exception):
        pass

    def give_up(owner):
        told.append(owner)
        raise GaveUpError

    path = tmp_path / "a"
    with locked(path, told.append), pytest.raises(GaveUpError), locked(path, give_up):
        pass
    assert told == [str(os.getpid())]
    with locked(path, give_up):
        pass


def test_offline_missing_file_says_what_to_put_where(monkeypatch, cache_root):
    monkeypatch.setenv("JTL_OFFLINE", "1")
    with pytest.raises(WeightsError) as error:
        fetch("resnet18.tv_in1k_v1")
    said = str(error.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in said
    assert str(cache_root / "weights" / "resnet18.tv_in1k_v1.pth") in said
    assert "SHA-256 f37072fd" in said


def test_offline_file_put_there_by_hand_is_verified_and_used(site, cache_root):
    name = f"https://example.org/a.pth#sha256={hashlib.sha256(CONTENT).hexdigest()}"
    path = find_source(name).path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(name, offline=True) == path
    record_path(path).unlink()
    path.write_bytes(OTHER)
    with pytest.raises(WeightsError, match="is damaged or another file"):
        fetch(name, offline=True)


def test_offline_argument_comes_before_the_environment(site, monkeypatch):
    site.add("/a.pth", CONTENT)
    monkeypatch.setenv("JTL_OFFLINE", "1")
    assert fetch(f"{site.url}/a.pth", offline=False).read_bytes() == CONTENT


def test_offline_neither_yes_nor_no_is_refused(monkeypatch):
    monkeypatch.setenv("JTL_OFFLINE", "perhaps")
    with pytest.raises(WeightsError, match="JTL_OFFLINE='perhaps' is neither yes nor no"):
        fetch("resnet18.tv_in1k_v1")


def test_damaged_cached_file_is_found(site):
    site.add("/a.pth", CONTENT)
    path = fetch(f"{site.url}/a.pth")
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    stat = path.stat()
    path.write_bytes(flipped)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(WeightsError, match=r"Remove it \(and a\.pth\.json beside it\)"):
        fetch(f"{site.url}/a.pth")


def test_first_download_records_what_later_ones_must_match(site):
    site.add("/a.pth", CONTENT)
    path = fetch(f"{site.url}/a.pth")
    path.unlink()
    site.add("/a.pth", OTHER)
    with pytest.raises(WeightsError, match="was published"):
        fetch(f"{site.url}/a.pth")
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("http://example.org/a.pth", "over https only"),
        ("ftp://example.org/a.pth", "over https only"),
        ("file:///etc/passwd", "is no web address"),
        ("https://host:port/a.pth", "is no web address"),
        ("https://host/a b.pth", "is no web address"),
        ("https://host/", "does not end in a file's name"),
        ("https://host/..", "does not end in a file's name"),
        ("https://host/a.pth#sha1=00", "names no known hash function"),
        ("https://host/a.pth#sha256=xyz", "must be 64 hexadecimal digits, or its first 8"),
        ("https://host/a.pth#md5=0011", "must be 32 hexadecimal digits"),
        ("resnet50.tv_in1k_v3", "did you mean resnet50.tv_in1k_v2"),
        ("resnet34", "released more than once; choose one of resnet34.tv_in1k_v1, "),
    ],
)
def test_name_that_cannot_be_fetched_says_why(name, said):
    with pytest.raises(WeightsError, match=re.escape(said)):
        fetch(name)


@pytest.mark.parametrize(
    "target", ["http://example.org/a.pth", "ftp://example.org/a.pth", "file:///etc/passwd"]
)
def test_redirect_to_what_would_be_refused_is_refused(site, target):
    site.add("/a.pth", b"", redirect=target)
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a.pth")
    assert len(site.requests) == 1


def test_redirect_is_followed_and_resumed(site):
    site.add("/a.pth", b"", redirect="/b.pth")
    site.add("/b.pth", CONTENT, cuts=[300_000])
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT
    assert site.ranges() == [None, None, "bytes=300000-", "bytes=300000-"]


def test_proxy_is_not_asked_for_this_machine(site, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    site.add("/a.pth", CONTENT)
    assert fetch(f"{site.url}/a.pth").read_bytes() == CONTENT


def test_piped_progress_is_a_few_plain_lines(site, capsys):
    site.add("/a.pth", CONTENT, cuts=[300_000])
    locate(f"{site.url}/a.pth", patience=IMPATIENT)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 14
    assert all(line.startswith("a.pth: ") and line.isprintable() for line in lines)
    assert lines[-1] == "a.pth: 1.0 MB of 1.0 MB (100 %)"
    assert any("trying again" in line for line in lines)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "jtl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "jtl"


def test_settled_file_survives_only_whole(tmp_path):
    part, target = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(CONTENT)
    cache.settle(part, target)
    assert target.read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_every_refusal_of_the_file_system_names_the_folder(tmp_path, code):
    said = rf"^{re.escape(str(tmp_path))}: .*JTL_CACHE"
    with pytest.raises(WeightsError, match=said), writing(tmp_path):
        raise OSError(code, os.strerror(code))


def test_digests_of_a_file_agree_with_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert file_digests(tmp_path / "a", ["sha256", "md5"]) == {
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
    }


def test_digest_is_read_in_either_spelling():
    whole = "AB" * 32
    assert parse_digest(f"SHA256={whole}") == parse_digest(f"sha256:{whole.lower()}")
    assert parse_digest(f"sha256:{whole}").whole
    assert not parse_digest("sha256:abababab").whole
