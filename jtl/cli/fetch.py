"""`jtl weights fetch`: brings released weights to this machine."""

from jtl.weights.fetch import find_source, locate, verify


def fetch(name: str, *, offline: bool = False) -> None:
    """Download weights into the cache folder, verify them and print where they lie.

    What is there already is only verified. Example: `jtl weights fetch resnet50.tv_in1k_v2`.

    Args:
        name: a name that `jtl models` shows, `hf:owner/name/file@revision`, or an https address,
            which may end in `#sha256=HEX`.
        offline: forbid the download, as `JTL_OFFLINE=1` does.

    Raises:
        WeightsError: the name is not known, or the file cannot be had or is not the right one.
    """
    path = locate(name, offline=offline or None)
    source = find_source(name)
    print(path)
    if source.url is not None:
        print(f"SHA-256 {verify(source).sha256}")
