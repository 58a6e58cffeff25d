"""The catalogue: every architecture and its released weights, each figure with its source."""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jtl.errors import WeightsError
from jtl.weights.digest import Digest, parse_digest

_DATA = Path(__file__).with_name("catalogue.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """One published file of weights. What its publisher does not say is None.

    Attributes:
        name: what `weights:` in a config and `jtl weights fetch` take.
        publisher: who released it.
        url: where it lies; None for weights that come with jtl.
        suffix: the ending of its file name, such as `.pth`.
        bytes: its exact size.
        mebibytes: its size as its publisher rounds it, in units of 2**20 bytes.
        digest: what its publisher says its content hashes to.
        digest_source: where that stands.
        licence: as its publisher states it.
        licence_source: where that stands.
        top1: ImageNet-1k top-1 accuracy in percent, one central crop.
        top1_size: side of that crop, pixels.
        top1_source: where both stand.
        preprocess: how images reach it: a record for `Preprocess.from_dict`; empty where the
            file's own header says it.
    """

    name: str
    publisher: str
    url: str | None
    suffix: str
    bytes: int | None
    mebibytes: float | None
    digest: Digest | None
    digest_source: str | None
    licence: str
    licence_source: str
    top1: float | None
    top1_size: int | None
    top1_source: str | None
    preprocess: Mapping[str, Any]

    @property
    def place(self) -> Path:
        """Where it lies below the cache folder, or below jtl's assets if it comes with jtl."""
        return Path("weights" if self.url else "", self.name + self.suffix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network with 1,000 classes (62 for the bundled one), as one source defines it.

    Attributes:
        name: its name in the registry of models.
        variant: whose details it follows: `torchvision`, `keras` or `jtl`.
        parameters: learned numbers, without running statistics.
        multiply_adds: of convolutions and dense layers for one image of `input_size`.
        input_size: side of the images, pixels.
        feature_width: width of the features that reach the head.
        stages: what a freeze spec can name, in order.
        paper: where it was described; None for jtl's own.
        weights: what was released for it.
    """

    name: str
    variant: str
    parameters: int
    multiply_adds: int
    input_size: int
    feature_width: int
    stages: tuple[str, ...]
    paper: str | None
    weights: tuple[ReleasedWeights, ...]


@functools.cache
def catalogue() -> tuple[Architecture, ...]:
    """All architectures, in the order in which they are shown."""
    with _DATA.open("rb") as file:
        data = tomllib.load(file)
    return tuple(_architecture(entry, data) for entry in data["architectures"])


@functools.cache
def released_weights() -> Mapping[str, ReleasedWeights]:
    """All released weights by name."""
    entries = {item.name: item for network in catalogue() for item in network.weights}
    return MappingProxyType(entries)


def find_architectures(name: str) -> tuple[Architecture, ...]:
    """Every variant of the architecture of that name.

    Raises:
        WeightsError: there is none; the message names the closest.
    """
    found = tuple(network for network in catalogue() if network.name == name)
    if not found:
        known = dict.fromkeys(network.name for network in catalogue())
        raise WeightsError(f"there is no model {name!r}; {_closest(name, tuple(known))}")
    return found


def find_weights(name: str) -> ReleasedWeights:
    """The released weights of that name.

    Raises:
        WeightsError: there are none; the message names the closest, or all of an architecture
            where its bare name was given.
    """
    known = released_weights()
    if name in known:
        return known[name]
    own = [item.name for network in catalogue() if network.name == name for item in network.weights]
    if own:
        ask = (
            "was released more than once; choose one of"
            if own[1:]
            else "is a model; name its weights:"
        )
        raise WeightsError(f"{name} {ask} {', '.join(own)}.")
    raise WeightsError(f"there are no weights {name!r}; {_closest(name, tuple(known))}")


def _closest(name: str, known: tuple[str, ...]) -> str:
    # jtl.tree imports jax, which `jtl models` otherwise does without.
    from jtl.tree import nearest

    near = nearest(name, known)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"{hint}`jtl models` lists all."


def _architecture(entry: dict[str, Any], data: dict[str, Any]) -> Architecture:
    weights = tuple(_weights(item, entry, data) for item in entry.pop("weights", ()))
    stages = tuple(data["stages"][entry.pop("stages")])
    return Architecture(**{"paper": None, **entry}, stages=stages, weights=weights)


def _weights(
    item: dict[str, Any], network: dict[str, Any], data: dict[str, Any]
) -> ReleasedWeights:
    publisher = data["publishers"][item["publisher"]]
    file = item["file"]
    digest, digest_source = item.get("digest"), publisher.get("digest_source")
    if digest is None and publisher.get("digest_in_name"):
        # The convention of torch.hub: `resnet50-0676ba61.pth` has a SHA-256 that begins so.
        named = re.search(r"-([0-9a-f]{8})\.pth$", file)
        digest = f"sha256:{named[1]}" if named else None
    address = publisher.get("url")
    own = item.get("preprocess")
    preprocess = own and {
        "input_size": network["input_size"],
        **data["normalisation"][item.get("normalisation", "imagenet")],
        **publisher.get("preprocess", {}),
        **own,
    }
    return ReleasedWeights(
        name=item["name"],
        publisher=publisher["title"],
        url=address + file if address is not None else None,
        suffix=Path(file).suffix,
        bytes=item.get("bytes"),
        mebibytes=item.get("mebibytes"),
        digest=parse_digest(digest) if digest else None,
        digest_source=digest_source if digest else None,
        licence=item.get("licence") or publisher["licence"],
        licence_source=publisher["licence_source"],
        top1=item.get("top1"),
        top1_size=item.get("top1_size", network["input_size"]) if "top1" in item else None,
        top1_source=publisher.get("top1_source") if "top1" in item else None,
        preprocess=MappingProxyType(preprocess or {}),
    )
