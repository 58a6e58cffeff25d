"""Released weights on this machine: found in the cache, or downloaded, verified and kept."""

import contextlib
import dataclasses
import hashlib
import shutil
import urllib.parse
from pathlib import Path, PurePosixPath

from jtl.errors import WeightsError
from jtl.weights.address import check_url
from jtl.weights.cache import (
    Record,
    cache_folder,
    is_offline,
    locked,
    read_record,
    record_path,
    settle,
    write_record,
    writing,
)
from jtl.weights.catalogue import find_weights
from jtl.weights.digest import Digest, file_digests, parse_digest
from jtl.weights.download import Patience, discard, download
from jtl.weights.hub import HubFile, hub_download, parse_hub_file
from jtl.weights.progress import ProgressFactory, Transferring, on_stderr

_ASSETS = Path(__file__).parent.parent / "assets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One file: where it comes from and where it is kept.

    Attributes:
        name: what was asked for.
        url: its web address; None for weights that come with jtl.
        path: where it lies, or will lie.
        digest: what its content must hash to, if anybody says.
        bytes: its exact size, if known.
        hub: the file on Hugging Face, where the name says so.
    """

    name: str
    url: str | None
    path: Path
    digest: Digest | None = None
    bytes: int | None = None
    hub: HubFile | None = None


def locate(
    name: str,
    *,
    offline: bool | None = None,
    progress: ProgressFactory = on_stderr,
    patience: Patience | None = None,
) -> Path:
    """The file of the named weights, downloaded first if it is not on this machine.

    A file is verified each time: against its publisher's digest, and against the SHA-256 that
    was recorded when it was first downloaded. No file has its final name before.

    Args:
        name: a name of the catalogue (`resnet50.tv_in1k_v2`), `hf:owner/name/file@revision`, or
            an https address, which may end in `#sha256=HEX`.
        offline: whether downloads are forbidden; None reads `JTL_OFFLINE`.
        progress: makes what shows a transfer; by default on standard error.
        patience: time-outs and tries of a transfer.

    Raises:
        WeightsError: the name is not known; offline, and the file is not here; the transfer
            fails; the content is not what was published; the cache folder cannot be written.
    """
    source = find_source(name)
    if source.url is None:
        if not source.path.is_file():
            raise WeightsError(f"{source.path} is missing from this installation; reinstall jtl.")
        return source.path
    if source.path.is_file():
        verify(source)
        return source.path
    if is_offline() if offline is None else offline:
        raise WeightsError(_offline(source))
    show = progress(source.path.name)
    try:
        with locked(
            source.path, lambda owner: show.note(f"process {owner} is fetching it: waiting")
        ):
            if source.path.is_file():
                verify(source)
            else:
                _fetch(source, show, patience or Patience())
    finally:
        show.close()
    return source.path


def find_source(name: str) -> Source:
    """Where weights come from and where they are kept, without any transfer.

    Raises:
        WeightsError: the name is not known, or its form is wrong.
    """
    if name.startswith("hf:"):
        file = parse_hub_file(name)
        return Source(name=name, url=file.url, path=cache_folder() / file.place, hub=file)
    if "://" in name:
        return _source_of_url(name)
    entry = find_weights(name)
    return Source(
        name=name,
        url=entry.url,
        path=(cache_folder() if entry.url else _ASSETS) / entry.place,
        digest=entry.digest,
        bytes=entry.bytes,
    )


def verify(source: Source) -> Record:
    """Compare a file that is here with what was published and with what was first downloaded.

    Returns:
        The file's record; one is kept from the first time on.

    Raises:
        WeightsError: the content is another one.
    """
    record = read_record(source.path)
    published = str(source.digest) if source.digest else None
    if record and (record.published == published or not published):
        expected: Digest | None = Digest(algorithm="sha256", value=record.sha256)
    else:
        expected = source.digest
    sha256, wrong = _examine(source.path, expected)
    if wrong:
        raise WeightsError(
            f"{source.path} is damaged or another file: {wrong}. Remove it (and "
            f"{record_path(source.path).name} beside it) to fetch it again."
        )
    if record is None or record.sha256 != sha256:
        record = _record(source, source.path, sha256)
        # A file that somebody put into a folder where this user may not write is as good.
        with contextlib.suppress(WeightsError):
            write_record(source.path, record)
    return record


def _source_of_url(name: str) -> Source:
    url, _, fragment = name.partition("#")
    check_url(url)
    file = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not file or file.startswith("."):
        raise WeightsError(f"{url} does not end in a file's name; give the address of one file.")
    # Two addresses may end in the same name: each has a folder of its own.
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    digest = parse_digest(fragment) if fragment else None
    return Source(name=name, url=url, path=cache_folder() / "url" / folder / file, digest=digest)


def _fetch(source: Source, show: Transferring, patience: Patience) -> None:
    if source.hub:
        _fetch_from_hub(source, source.hub)
        return
    part = source.path.with_name(source.path.name + ".part")
    resumed = part.exists()
    _receive(source, part, show, patience)
    sha256, wrong = _examine(part, _expected(source))
    if wrong and resumed:
        show.note("the resumed file is not what was published; fetching it from the start")
        discard(part)
        _receive(source, part, show, patience)
        sha256, wrong = _examine(part, _expected(source))
    if wrong:
        discard(part)
        raise WeightsError(f"{source.url}: {wrong}. What arrived was removed; nothing was kept.")
    # The record first: what was downloaded always has one.
    write_record(source.path, _record(source, part, sha256))
    settle(part, source.path)
    discard(part)


def _receive(source: Source, part: Path, show: Transferring, patience: Patience) -> None:
    url = str(source.url)
    download(url, part, expected=source.bytes, progress=show, patience=patience)


def _fetch_from_hub(source: Source, file: HubFile) -> None:
    staging = source.path.with_name(source.path.name + ".part")
    path, digest = hub_download(file, staging)
    sha256, wrong = _examine(path, digest or _expected(source))
    if not wrong:
        given = dataclasses.replace(source, digest=digest)
        write_record(source.path, _record(given, path, sha256))
        settle(path, source.path)
    with writing(staging.parent):
        shutil.rmtree(staging)
    if wrong:
        raise WeightsError(f"{source.url}: {wrong}. What arrived was removed; nothing was kept.")


def _expected(source: Source) -> Digest | None:
    """The publisher's digest, or where there is none the one of the first download."""
    record = read_record(source.path)
    if source.digest or not record:
        return source.digest
    return Digest(algorithm="sha256", value=record.sha256)


def _examine(path: Path, expected: Digest | None) -> tuple[str, str | None]:
    """The file's SHA-256, and in what way it is not the one that was expected."""
    algorithm = expected.algorithm if expected else "sha256"
    digests = file_digests(path, {"sha256", algorithm})
    actual = digests[algorithm]
    if expected is None or expected.matches(actual):
        return digests["sha256"], None
    found = Digest(algorithm=algorithm, value=actual)
    return digests["sha256"], f"its content has {found}, and {expected} was published"


def _record(source: Source, file: Path, sha256: str) -> Record:
    return Record(
        url=source.url or "",
        bytes=file.stat().st_size,
        sha256=sha256,
        published=str(source.digest) if source.digest else None,
    )


def _offline(source: Source) -> str:
    digest = f"It has {source.digest}." if source.digest else "Its publisher gives no digest."
    return (
        f"offline (JTL_OFFLINE), and {source.name} is not here: on a machine with network fetch "
        f"{source.url} and put it at {source.path}. {digest}"
    )
