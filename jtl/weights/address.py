"""The addresses that weights may come from: https, or this very machine, and nothing else."""

import http.client
import ipaddress
import re
import urllib.parse
import urllib.request
from typing import Any

from jtl.errors import WeightsError


def check_url(url: str) -> None:
    """Refuse every address but https, and http to this very machine.

    Raises:
        WeightsError: any other scheme, or no host.
    """
    try:
        address = urllib.parse.urlsplit(url)
        host, _ = address.hostname, address.port  # a port that is no number raises
    except ValueError:
        host = None
    if not host or not re.fullmatch("[!-~]+", url):
        raise WeightsError(f"{url!r} is no web address; give one such as https://host/file.pth.")
    if address.scheme != "https" and not (address.scheme == "http" and is_loopback(url)):
        raise WeightsError(
            f"{url}: weights are fetched over https only; give an https:// address, or download "
            "the file yourself and give its path."
        )


def is_loopback(url: str) -> bool:
    """Whether the address names this very machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_opener(url: str) -> urllib.request.OpenerDirector:
    """What opens `url`: through the environment's proxies, with checked redirects."""
    # A proxy cannot reach this machine's own loopback address.
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    return urllib.request.build_opener(_Redirects, *proxies)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to an address that would have been refused itself."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The next request, with the same headers (`Range` among them)."""
        check_url(newurl)
        if is_loopback(newurl) and not is_loopback(req.full_url):
            raise WeightsError(f"{req.full_url}: redirects to {newurl} on this machine; refused.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
