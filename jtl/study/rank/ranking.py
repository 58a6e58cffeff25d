"""The ranking of candidates on a dataset: what each scores, at which stage, at what cost."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.folds import make_folds
from jtl.data.options import DataOptions, load_source
from jtl.data.sources.protocol import Source
from jtl.errors import ConfigError, DataError
from jtl.experiment.assemble import splits_of
from jtl.experiment.options import Config, ModelOptions
from jtl.models.registry import model_spec
from jtl.study.rank import intervals, scores
from jtl.study.rank.candidates import Candidate, find_candidates
from jtl.study.rank.look import LateError, Look, look_at
from jtl.training.options import PhaseOptions, TrainOptions

_FOLDS = 5
_LEAST = 2  # images of a class
SCORES = ("probe", "knn", "logme", "h_score", "leep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """One candidate, scored.

    Attributes:
        candidate: the network.
        scores: by name, of the features that reach the head; LEEP only where the file has one.
        strength: the probe's regularisation that came out best.
        path: the probe's accuracy by regularisation.
        stages: the probe's accuracy on each stage's pooled output.
        best_stage: the one with the best.
        look: what it takes.
    """

    candidate: Candidate
    scores: Mapping[str, Score]
    strength: float
    path: Mapping[float, float]
    stages: Mapping[str, float]
    best_stage: str
    look: Look

    @property
    def last_stage(self) -> str:
        """The stage whose features reach the head."""
        return list(self.stages)[-1]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """All candidates, best first.

    Attributes:
        data: the name of the source.
        examples: how many images were looked at.
        classes: how many there are.
        ranked: by the probe's accuracy.
        skipped: what was not ranked, and why.
    """

    data: str
    examples: int
    classes: int
    ranked: tuple[Ranked, ...]
    skipped: Mapping[str, str]

    @property
    def winner(self) -> Ranked:
        """The best by the probe."""
        return self.ranked[0]

    def config(self) -> Config:
        """A config that trains a head on the winner, to start from."""
        own = self.winner.candidate
        return Config(
            name=f"{own.name}-head",
            model=ModelOptions(name=own.model, weights=own.weights),
            data=DataOptions(source=self.data),
            train=TrainOptions(phases=(PhaseOptions(freeze="backbone", epochs=10.0),)),
        )


Tell = Callable[[Ranked, int], None]


def rank(
    data: DataOptions,
    *,
    models: Sequence[str] = (),
    folder: Path | None = None,
    budget: float | None = None,
    images: int = 2000,
    seed: int = 0,
    source: Source | None = None,
    tell: Tell = lambda *_: None,
) -> Ranking:
    """Ranks pretrained networks on a dataset, without training any of them.

    Each runs once over images of the training and validation splits; the test split is not
    looked at. Those with the fewest parameters come first.

    Args:
        data: the examples.
        models: architectures, or names of weights.
        folder: whose weight files are ranked.
        budget: minutes; a candidate that would not end in time is left out, but never the first.
        images: how many are looked at at most.
        seed: of the sample, the folds and the draws of intervals.
        source: the examples, in place of those that `data` names.
        tell: hears of each candidate, and how many there are.

    Raises:
        ConfigError: there is no time, or there are fewer images than classes need.
        DataError: the examples cannot be used.
        WeightsError: a name is not known, or there is nothing to rank.
    """
    began = time.monotonic()
    if budget is not None and budget <= 0:
        raise ConfigError(f"--budget {budget:g}: must be more than 0 minutes.")
    source = load_source(data) if source is None else source
    indices = _sample(source, data, images, seed)
    labels = source.labels[indices]
    candidates, skipped = find_candidates(models, folder)
    folds = [
        (np.searchsorted(indices, own), np.searchsorted(indices, other))
        for own, other in make_folds(indices, source.labels, _folds(labels), seed, source.groups)
    ]
    found: list[Ranked] = []
    end = None if budget is None else began + budget * 60
    for candidate in sorted(candidates, key=lambda own: model_spec(own.model).parameters):
        if end is not None and found and time.monotonic() > end:
            skipped[candidate.name] = f"the {budget:g} minutes were over"
            continue
        try:
            look = look_at(candidate, source, indices, data, until=end if found else None)
        except LateError as late:
            skipped[candidate.name] = (
                f"its images alone would take {late.seconds:.0f} s, and so more than what was "
                f"left of the {budget:g} minutes"
            )
            continue
        found.append(_scored(candidate, look, labels, folds, seed))
        tell(found[-1], len(candidates))
    best = sorted(found, key=lambda own: (-own.scores["probe"].value, -own.scores["logme"].value))
    return Ranking(
        data=data.source,
        examples=len(indices),
        classes=len(source.classes),
        ranked=tuple(best),
        skipped=skipped,
    )


def _sample(source: Source, data: DataOptions, images: int, seed: int) -> np.ndarray:
    """Images of all splits but the test, as many of each class as its share, ascending."""
    if source.labels.ndim > 1:
        raise DataError("these images have several labels each; ranking takes one label an image.")
    splits = splits_of(source, data, seed)
    pool = np.sort(np.concatenate([splits["train"], splits["val"]]))
    return pool if len(pool) <= images else pool[_share(source.labels[pool], images, seed)]


def _share(labels: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Places of so many examples, of each class its share and two at least, ascending."""
    names, counts = np.unique(labels, return_counts=True)
    least = np.minimum(counts, _LEAST)
    if images < least.sum():
        raise ConfigError(
            f"--images {images}: {len(names)} classes need {least.sum()} at least, "
            f"{_LEAST} of each to train a probe and to judge it."
        )
    wanted = images * counts / counts.sum()
    whole = np.maximum(np.floor(wanted).astype(int), least)
    while whole.sum() != images:
        step = 1 if whole.sum() < images else -1
        room = counts - whole if step > 0 else whole - least
        # The class that is furthest from its share, of those that can move.
        gap = np.where(room > 0, step * (wanted - whole), -np.inf)
        whole[gap.argmax()] += step
    rng = np.random.default_rng(seed)
    own = [
        rng.permutation(np.flatnonzero(labels == name))[:count] for name, count in zip(names, whole)
    ]
    return np.sort(np.concatenate(own))


