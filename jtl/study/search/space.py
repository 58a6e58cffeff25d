"""The search space: which options of a config are tried with which values, for every method."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import Field

from jtl.config import Document, build, override, read_document
from jtl.errors import ConfigError
from jtl.experiment.options import Config

Assignments = Mapping[str, Any]
Condition = dict[str, Annotated[tuple[Any, ...], MinLen(1)]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values.

    Attributes:
        kind: of parameter.
        options: what there is to choose from: any values that the option takes.
        when: the parameter is in use only where each of these choices has one of these values.
    """

    kind: Literal["choice"]
    options: Annotated[tuple[Any, ...], MinLen(1)]
    when: Condition = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a value that stands twice."""
        if len({_text(option) for option in self.options}) < len(self.options):
            raise ConfigError("options: a value stands twice; keep one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
    """A number of an interval, every part of it as likely as any other.

    Attributes:
        kind: of parameter.
        low: the least.
        high: the largest.
        steps: how many values a grid takes, both ends among them.
        when: as of `Choice`.
    """

    kind: Literal["uniform"]
    low: float
    high: float
    steps: Annotated[int, Ge(2)] | None = None
    when: Condition = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses an empty range."""
        _check_range(self.low, self.high, self.low < self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A number of an interval, every factor as likely as any other.

    Attributes:
        kind: of parameter.
        low: the least.
        high: the largest.
        steps: how many values a grid takes, both ends among them.
        when: as of `Choice`.
    """

    kind: Literal["log_uniform"]
    low: Annotated[float, Gt(0)]
    high: Annotated[float, Gt(0)]
    steps: Annotated[int, Ge(2)] | None = None
    when: Condition = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses an empty range."""
        _check_range(self.low, self.high, self.low < self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer:
    """A whole number of a range, both ends included.

    Attributes:
        kind: of parameter.
        low: the least.
        high: the largest, if `step` leads there.
        step: between two values.
        when: as of `Choice`.
    """

    kind: Literal["integer"]
    low: int
    high: int
    step: Annotated[int, Ge(1)] = 1
    when: Condition = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses an empty range."""
        _check_range(self.low, self.high, self.low <= self.high)

    @property
    def count(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1


Parameter = Choice | Uniform | LogUniform | Integer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    space: dict[str, Annotated[Parameter, Field(discriminator="kind")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """Parameters by the dotted key of the option that they set.

    Attributes:
        parameters: each after those that its `when` names.
        origins: where each was written, such as `space.yaml:3`.
    """

    parameters: Mapping[str, Parameter]
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def in_use(self, name: str, assignments: Assignments) -> bool:
        """Whether a parameter has a value beside these of the parameters before it."""
        conditions = self.parameters[name].when
        return all(
            parent in assignments and _text(assignments[parent]) in map(_text, values)
            for parent, values in conditions.items()
        )

    def conditions(self, name: str) -> dict[str, list[int]]:
        """The places of the options under which a parameter is in use, by choice, all the way up.

        Args:
            name: of the parameter.
        """
        found: dict[str, list[int]] = {}
        for parent, values in self.parameters[name].when.items():
            choice = self.parameters[parent]
            assert isinstance(choice, Choice)
            wanted = {_text(value) for value in values}
            places = [place for place, own in enumerate(choice.options) if _text(own) in wanted]
            for key, own in {**self.conditions(parent), parent: places}.items():
                found[key] = [place for place in found.get(key, own) if place in own]
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        plain = {name: dataclasses.asdict(own) for name, own in self.parameters.items()}
        return json.loads(json.dumps(plain))


def read_space(path: str | Path) -> Space:
    """Reads a space from its YAML file.

    Raises:
        ConfigError: one line for each mistake: a parameter of no known kind, an empty range, a
            condition on what is no choice of this space.
    """
    written = read_document(path)
    values = {_plain_key(str(key)): value for key, value in written.values.items()}
    if not values:
        raise ConfigError(f"{path}: names no option; write `key: {{kind: choice, options: []}}`.")
    origins = {
        ("space", *((_plain_key(str(place[0])),) if place else ()), *place[1:]): origin
        for place, origin in written.origins.items()
    }
    try:
        parameters = build(_File, Document(values={"space": values}, origins=origins)).space
    except ConfigError as error:
        raise ConfigError(str(error).replace("space.", "", 1).replace("\nspace.", "\n")) from None
    parameters = {name: _with_plain_conditions(own) for name, own in parameters.items()}
    places = {name: origins["space", name] for name in parameters}
    problems = list(_wrong_conditions(parameters, places))
    if problems:
        raise ConfigError("\n".join(problems))
    return Space(parameters=_sorted(parameters, str(path)), origins=places)


def configure(base: Mapping[str, Any], assignments: Assignments) -> Config:
    """The config with these options in place of its own.

    Args:
        base: the whole config as plain values.
        assignments: values by dotted key.

    Raises:
        ConfigError: an option does not exist, or does not take its value.
    """
    words = [f"{key}={json.dumps(value)}" for key, value in assignments.items()]
    return build(Config, override(Document(values=dict(base)), words))


def check_space(space: Space, base: Mapping[str, Any]) -> None:
    """Whether every value of a space is one that its option takes; looks at no data.

    Args:
        space: to be searched.
        base: the whole config as plain values.

    Raises:
        ConfigError: one line for each option that does not exist, that all trials must share, or
            that does not take a value.
    """
    problems = []
    for name, parameter in space.parameters.items():
        origin = space.origins.get(name, name)
        if reason := _shared(name, base):
            problems.append(f"{name}: {reason} ({origin})")
            continue
        for value in _extremes(parameter):
            try:
                configure(base, {name: value})
            except ConfigError as error:
                problems += [_replaced(line, origin) for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _shared(name: str, base: Mapping[str, Any]) -> str | None:
    room, _, rest = name.partition(".")
    if name == "name":
        return "names a run and changes nothing; take another option"
    if room == "data" and rest.split(".")[0] not in ("batch_size", "background"):
        return "all trials read the same examples, split alike; set it with --set instead"
    if name == "seed" and base["data"]["split"]["shots"] is not None:
        return "with data.split.shots another seed draws other examples; set it with --set instead"
    return None


def _replaced(line: str, origin: str) -> str:
    head, _, tail = line.rpartition(" (--set ")
    if head:
        return f"{head} ({origin})"
    return f"{tail.removeprefix('--set ').rstrip('.')} ({origin})"


def _extremes(parameter: Parameter) -> Iterator[Any]:
    if isinstance(parameter, Choice):
        yield from parameter.options
    elif isinstance(parameter, Integer):
        yield from (parameter.low, parameter.low + parameter.step * (parameter.count - 1))
    else:
        yield from (float(parameter.low), float(parameter.high))


def _check_range(low: float, high: float, holds: bool) -> None:
    if not holds:
        raise ConfigError(f"the range from low={low:g} to high={high:g} is empty; swap or widen it")


def _with_plain_conditions(parameter: Parameter) -> Parameter:
    when = {_plain_key(key): values for key, values in parameter.when.items()}
    return dataclasses.replace(parameter, when=when)


def _wrong_conditions(
    parameters: Mapping[str, Parameter], places: Mapping[str, str]
) -> Iterator[str]:
    for name, parameter in parameters.items():
        for parent, values in parameter.when.items():
            choice = parameters.get(parent)
            if not isinstance(choice, Choice):
                choices = [key for key, own in parameters.items() if isinstance(own, Choice)]
                yield (
                    f"{name}.when: {parent!r} is no choice of this space; there are "
                    f"{', '.join(choices) or 'none'} ({places[name]})"
                )
                continue
            known = {_text(option) for option in choice.options}
            for value in values:
                if _text(value) not in known:
                    yield (
                        f"{name}.when: {_text(value)} is no option of {parent}; there are "
                        f"{', '.join(map(_text, choice.options))} ({places[name]})"
                    )


def _sorted(parameters: Mapping[str, Parameter], path: str) -> dict[str, Parameter]:
    left, found = dict(parameters), dict[str, Parameter]()
    for _ in itertools.count():
        ready = [name for name, own in left.items() if all(key in found for key in own.when)]
        if not ready:
            break
        found.update({name: left.pop(name) for name in ready})
    if left:
        raise ConfigError(f"{path}: the conditions of {', '.join(left)} depend on each other.")
    return found


def _plain_key(key: str) -> str:
    return key.replace("[", ".").replace("]", "")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
