"""The check of a dataset: every example is looked at once, then all are compared."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np

from jtl.data.sources.protocol import Source
from jtl.errors import ConfigError
from jtl.study.check.classes import class_findings
from jtl.study.check.copies import copy_findings
from jtl.study.check.findings import KINDS, CheckResult, Finding, in_order
from jtl.study.check.labels import condensed, out_of_fold, outliers, plain_features, suspected
from jtl.study.check.look import CHUNK, Look, look_at
from jtl.weights.load import Pretrained

Tell = Callable[[str, int, int], None]

_COMMON = 0.5  # share of the examples above which a trait is the dataset's, no example's fault
_COMMON_KINDS = ("small", "dark", "bright", "odd_aspect", "blank")
_FEWEST = 3  # examples of a class that a held-out probe can learn


def check(
    source: Source,
    *,
    data: str,
    max_pixels: int,
    threads: int = 1,
    pretrained: Pretrained | None = None,
    tell: Tell | None = None,
) -> CheckResult:
    """Finds what spoils a set of labelled images; nothing of it is changed.

    Args:
        source: the examples.
        data: what they are called.
        max_pixels: of an image; more are refused before they are decoded.
        threads: that decode.
        pretrained: the network whose features labels are judged by, beside colours and edges.
        tell: hears a stage, how much of it is done, and how much there is.

    Raises:
        ConfigError: a library that this needs is not installed.
        DataError: a file was changed during the check.
    """
    check_installed()
    tell = _silent if tell is None else tell
    began = time.monotonic()
    looks, features = _looks(source, max_pixels, threads, pretrained, tell)
    single = source.labels.ndim == 1
    readable = np.array([index for index, look in enumerate(looks) if look.grey is not None], int)
    labels = source.labels if single else _sets_of_labels(source.labels)
    findings = [*_refusals(source), *_own_findings(looks)]
    tell("comparing images", 0, 1)
    findings += copy_findings(looks, labels, source.splits, source.name)
    tell("comparing images", 1, 1)
    notes = list[str]()
    own = source.labels[readable]
    counts = np.bincount(own, minlength=len(source.classes)) if single else own.sum(axis=0)
    counts = np.rint(counts).astype(int)
    findings += class_findings(source.classes, counts)
    tell("judging labels", 0, 1)
    findings += _judged(source, readable, features, notes)
    tell("judging labels", 1, 1)
    network = "" if pretrained is None else _named(pretrained)
    return CheckResult(
        data=data,
        fingerprint=source.fingerprint,
        names=tuple(source.name(index) for index in range(len(source))),
        classes=dict(zip(source.classes, counts.tolist())),
        splits={name: len(examples) for name, examples in source.splits.items()},
        features=f"layout, colours and edges{network}",
        notes=tuple(notes),
        findings=in_order(findings),
        seconds=time.monotonic() - began,
    )


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody listens."""


def check_installed() -> None:
    """Says so where a library that the check needs is missing.

    Raises:
        ConfigError: with the command that installs it.
    """
    try:
        import cleanlab  # noqa: F401
        import imagehash  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"jtl check needs {error.name}, which is not installed: pip install 'jtl[clean]'."
        ) from error


def _looks(
    source: Source, max_pixels: int, threads: int, pretrained: Pretrained | None, tell: Tell
) -> tuple[list[Look], np.ndarray]:
    """All looks, without the larger images; and the features of those that can be read."""
    fit = None if pretrained is None else pretrained.preprocess.resize_and_crop
    size = 0 if pretrained is None else pretrained.preprocess.input_size
    extract = None if pretrained is None else _extractor(pretrained)
    looks, rows = list[Look](), list[np.ndarray]()
    tell("looking at images", 0, len(source))
    for chunk in look_at(source, fit, size=size, max_pixels=max_pixels, threads=threads):
        seen = [look for look in chunk if look.colour is not None]
        if seen:
            row = plain_features(
                np.stack([look.colour for look in seen if look.colour is not None])
            )
            if extract is not None:
                deep = extract(np.stack([look.fitted for look in seen if look.fitted is not None]))
                row = np.concatenate([row, deep], axis=1)
            rows.append(row)
        looks += [look.lighter() for look in chunk]
        tell("looking at images", len(looks), len(source))
    return looks, np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)