def _folds(labels: np.ndarray) -> int:
    """Five, or as many as the smallest class allows."""
    counts = np.bincount(labels)
    return int(max(2, min(_FOLDS, counts[counts > 0].min())))


def _scored(
    candidate: Candidate,
    look: Look,
    labels: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> Ranked:
    probes = {
        name: scores.probe_hits(features, labels, folds) for name, features in look.features.items()
    }
    accuracy = {name: float(hits.mean(1).max()) for name, (_, hits) in probes.items()}
    last = list(look.features)[-1]
    features, (strengths, hits) = look.features[last], probes[last]
    best = int(hits.mean(1).argmax())
    near = scores.nearest_hits(features, labels)
    own = {
        "probe": Score(
            value=float(hits[best].mean()),
            **_interval(intervals.of_mean(hits[best], seed)),
        ),
        "knn": Score(value=float(near.mean()), **_interval(intervals.of_mean(near, seed))),
        "logme": _of(scores.logme, features, labels, seed),
        "h_score": _of(scores.h_score, features, labels, seed),
    }
    if look.probabilities is not None:
        logs = scores.leep(look.probabilities, labels)
        own["leep"] = Score(value=float(logs.mean()), **_interval(intervals.of_mean(logs, seed)))
    return Ranked(
        candidate=candidate,
        scores=own,
        strength=float(strengths[best]),
        path={float(own): float(rate) for own, rate in zip(strengths, hits.mean(1))},
        stages=accuracy,
        best_stage=max(accuracy, key=lambda name: accuracy[name]),
        look=look,
    )


def _of(
    score: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float],
    features: np.ndarray,
    labels: np.ndarray,
    seed: int,
) -> Score:
    value = score(features, labels, None)
    return Score(value=value, **_interval(intervals.of_score(score, features, labels, seed)))


def _interval(interval: intervals.Interval) -> dict[str, float]:
    return {"low": interval[0], "high": interval[1]}


def to_record(ranking: Ranking) -> dict[str, Any]:
    """What `rank.json` holds."""
    return {
        "data": ranking.data,
        "examples": ranking.examples,
        "classes": ranking.classes,
        "ranked_by": "probe",
        "ranked": [
            {
                "name": own.candidate.name,
                "model": own.candidate.model,
                "weights": own.candidate.weights,
                "scores": {name: dataclasses.asdict(score) for name, score in own.scores.items()},
                "probe": {
                    "strength": own.strength,
                    "path": {f"{strength:g}": rate for strength, rate in own.path.items()},
                },
                "stages": dict(own.stages),
                "best_stage": own.best_stage,
                "parameters": own.look.parameters,
                "multiply_adds": own.look.multiply_adds,
                "images_per_second": own.look.images_per_second,
                "memory": own.look.memory,
                "seconds": own.look.seconds,
            }
            for own in ranking.ranked
        ],
        "skipped": dict(ranking.skipped),
    }
