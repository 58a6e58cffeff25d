"""A real web server on the loopback address whose files can be made to misbehave."""

import contextlib
import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator


@dataclasses.dataclass(kw_only=True)
class Served:
    """One file and how it is served; lists are used up, one entry a request."""

    content: bytes
    etag: str | None = None
    ranges: bool = True  # honours Range and If-Range
    believes: bool = True  # compares If-Range before it sends a piece
    length: int | None = None  # Content-Length to claim
    skew: int = 0  # how far from the wanted place a piece begins
    statuses: list[int] = dataclasses.field(default_factory=list)
    cuts: list[int] = dataclasses.field(default_factory=list)  # bytes after which it hangs up
    stalls: list[int] = dataclasses.field(default_factory=list)  # bytes after which it waits
    redirect: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Site:
    """What the server serves, and what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []  # by GET
        self.heads: list[str] = []
        self.stalled = threading.Event()  # a client now waits for bytes
        self.release = threading.Event()  # lets it go on
        self.url = ""

    def add(self, path: str, content: bytes, **how) -> Served:
        tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.files[path] = Served(content=content, **{"etag": f'"{tag}"', **how})
        return self.files[path]

    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [headers.get("Range") for _, headers in self.requests]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(_Handler):
        pass

    Handler.site = site
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        site.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.requests.append((self.path, dict(self.headers)))
        served = site.files.get(self.path)
        if served is None:
            self.send_error(404)
            return
        if served.statuses and (status := served.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(served)

    def do_HEAD(self) -> None:
        self.site.heads.append(self.path)
        served = self.site.files.get(self.path)
        self.send_response(200 if served else 404)
        for name, value in (served.headers if served else {}).items():
            self.send_header(name, value)
        if served:
            self.send_header("ETag", served.etag or "")
        self.send_header("Content-Length", str(len(served.content) if served else 0))
        self.end_headers()

    def _send(self, served: Served) -> None:
        content = served.content
        start = self._start(served)
        if start is None:
            self.send_response(200)
            self.send_header("Content-Length", str(served.length or len(content)))
            start = 0
        elif start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        else:
            start += served.skew
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
        for name, value in {"ETag": served.etag, **served.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        end = start + served.cuts.pop(0) if served.cuts else len(content)
        pause = start + served.stalls.pop(0) if served.stalls else None
        self.wfile.write(content[start : end if pause is None else pause])
        self.wfile.flush()
        if pause is not None:
            self.site.stalled.set()
            self.site.release.wait(30)
            self.wfile.write(content[pause:end])

    def _start(self, served: Served) -> int | None:
        wanted = self.headers.get("Range")
        if not served.ranges or not wanted:
            return None
        if served.believes and self.headers.get("If-Range") != served.etag:
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: object) -> None:
        """Silence: the tests read `Site.requests`."""
