"""One file over HTTPS into a partial file: resumed, retried, and never trusted."""

import dataclasses
import email.message
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from jtl.errors import WeightsError
from jtl.weights.address import check_url, make_opener
from jtl.weights.cache import read_json, write_json, writing
from jtl.weights.progress import Transferring, megabytes

_BLOCK = 1 << 18  # bytes asked for at once
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that another try may mend
_LONGEST_WAIT = 60.0  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a transfer is kept trying.

    Attributes:
        timeout: seconds without a byte after which a connection is given up.
        attempts: tries in a row that bring no further byte before the transfer fails.
        backoff: seconds before the second try; each further wait is twice as long.
    """

    timeout: float = 30.0
    attempts: int = 5
    backoff: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Remains:
    """What the answer that began a partial file said, kept beside it.

    Attributes:
        url: where its bytes come from.
        validator: the strong ETag or the date of the file that they belong to.
        total: the size of that file, where it was said.
    """

    url: str
    validator: str
    total: int | None


class _InterruptedError(Exception):
    """The transfer stopped for a reason that another try may mend.

    Attributes:
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    part: Path,
    *,
    expected: int | None,
    progress: Transferring,
    patience: Patience,
) -> None:
    """Bring the whole of a URL into `part`, going on where an earlier try stopped.

    What is there already is kept only if the server confirms (by `If-Range`) that it still has
    the very file that those bytes began; otherwise the file starts anew. The caller verifies
    the digest.

    Args:
        url: https, or http on a loopback address.
        part: the partial file; what is known of it is kept beside it as `NAME.json`.
        expected: the size in bytes, if known: a server that offers another is refused at once.
        progress: follows the transfer.
        patience: time-outs and tries.

    Raises:
        WeightsError: the address is refused or does not exist, the server keeps failing, the
            size is another one, or the disk does not take the file.
    """
    check_url(url)
    furthest, failures = _size(part), 0
    while True:
        try:
            _receive(url, part, expected, progress, patience.timeout)
            return
        except _InterruptedError as stop:
            arrived = _size(part)
            failures = 1 if arrived > furthest else failures + 1
            furthest = max(furthest, arrived)
            if failures >= patience.attempts:
                often = f", {failures} times in a row" if failures > 1 else ""
                raise WeightsError(
                    f"{url}: {stop}{often}; run the same command again to go on after the "
                    f"{megabytes(arrived)} that have arrived."
                ) from stop
            wait = max(patience.backoff * 2 ** (failures - 1), stop.wait)
            progress.note(f"{stop}; trying again in {wait:.3g} s")
            time.sleep(wait)


def discard(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    with writing(part.parent):
        part.unlink(missing_ok=True)
        _remains_path(part).unlink(missing_ok=True)


def _receive(
    url: str, part: Path, expected: int | None, progress: Transferring, timeout: float
) -> None:
    have, remains = _size(part), _read_remains(part, url)
    headers = {"User-Agent": "jtl", "Accept-Encoding": "identity"}
    if have and remains and remains.total == have:
        return
    if have and remains:
        headers |= {"Range": f"bytes={have}-", "If-Range": remains.validator}
    with _opened(urllib.request.Request(url, headers=headers), part, timeout) as response:
        start, total = _extent(response, part, have if remains else 0, remains)
        _check_size(url, total, expected)
        # Opened first: a file that starts anew is empty before its remains say so.
        with writing(part.parent), part.open("r+b" if start else "wb") as file:
            _write_remains(part, url, response.headers, total)
            _check_space(part.parent, start, total)
            file.seek(start)
            received = _copy(response, file, start, total, progress)
    if total is not None and received != total:
        raise _InterruptedError(f"the connection ended after {received} of {total} bytes")


def _opened(
    request: urllib.request.Request, part: Path, timeout: float
) -> http.client.HTTPResponse:
    try:
        return make_opener(request.full_url).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(request.full_url, part, error) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{request.full_url}: its certificate is not trusted "
                f"({error.reason.verify_message}); mend this machine's certificates, its clock "
                "or its proxy."
            ) from error
        reason = error.reason
        said = str(getattr(reason, "strerror", None) or reason)
        raise _InterruptedError(f"cannot reach the server ({said})") from error
    except (http.client.HTTPException, OSError) as error:
        raise _InterruptedError(_network_failure(error, timeout)) from error


def _refusal(url: str, part: Path, error: urllib.error.HTTPError) -> Exception:
    answer = f"{error.code} {error.reason}"
    if error.code == 416:
        discard(part)
        return _InterruptedError("the file at the server has become shorter")
    if error.code in _PASSING:
        asked = error.headers.get("Retry-After", "")
        wait = min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 0.0
        return _InterruptedError(f"the server answered {answer}", wait)
    mend = {
        404: "the file is no longer there",
        410: "the file is no longer there",
        401: "the server wants a login",
        403: "the server does not give it to everyone",
        407: "the proxy wants a login",
    }.get(error.code, "the server refuses")
    return WeightsError(
        f"{url}: {mend} ({answer}); choose other weights, or obtain the file another way and "
        "give its path."
    )


def _extent(
    response: http.client.HTTPResponse, part: Path, have: int, remains: _Remains | None
) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the file is."""
    if response.status != 206:
        # 200: the server ignores ranges, or the file has changed since.
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    total = int(found[2]) if found and found[2] != "*" else None
    same = (
        found
        and remains
        and int(found[1]) == have
        and total == remains.total
        and _validator(response.headers) in ("", remains.validator)
    )
    if not same:
        discard(part)
        raise _InterruptedError("the server sent a piece of another file")
    return have, total


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    start: int,
    total: int | None,
    progress: Transferring,
) -> int:
    received = start
    progress.update(received, total)
    while True:
        try:
            # read1, not read: what has arrived is kept if the connection then stalls.
            block = response.read1(_BLOCK)
        except (http.client.HTTPException, OSError) as error:
            raise _InterruptedError(_network_failure(error, None)) from error
        if not block:
            return received
        file.write(block)
        received += len(block)
        progress.update(received, total)


def _check_size(url: str, total: int | None, expected: int | None) -> None:
    if expected is not None and total is not None and total != expected:
        raise WeightsError(
            f"{url}: the server offers {total} bytes where {expected} were published: it is "
            "another file; choose other weights, or give the path of a file that you trust."
        )


def _check_space(folder: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and total - start > free:
        raise WeightsError(
            f"{folder}: there is no space left: {megabytes(total - start)} are still to come and "
            f"{megabytes(free)} are free; free some or set JTL_CACHE to a folder on a larger disk."
        )


def _network_failure(error: Exception, timeout: float | None) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout:.3g} s" if timeout else "the connection stalled"
    return f"the connection broke ({getattr(error, 'strerror', None) or type(error).__name__})"


def _validator(headers: email.message.Message) -> str:
    """What `If-Range` can compare: a strong ETag, else the date, else nothing."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remains_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_remains(part: Path, url: str) -> _Remains | None:
    entries = read_json(_remains_path(part))
    try:
        remains = _Remains(**entries)
    except TypeError:
        return None
    return remains if remains.url == url and remains.validator else None


def _write_remains(part: Path, url: str, headers: email.message.Message, total: int | None) -> None:
    remains = _Remains(url=url, validator=_validator(headers), total=total)
    write_json(_remains_path(part), dataclasses.asdict(remains))
