"""Digests of weight files: how a publisher writes them down, and whether a file bears them."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from jtl.errors import WeightsError

Algorithm = Literal["sha256", "md5"]

_LENGTHS = {"sha256": 64, "md5": 32}
# What torch.hub and timm read out of a released file's name (`resnet50-0676ba61.pth`).
_PREFIX = 8
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digest:
    """What a file's content must hash to, as its publisher gives it.

    Attributes:
        algorithm: the hash function.
        value: lower-case hex; for SHA-256 possibly the first digits only.
    """

    algorithm: Algorithm
    value: str

    @property
    def whole(self) -> bool:
        """Whether all of the digest is known, and not only how it begins."""
        return len(self.value) == _LENGTHS[self.algorithm]

    def matches(self, actual: str) -> bool:
        """Whether a file of the digest `actual` (whole, hex) is the one that was published."""
        return actual.startswith(self.value)

    def __str__(self) -> str:
        names = {"sha256": "SHA-256", "md5": "MD5"}
        return f"{names[self.algorithm]} {self.value}{'' if self.whole else '…'}"


def parse_digest(text: str) -> Digest:
    """A digest from `algorithm:hex` or `algorithm=hex`.

    Args:
        text: such as `sha256:0676ba61`. Of a SHA-256 the first eight digits are enough; an MD5
            must be whole.

    Raises:
        WeightsError: another algorithm, or digits that cannot be its digest.
    """
    algorithm, _, value = text.strip().lower().replace("=", ":", 1).partition(":")
    if algorithm not in get_args(Algorithm):
        raise WeightsError(
            f"digest {text!r} names no known hash function; write sha256=HEX or md5=HEX."
        )
    length = _LENGTHS[algorithm]
    shortest = _PREFIX if algorithm == "sha256" else length
    if not re.fullmatch(r"[0-9a-f]*", value) or not shortest <= len(value) <= length:
        raise WeightsError(
            f"digest {text!r} is no {algorithm}: it must be {length} hexadecimal digits"
            + (f", or its first {shortest} at least." if shortest < length else ".")
        )
    return Digest(algorithm=algorithm, value=value)  # type: ignore[arg-type]


def file_digests(path: Path, algorithms: Iterable[Algorithm]) -> dict[Algorithm, str]:
    """The whole digests of a file's content as hex, all from one pass over it."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in set(algorithms)}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for running in hashes.values():
                running.update(block)
    return {name: running.hexdigest() for name, running in hashes.items()}
