"""A feed that trains and validates from the rows at the freeze boundary, where that is right."""

import dataclasses
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jtl.data.pipeline import ReadOptions
from jtl.data.reader import Reader
from jtl.engine.boundary import TailStep, make_eval_tail, make_extract_step, make_tail_step
from jtl.engine.evaluation import EvalStep
from jtl.engine.metrics import total_of
from jtl.engine.state import TrainState
from jtl.errors import ConfigError
from jtl.training.cache.batches import RowBatches
from jtl.training.cache.identity import cache_key
from jtl.training.cache.options import Where
from jtl.training.cache.plan import Demand, Plan, Refusal, plan_cache, varies
from jtl.training.cache.splits import EvalSplit, TrainSplit, fill_block
from jtl.training.cache.tables import Table, make_table
from jtl.training.evaluate import Evaluation, evaluation_of
from jtl.training.events import Cached, Listener
from jtl.training.feed import Streamed, check_labels
from jtl.training.files import read_json, write_json
from jtl.training.phases import Phase
from jtl.training.unreadable import Unreadable

_STEPS_AT_ONCE = 64
_FOLDER = "activations"  # of files, in the run's own


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows of both splits.

    Attributes:
        key: what they are a function of.
        where: they are kept.
        train: the training split.
        train_table: its rows.
        val: the validation split, or None where it is empty.
        val_table: its rows.
    """

    key: str
    where: Where
    train: TrainSplit
    train_table: Table
    val: EvalSplit | None
    val_table: Table | None

    def close(self) -> None:
        """Gives back what the rows take."""
        for table in (self.train_table, self.val_table):
            if table is not None:
                table.close()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Open:
    """A phase that trains from rows.

    Attributes:
        plan: of the phase.
        rows: to train and validate from.
        held: parameters and statistics before the boundary, plain.
        extract: the compiled step from images to rows.
        evaluate: the compiled evaluation step from rows on.
    """

    plan: Plan
    rows: _Rows
    held: Any
    extract: Callable[..., Any]
    evaluate: Callable[..., Any]


class CachedFeed:
    """Batches and validation from cached rows; phases without a cache are streamed.

    Args:
        streamed: what feeds the phases that no cache serves.
        phases: of the run.
        demand: where rows may be kept, and of what.
        reader: of the examples.
        unreadable: notes the examples that cannot be read.
        val: int `[examples]`, the validation split; it may be empty.
        eval_step: of the whole network.
        eval_batch_size: examples a step in validation, a multiple of the devices.
        preprocess: the record of how images are prepared.
        options: how images are read while rows are computed.
        tell: hears what is cached.
    """

    def __init__(
        self,
        *,
        streamed: Streamed,
        phases: Sequence[Phase],
        demand: Demand,
        reader: Reader,
        unreadable: Unreadable,
        val: np.ndarray,
        eval_step: EvalStep,
        eval_batch_size: int,
        preprocess: Mapping[str, Any],
        options: ReadOptions,
        tell: Listener,
    ) -> None:
        self._streamed, self._phases, self._demand = streamed, phases, demand
        self._reader, self._val, self._tell = reader, val, tell
        self._unreadable = unreadable
        self._eval_step, self._eval_batch_size = eval_step, eval_batch_size
        self._preprocess, self._options = preprocess, options
        self._train_batches = RowBatches(demand.place, demand.order.batch_size)
        self._val_batches = RowBatches(demand.place, eval_batch_size)
        self._open: _Open | None = None

    def enter(self, phase: int, state: TrainState) -> TailStep | None:
        """Begins a phase, or goes on with it.

        Args:
            phase: its index.
            state: plain and whole.

        Returns:
            The step to take in place of the phase's own; None where that is to be taken.

        Raises:
            ConfigError: the place that was asked for has no room.
            CheckpointError: a file cannot be written.
            DataError: labels reach past the classes.
        """
        own, step = self._phases[phase], int(state.step)
        plan = self._decided(phase, plan_cache(self._demand, own, state))
        if not isinstance(plan, Plan):
            self._release()
            if isinstance(plan, Refusal):
                self._tell(Cached(step=step, phase=phase, note=plan.reason))
            return None
        held = plan.boundary.held(state.variables)
        rows = self._rows(own, plan, held, state.rng)
        extract = make_extract_step(own.step, plan.boundary, state.rng)
        self._open = _Open(
            plan=plan,
            rows=rows,
            held=held,
            extract=self._demand.place.compile(extract),
            evaluate=self._demand.place.compile(make_eval_tail(self._eval_step, plan.boundary)),
        )
        self._tell(_event(step, phase, plan, rows))
        return make_tail_step(own.step, plan.boundary, state.variables)

    def batches(self, phase: int, start: int, stop: int) -> Generator[Any, None, None]:
        """The placed batches of steps `start` to `stop`; a view's rows are computed when due."""
        opened = self._open
        if opened is None:
            yield from self._streamed.batches(phase, start, stop)
            return
        split, table = opened.rows.train, opened.rows.train_table
        for first in range(start, stop, _STEPS_AT_ONCE):
            # Always as many steps, so that one program serves all.
            columns = split.columns(first, _STEPS_AT_ONCE)
            count = min(_STEPS_AT_ONCE, stop - first)
            for block in np.unique(columns["row"][:count] // split.length):
                self._fill(opened, table, split, int(block))
            yield from self._train_batches.of(table, columns, count)

    def validate(self, phase: int, variables: Any) -> Evaluation | None:
        """The evaluation of the validation split for placed variables; None without a split."""
        opened = self._open
        if opened is None:
            return self._streamed.validate(phase, variables)
        split, table = opened.rows.val, opened.rows.val_table
        if split is None or table is None:
            return None
        self._fill(opened, table, split, 0)
        rest, columns = opened.plan.boundary.rest(variables), split.columns()
        batches = self._val_batches.of(table, columns, len(columns["row"]))
        total = total_of(opened.evaluate(rest, batch) for batch in batches)
        return None if total is None else evaluation_of(total)

    def close(self) -> None:
        """Removes all rows; a run that is interrupted leaves its files for its next start."""
        self._release()
        shutil.rmtree(self._demand.folder / _FOLDER, ignore_errors=True)

    def _decided(self, phase: int, plan: Plan | Refusal | None) -> Plan | Refusal | None:
        """The plan, if it is what the run began this phase with: the other way has other bits."""
        path = self._demand.folder / "cache.json"
        known = read_json(path) if path.exists() else {}
        cached = known.setdefault(str(phase), isinstance(plan, Plan))
        if cached and not isinstance(plan, Plan):
            why = plan.reason if isinstance(plan, Refusal) else "it would gain nothing"
            raise ConfigError(
                f"phase {phase + 1} of this run began with a cache, and now {why}; make room, or "
                "raise train.cache_limits."
            )
        if self._demand.folder.exists():
            write_json(path, known)
        return plan if cached or not isinstance(plan, Plan) else None

    def _release(self) -> None:
        if self._open is not None:
            self._open.rows.close()
            self._open = None

    def _fill(self, opened: _Open, table: Table, split: TrainSplit | EvalSplit, block: int) -> None:
        if block in table.complete:
            return
        place = self._demand.place
        variables = place.put_state(opened.held)
        fill_block(table, split, block, extract=opened.extract, variables=variables, place=place)

    def _rows(self, phase: Phase, plan: Plan, held: Any, rng: jax.Array) -> _Rows:
        train = TrainSplit(
            reader=self._reader,
            order=self._demand.order,
            views=plan.views,
            options=self._options,
            unreadable=self._unreadable,
        )
        key = self._key(phase, plan, held, train, rng)
        if self._open is not None and self._open.rows.key == key:
            return self._open.rows
        self._release()
        labels = {"label": self._reader.source.labels[train.examples], "example": train.examples}
        check_labels(labels, self._streamed.classes)
        val = None
        if len(self._val):
            val = EvalSplit(
                reader=self._reader,
                indices=self._val,
                batch_size=self._eval_batch_size,
                options=self._options,
                unreadable=self._unreadable,
            )
        return _Rows(
            key=key,
            where=plan.where,
            train=train,
            train_table=self._table(plan, key, "train", plan.views, train.length),
            val=val,
            val_table=None if val is None else self._table(plan, key, "val", 1, val.length),
        )

    def _table(self, plan: Plan, key: str, name: str, blocks: int, length: int) -> Table:
        path = self._demand.folder / _FOLDER / f"{name}.bin"
        place = self._demand.place
        return make_table(plan.where, place, path, key, blocks=blocks, length=length, row=plan.row)

    def _key(self, phase: Phase, plan: Plan, held: Any, train: TrainSplit, rng: jax.Array) -> str:
        demand, varied = self._demand, varies(self._demand.augment)
        return cache_key(
            model=phase.step.forward.model,  # type: ignore[attr-defined]
            boundary=plan.boundary,
            held=held,
            preprocess=self._preprocess,
            augment=demand.augment if varied else None,
            rng=rng if varied else None,
            fingerprint=self._reader.source.fingerprint,
            indices=np.concatenate([train.examples, [-1], self._val]),
            batch_sizes=(demand.order.batch_size, self._eval_batch_size),
            place=demand.place,
        )


def _event(step: int, phase: int, plan: Plan, rows: _Rows) -> Cached:
    tables = [table for table in (rows.train_table, rows.val_table) if table is not None]
    notes = [table.note for table in tables if table.note]
    if not notes and any(table.complete for table in tables):
        notes = ["what is there already is used again"]
    return Cached(
        step=step,
        phase=phase,
        stages=plan.boundary.stages,
        examples=rows.train.length,
        views=plan.views,
        bytes=plan.bytes,
        where=rows.where,
        share=plan.share,
        note="; ".join(notes),
    )
