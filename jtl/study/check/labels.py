"""Labels and outliers: what a linear probe, held out in turn, does not believe."""

import warnings

import numpy as np

_FOLDS = 5
_STRENGTH = 0.01  # of what the probe may learn: flipped labels are not to be fitted
_SURE = 0.5  # probability of another class above which a label is suspected anyway
_WIDTH = 128  # principal directions that the probe is fitted on
_DEVIATIONS = 6.0  # by which an outlier lies farther from its neighbours than most
_MOST_OUTLIERS = 0.02  # share of the examples


def plain_features(images: np.ndarray) -> np.ndarray:
    """Layout, colours and edges of images, float32 `[n, features]`.

    Args:
        images: uint8 `[n, side, side, 3]`, of a side that 8 divides.
    """
    levels = images.astype(np.float32) / 255
    count, side = levels.shape[:2]
    grey = levels.mean(axis=-1)
    layout = grey.reshape(count, 8, side // 8, 8, side // 8).mean(axis=(2, 4)).reshape(count, -1)
    spread = layout.std(axis=1, keepdims=True) + 1e-3
    layout = (layout - layout.mean(axis=1, keepdims=True)) / spread
    parts = [layout, _colours(images), _orientations(grey)]
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def out_of_fold(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class probabilities by a linear probe that has not seen the example.

    Args:
        features: float `[n, width]`.
        labels: int `[n]`, 0 to classes - 1, each at least twice.

    Returns:
        float `[n, classes]`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = min(_FOLDS, int(np.bincount(labels).min()))
    probe = LogisticRegression(C=_STRENGTH, max_iter=100)
    dealer = StratifiedKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough is enough to rank
        return cross_val_predict(probe, features, labels, cv=dealer, method="predict_proba")


def condensed(features: np.ndarray) -> np.ndarray:
    """The principal directions of features, each feature scaled first."""
    from sklearn.decomposition import PCA

    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    width = min(_WIDTH, *scaled.shape)
    solver = "covariance_eigh" if len(scaled) > scaled.shape[1] else "full"
    return PCA(width, svd_solver=solver).fit_transform(scaled).astype(np.float32)


def suspected(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples whose label confident learning doubts, worst first; and how good each label is.

    Args:
        labels: int `[n]`.
        probabilities: out of fold, float `[n, classes]`.

    Returns:
        Int `[m]`, and float `[n]` in [0, 1].
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    wrong = find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    sure = (probabilities.argmax(axis=1) != labels) & (probabilities.max(axis=1) > _SURE)
    found = np.flatnonzero(wrong | sure)
    return found[np.argsort(quality[found], kind="stable")], quality


def outliers(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples unlike all others, worst first, and by how many deviations each is.

    Args:
        features: float `[n, width]`.
    """
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(10, len(features) - 1)
    if neighbours < 1:
        return np.zeros(0, int), np.zeros(len(features))
    finder = NearestNeighbors(n_neighbors=neighbours).fit(features)
    distance = np.log(finder.kneighbors()[0].mean(axis=1) + 1e-6)
    middle = np.median(distance)
    deviation = 1.4826 * np.median(np.abs(distance - middle)) + 1e-6
    far = (distance - middle) / deviation
    most = max(1, int(_MOST_OUTLIERS * len(features)))
    found = np.argsort(-far, kind="stable")[:most]
    return found[far[found] > _DEVIATIONS], far


def _colours(images: np.ndarray) -> np.ndarray:
    """How often each of 64 colours comes, as square roots of shares."""
    coarse = (images >> 6).astype(np.int32)
    code = coarse[..., 0] * 16 + coarse[..., 1] * 4 + coarse[..., 2]
    code = code.reshape(len(images), -1) + 64 * np.arange(len(images))[:, None]
    counts = np.bincount(code.ravel(), minlength=64 * len(images)).reshape(len(images), 64)
    return np.sqrt(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


def _orientations(grey: np.ndarray) -> np.ndarray:
    """Histograms of the direction of edges in 4 by 4 cells."""
    down, across = np.gradient(grey, axis=1), np.gradient(grey, axis=2)
    strength = np.hypot(down, across)
    code = np.floor((np.arctan2(down, across) / np.pi % 1) * 8).astype(int) % 8
    count, side = grey.shape[:2]
    cells = np.stack([strength * (code == own) for own in range(8)], axis=-1)
    cells = cells.reshape(count, 4, side // 4, 4, side // 4, 8).mean(axis=(2, 4))
    cells = cells.reshape(count, -1)
    return cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-3)
