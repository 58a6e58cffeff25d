"""A server of objects on this machine, which speaks as Google's: the emulator, made exact."""

import base64
import io
import json
import logging
import os
import threading
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from urllib.parse import parse_qs, urlsplit

BUCKET = "bucket"
_BOUNDARY = b"--==0=="  # that gcsfs puts between parts


@contextmanager
def serving():
    """A server with one bucket, in a thread; the environment that leads clients to it."""
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers.buckets import create_bucket
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    class Exact(RequestHandler):
        """What the emulator leaves out: to make an object only if there is none, and all bytes."""

        def do_POST(self):  # noqa: N802
            query = parse_qs(urlsplit(self.path).query)
            if query.get("uploadType") == ["multipart"]:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # It takes the last byte of some contents for the end of a line.
                _, about, rest = body.split(_BOUNDARY, 2)
                head, _, content = rest.partition(b"\n\n")
                content = base64.b64encode(content.removesuffix(b"\n" + _BOUNDARY + b"--"))
                rest = head + b"\nContent-Transfer-Encoding: base64\n\n" + content + b"\n"
                body = _BOUNDARY.join([b"", about, rest, b"--"])
                self.rfile = io.BytesIO(body)
                self.headers.replace_header("Content-Length", str(len(body)))
                name = json.loads(about.partition(b"\n\n")[2])["name"]
                if query.get("ifGenerationMatch") == ["0"] and self._has(name):
                    self.send_error(412)
                    return
            super().do_POST()

        def _has(self, name):
            try:
                self.storage.get_file_obj(self.path.split("/b/")[1].split("/")[0], name)
            except NotFound:
                return False
            return True

    class Patient(HTTPServer):
        request_queue_size = 64

        def handle_error(self, request, client_address):
            """Says nothing of clients that were killed, or had read enough."""

    logging.getLogger("api").setLevel(logging.CRITICAL)
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    # One request at a time, so that nothing comes between the look and the making.
    server = Patient(("127.0.0.1", 0), partial(Exact, storage))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_port}",
            "NO_PROXY": "*",
            # Nothing else is asked: neither who this machine is, nor what kind of bucket it is.
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with serving() as environment:
        print(json.dumps(environment), flush=True)
        os.read(0, 1)
