"""What a check finds: kinds, findings, and the whole result as JSON."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from jtl.data.exclude import CHECK_FORMAT

Severity = Literal["error", "warning", "hint"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What all findings of one kind have in common.

    Attributes:
        title: for people.
        severity: an `error` spoils training or its results, and makes the check fail.
        exclude: whether training leaves out what such a finding would drop, unless edited.
    """

    title: str
    severity: Severity
    exclude: bool = False


# In the order in which they are shown.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "refused": Kind(title="cannot be trained on as it is", severity="error"),
        "empty_file": Kind(title="empty files", severity="error", exclude=True),
        "truncated": Kind(title="truncated files", severity="error", exclude=True),
        "unreadable": Kind(title="unreadable files", severity="error", exclude=True),
        "leak": Kind(title="exact copies across splits", severity="error", exclude=True),
        "near_leak": Kind(title="near copies across splits", severity="error", exclude=True),
        "contradiction": Kind(title="exact copies across classes", severity="error", exclude=True),
        "near_contradiction": Kind(title="near copies across classes", severity="error"),
        "empty_class": Kind(title="classes without a readable image", severity="error"),
        "damaged": Kind(title="damaged files that still open", severity="warning"),
        "wrong_suffix": Kind(title="files that are not what their name says", severity="warning"),
        "exact_copy": Kind(title="exact copies", severity="warning", exclude=True),
        "near_copy": Kind(title="near copies", severity="warning"),
        "class_typo": Kind(title="classes that may be one", severity="warning"),
        "few_examples": Kind(title="classes with few images", severity="warning"),
        "imbalance": Kind(title="unequal classes", severity="warning"),
        "suspected_label": Kind(title="suspected wrong labels", severity="warning"),
        "blank": Kind(title="blank images", severity="warning"),
        "small": Kind(title="small images", severity="warning"),
        "dark": Kind(title="underexposed images", severity="hint"),
        "bright": Kind(title="overexposed images", severity="hint"),
        "odd_aspect": Kind(title="long and narrow images", severity="hint"),
        "outlier": Kind(title="outliers", severity="hint"),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        kind: a key of `KINDS`.
        message: what it is, fit for one line.
        examples: that it is about; those alike stand together, the first is the one to keep.
        drop: what would be left out because of it.
        score: how bad or how certain, within its kind; more is worse.
    """

    kind: str
    message: str
    examples: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    score: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """All that a check found.

    Attributes:
        data: what was checked, as it was named.
        fingerprint: of the source.
        names: of all examples, by index.
        classes: how many readable images each class has.
        splits: how many examples each split that the source names has.
        features: what images were compared by.
        notes: what was not looked at, and why.
        findings: by kind in the order of `KINDS`, within a kind worst first.
        seconds: that the check took.
    """

    data: str
    fingerprint: str
    names: tuple[str, ...]
    classes: Mapping[str, int]
    splits: Mapping[str, int]
    features: str
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def serious(self) -> bool:
        """Whether anything found spoils training or its results."""
        return any(KINDS[finding.kind].severity == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind there are, in the order of `KINDS`."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def dropped(self) -> int:
        """How many examples training would leave out."""
        findings = [finding for finding in self.findings if KINDS[finding.kind].exclude]
        return len({example for finding in findings for example in finding.drop})

    def to_json(self) -> dict[str, Any]:
        """The content of `check.json`.

        `findings` is a list of objects with `kind`, `severity`, `score`, `message`, `names` (the
        examples that it is about), `drop` (those that would be left out) and `exclude` (whether
        they are). Whoever wants more or less left out edits `exclude` and `drop`.
        """
        return {
            "format": CHECK_FORMAT,
            "data": self.data,
            "fingerprint": self.fingerprint,
            "serious": self.serious,
            "examples": len(self.names),
            "left_out": self.dropped,
            "seconds": round(self.seconds, 1),
            "features": self.features,
            "notes": list(self.notes),
            "classes": dict(self.classes),
            "splits": dict(self.splits),
            "counts": self.counts,
            "findings": [self._finding(finding) for finding in self.findings],
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        kind = KINDS[finding.kind]
        return {
            "kind": finding.kind,
            "severity": kind.severity,
            "score": round(finding.score, 4),
            "message": finding.message,
            "names": [self.names[example] for example in finding.examples],
            "drop": [self.names[example] for example in finding.drop],
            "exclude": kind.exclude,
        }


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings by kind in the order of `KINDS`, within a kind worst first."""
    place = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda own: (place[own.kind], -own.score, own.examples)))
