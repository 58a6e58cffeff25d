"""How well features tell classes apart: the published scores, each a function of arrays."""

import numpy as np

_NEIGHBOURS = 5
_STRENGTHS = tuple(10.0**power for power in range(-4, 5))


def logme(features: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> float:
    """LogME (You et al. 2021, arXiv:2102.11005): the log evidence of linear models, per example.

    One Bayesian linear regression onto each class's indicator, with the precisions of weights
    and noise that maximise the evidence; the mean over classes, divided by the examples.

    Args:
        features: float `[examples, width]`.
        labels: int `[examples]`.
        counts: float `[examples]`, how often each counts; once where None.
    """
    rows, labels, counts = _counted(features, labels, counts)
    examples, width = float(counts.sum()), rows.shape[1]
    # An example that counts k times is a row of sqrt(k) times its length.
    scales = np.sqrt(counts)
    rows = rows * scales[:, None]
    wide = width > len(rows)
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    spanned = values > values.max(initial=0.0) * max(rows.shape) * np.finfo(np.float64).eps
    values, vectors = values[spanned], vectors[:, spanned]
    targets = (labels[:, None] == np.unique(labels)) * scales[:, None]
    along = vectors.T @ (targets if wide else rows.T @ targets)
    inside = np.square(along) if wide else np.square(along) / values[:, None]
    outside = np.maximum(np.square(targets).sum(0) - inside.sum(0), 0.0)
    return float(_evidence(values, inside.T, outside, examples, width).mean())


def _evidence(
    values: np.ndarray, inside: np.ndarray, outside: np.ndarray, examples: float, width: int
) -> np.ndarray:
    """The evidence of each class where MacKay's fixed point for both precisions is at rest.

    Args:
        values: float `[directions]`, the squares of what features spread along each.
        inside: float `[classes, directions]`, the square of the indicator along each.
        outside: float `[classes]`, what no direction has of it.
        examples: how many.
        width: of the features.
    """
    ratio = np.ones(len(inside))
    for _ in range(500):
        alpha, beta, residual, weights = _precisions(ratio, values, inside, outside, examples)
        before, ratio = ratio, alpha / beta
        if np.all(abs(ratio - before) <= 1e-12 * before):
            break
    _, _, residual, weights = _precisions(ratio, values, inside, outside, examples)
    determinant = np.log(alpha[:, None] + beta[:, None] * values).sum(1)
    determinant += (width - len(values)) * np.log(alpha)
    total = width * np.log(alpha) + examples * np.log(beta) - determinant
    total -= beta * residual + alpha * weights + examples * np.log(2 * np.pi)
    return total / (2 * examples)


def _precisions(
    ratio: np.ndarray, values: np.ndarray, inside: np.ndarray, outside: np.ndarray, examples: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The next precisions of weights and noise, `[classes]` each, the residual and the weights."""
    shrink = values / (values + ratio[:, None])
    effective = shrink.sum(1)
    weights = (shrink**2 * inside / values).sum(1)
    residual = ((1 - shrink) ** 2 * inside).sum(1) + outside
    alpha = effective / np.maximum(weights, 1e-12)
    beta = (examples - effective) / np.maximum(residual, 1e-12)
    return alpha, beta, residual, weights


def h_score(features: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> float:
    """The shrunk H-score (Ibrahim et al. 2021, arXiv:2110.06893).

    The trace of the shrunk covariance's inverse times that of the classes' means, weighed by
    `1 - shrinkage`; the shrinkage is Ledoit and Wolf's.

    Args:
        features: float `[examples, width]`.
        labels: int `[examples]`.
        counts: float `[examples]`, how often each counts; once where None.
    """
    rows, labels, counts = _counted(features, labels, counts)
    examples, width = float(counts.sum()), rows.shape[1]
    centred = rows - counts @ rows / examples
    covariance = (centred * counts[:, None]).T @ centred / examples
    size = np.trace(covariance) / width
    square = float(np.square(covariance).sum())
    spread = square / width - size**2
    noise = float(counts @ np.square(centred).sum(1) ** 2) / examples
    noise = (noise - square) / (examples * width)
    shrinkage = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    covariance = (1 - shrinkage) * covariance + shrinkage * size * np.eye(width)
    shares, means = [], []
    for name in np.unique(labels):
        own = counts * (labels == name)
        shares.append(own.sum() / examples)
        means.append(own @ centred / own.sum())
    weighed = np.stack(means) * np.sqrt(shares)[:, None]
    solved = _solved(covariance, weighed.T, regular=shrinkage * size > 0)
    return float((1 - shrinkage) * np.sum(weighed.T * solved))


def _counted(
    features: np.ndarray, labels: np.ndarray, counts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The examples that count at all, in float64."""
    rows = np.asarray(features, np.float64)
    if counts is None:
        return rows, labels, np.ones(len(rows))
    own = counts > 0
    return rows[own], labels[own], counts[own].astype(np.float64)


def _solved(matrix: np.ndarray, right: np.ndarray, *, regular: bool) -> np.ndarray:
    if regular:
        from scipy.linalg import solve

        return solve(matrix, right, assume_a="pos")
    # What does not vary at all has no direction, and so no inverse.
    return np.linalg.lstsq(matrix, right, rcond=None)[0]


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