def _extractor(pretrained: Pretrained) -> Callable[[np.ndarray], np.ndarray]:
    """From uint8 `[n, size, size, 3]`, n up to `CHUNK`, to pooled features `[n, width]`."""
    import jax

    from jtl.platforms import compiler_options

    model, preprocess = pretrained.model, pretrained.preprocess

    @partial(jax.jit, compiler_options=compiler_options())
    def run(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, preprocess.normalize(images), train=False, method="features")

    def extract(images: np.ndarray) -> np.ndarray:
        # Always of one size, so that one program serves all.
        padded = np.zeros((CHUNK, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        features = np.asarray(run(pretrained.variables, padded), np.float32)
        return features.reshape(CHUNK, -1)[: len(images)]

    return extract


def _named(pretrained: Pretrained) -> str:
    """The network and its file, without the folder, which is nobody's business."""
    file = PurePath(pretrained.ledger.path).name
    return f", and by the features of {pretrained.ledger.model} with {file}"


def _sets_of_labels(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, axis=0, return_inverse=True)[1].ravel()


def _refusals(source: Source) -> Iterator[Finding]:
    for problem in source.provenance.get("problems", ()):
        yield Finding(kind="refused", message=problem)


def _own_findings(looks: Sequence[Look]) -> Iterator[Finding]:
    """What is wrong with images by themselves; what is true of most is said once."""
    count = Counter(kind for look in looks for kind, _, _ in look.problems)
    common = {kind for kind in _COMMON_KINDS if count[kind] > max(1, _COMMON * len(looks))}
    for kind in sorted(common):
        message = f"most are: {count[kind]} of {len(looks)} images"
        yield Finding(kind=kind, message=message, score=float(count[kind]))
    for index, look in enumerate(looks):
        for kind, message, score in look.problems:
            if kind not in common:
                drop = (index,) if KINDS[kind].severity == "error" else ()
                yield Finding(kind=kind, message=message, examples=(index,), drop=drop, score=score)


def _judged(
    source: Source, readable: np.ndarray, features: np.ndarray, notes: list[str]
) -> Iterator[Finding]:
    """Suspected labels and outliers, or a note of why they were not looked for."""
    if len(readable) < 2:
        notes.append("labels and outliers were not judged: there are not two readable images.")
        return
    features = condensed(features)
    found, far = outliers(features)
    for place in found:
        index = int(readable[place])
        message = f"{source.name(index)} is unlike all others"
        yield Finding(kind="outlier", message=message, examples=(index,), score=float(far[place]))
    if source.labels.ndim > 1:
        notes.append("labels were not judged: images have several.")
        return
    labels = source.labels[readable]
    counts = np.bincount(labels, minlength=len(source.classes))
    classes = np.flatnonzero(counts >= _FEWEST)
    few = [source.classes[label] for label in np.flatnonzero((counts > 0) & (counts < _FEWEST))]
    if few:
        notes.append(f"labels of {len(few)} classes with fewer than {_FEWEST} images were not "
                     "judged.")  # fmt: skip
    if len(classes) < 2:
        notes.append("labels were not judged: that takes two classes.")
        return
    judged = np.isin(labels, classes)
    own = np.searchsorted(classes, labels[judged])
    probabilities = out_of_fold(features[judged], own)
    worst, quality = suspected(own, probabilities)
    places = readable[judged]
    for place in worst:
        index, guess = int(places[place]), classes[int(np.argmax(probabilities[place]))]
        yield Finding(
            kind="suspected_label",
            message=f"{source.name(index)} is labelled {source.classes[source.labels[index]]}, "
            f"looks like {source.classes[guess]} ({probabilities[place].max():.0%})",
            examples=(index,),
            drop=(index,),
            score=float(1 - quality[place]),
        )
