"""How well features tell classes apart: the published scores, each a function of arrays."""

import numpy as np

_NEIGHBOURS = 5
_STRENGTHS = tuple(10.0**power for power in range(-4, 5))


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME (You et al. 2021, arXiv:2102.11005): the log evidence of linear models, per example.

    One Bayesian linear regression onto each class's indicator, with the precisions of weights
    and noise that maximise the evidence; the mean over classes, divided by the examples.

    Args:
        features: float `[examples, width]`.
        labels: int `[examples]`.
    """
    features = np.asarray(features, np.float64)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    values = singular**2
    scores = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        inside = (left.T @ target) ** 2
        outside = max(float(target @ target - inside.sum()), 0.0)
        scores.append(_evidence(values, inside, outside, *features.shape))
    return float(np.mean(scores))


def _evidence(
    values: np.ndarray, inside: np.ndarray, outside: float, examples: int, width: int
) -> float:
    """The evidence where MacKay's fixed point for both precisions has come to rest."""
    alpha, beta = 1.0, 1.0
    for _ in range(500):
        shrink = values / (values + alpha / beta)
        effective = shrink.sum()
        weights = float((shrink**2 * inside / np.maximum(values, 1e-300)).sum())
        residual = float(((1 - shrink) ** 2 * inside).sum()) + outside
        before = alpha / beta
        alpha = effective / max(weights, 1e-12)
        beta = (examples - effective) / max(residual, 1e-12)
        if abs(alpha / beta - before) <= 1e-12 * before:
            break
    shrink = values / (values + alpha / beta)
    weights = float((shrink**2 * inside / np.maximum(values, 1e-300)).sum())
    residual = float(((1 - shrink) ** 2 * inside).sum()) + outside
    determinant = np.log(alpha + beta * values).sum() + (width - len(values)) * np.log(alpha)
    total = width * np.log(alpha) + examples * np.log(beta) - determinant
    total -= beta * residual + alpha * weights + examples * np.log(2 * np.pi)
    return float(total / (2 * examples))


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """The shrunk H-score (Ibrahim et al. 2021, arXiv:2110.06893).

    The trace of the shrunk covariance's inverse times that of the classes' means, weighed by
    `1 - shrinkage`; the shrinkage is Ledoit and Wolf's.

    Args:
        features: float `[examples, width]`.
        labels: int `[examples]`.
    """
    centred = np.asarray(features, np.float64)
    centred = centred - centred.mean(0)
    examples, width = centred.shape
    covariance = centred.T @ centred / examples
    size = np.trace(covariance) / width
    spread = float(np.square(covariance).sum()) / width - size**2
    noise = float((np.square(centred).sum(1) ** 2).sum()) / examples
    noise = (noise - float(np.square(covariance).sum())) / (examples * width)
    shrinkage = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    covariance = (1 - shrinkage) * covariance + shrinkage * size * np.eye(width)
    names, counts = np.unique(labels, return_counts=True)
    means = np.stack([centred[labels == name].mean(0) for name in names])
    means *= np.sqrt(counts / examples)[:, None]
    # What does not vary at all has no direction, and so no inverse.
    solved = np.linalg.lstsq(covariance, means.T, rcond=None)[0]
    return float((1 - shrinkage) * np.sum(means.T * solved))


def leep(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """LEEP (Nguyen et al. 2020, arXiv:2002.12462) of each example, float `[examples]`.

    The log probability of its label, by what the source's classes say of labels; the score is
    the mean.

    Args:
        probabilities: float `[examples, source classes]`, by the source's own head.
        labels: int `[examples]`.
    """
    theta = np.asarray(probabilities, np.float64)
    joint = np.stack([theta[labels == name].sum(0) for name in range(labels.max() + 1)])
    given = joint / np.maximum(joint.sum(0), 1e-300)
    return np.log(np.maximum((given[labels] * theta).sum(1), 1e-300))


def nearest_hits(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each example's five nearest others, by cosine, name its class; bool `[examples]`.

    Of classes with as many of the five, the first counts.
    """
    rows = np.asarray(features, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    near = rows @ rows.T
    np.fill_diagonal(near, -np.inf)
    count = min(_NEIGHBOURS, len(rows) - 1)
    others = np.argsort(-near, axis=1, kind="stable")[:, :count]
    votes = np.zeros((len(rows), labels.max() + 1), int)
    for column in others.T:
        np.add.at(votes, (np.arange(len(rows)), labels[column]), 1)
    return votes.argmax(1) == labels


def probe_hits(
    features: np.ndarray, labels: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """A cross-validated linear probe over a path of regularisation.

    Ridge regression onto the classes' indicators, on features scaled to unit variance by what is
    trained on; the class of the largest output counts.

    Args:
        features: float `[examples, width]`.
        labels: int `[examples]`.
        folds: pairs of what is trained on and what is judged, which are all examples.

    Returns:
        The strengths `[strengths]`, in units of the examples that are trained on, and whether
        each example was named rightly by each, bool `[strengths, examples]`.
    """
    hits = np.zeros((len(_STRENGTHS), len(labels)), bool)
    for train, judged in folds:
        for place, outputs in enumerate(_ridge_path(features, labels, train, judged)):
            hits[place, judged] = outputs.argmax(1) == labels[judged]
    return np.array(_STRENGTHS), hits


def _ridge_path(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, judged: np.ndarray
) -> list[np.ndarray]:
    """The outputs for the judged examples, strength by strength, from one decomposition."""
    own = np.asarray(features[train], np.float64)
    mean, scale = own.mean(0), own.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    own, other = (own - mean) / scale, (np.asarray(features[judged], np.float64) - mean) / scale
    targets = np.eye(labels.max() + 1)[labels[train]]
    offset = targets.mean(0)
    gram = own.T @ own if own.shape[1] <= len(own) else own @ own.T
    values, vectors = np.linalg.eigh(gram)
    wide = own.shape[1] > len(own)
    left = vectors.T @ (targets - offset if wide else own.T @ (targets - offset))
    right = (other @ own.T if wide else other) @ vectors
    strengths = [strength * len(train) for strength in _STRENGTHS]
    return [
        right @ (left / (np.maximum(values, 0) + own_strength)[:, None]) + offset
        for own_strength in strengths
    ]
