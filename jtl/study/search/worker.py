"""The process that trains trials: takes jobs as lines of JSON, and ends with its parent."""

import contextlib
import dataclasses
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jtl.errors import DivergedError, JtlError

Send = Callable[[Mapping[str, Any]], None]
Receive = Callable[[], dict[str, Any]]


class _Pruned(BaseException):  # no `except Exception` on its way may take it for a failure
    """The parent has ended the trial."""


class Worker:
    """Carries out jobs, with sources, features and programs made once.

    Args:
        send: tells the parent.
        receive: waits for the parent's word.
    """

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send, self._receive = send, receive
        self._sources: dict[str, Any] = {}
        self._trials: dict[str, Any] = {}

    def serve(self) -> None:
        """Jobs, one after the other, for ever."""
        while True:
            job = self._receive()
            try:
                self._send({"kind": "done", **self._carry_out(job)})
            except _Pruned:
                self._send({"kind": "ended", "status": "pruned", "reason": None})
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                traceback.print_exc()
                self._send({"kind": "ended", **_describe(error)})

    def _carry_out(self, job: dict[str, Any]) -> dict[str, Any]:
        from jtl.config import Document, build
        from jtl.experiment.options import Config

        configs = [build(Config, Document(values=own)) for own in job["configs"]]
        source = self._source(configs[0], job["outer"])
        if job["kind"] == "train":
            return self._train(job, configs[0], source)
        return self._train_together(job, configs, source)

    def _train(self, job: dict[str, Any], config: Any, source: Any) -> dict[str, Any]:
        from jtl.experiment import train
        from jtl.training.events import Evaluated, Event

        def listen(event: Event) -> None:
            if not isinstance(event, Evaluated) or job["metric"] not in event.metrics:
                return
            value = event.metrics[job["metric"]]
            self._send({"kind": "report", "step": event.step, "value": value})
            if self._receive()["prune"]:
                raise _Pruned

        run = train(
            config,
            workdir=Path(job["workdir"]),
            resume=True,
            source=source,
            listeners=(listen,),
            splits=job["splits"],
        )
        best = run.summary["best"]
        return {"metrics": best["metrics"], "intervals": best["intervals"]}

    def _train_together(
        self, job: dict[str, Any], configs: list[Any], source: Any
    ) -> dict[str, Any]:
        from jtl.experiment.compilation import keep_compiled_programs
        from jtl.study.vectorised import Trials

        keep_compiled_programs()
        key = json.dumps(job["outer"])
        if key not in self._trials:
            self._trials[key] = Trials(source=source, folder=Path(job["workdir"]))
        trials = self._trials[key]
        refused = [self._refusal(trials, config) for config in configs]
        fit = [place for place, why in enumerate(refused) if why is None]
        outcomes: dict[int, Any] = {}
        if fit and not job["ask"]:
            outcomes = dict(zip(fit, trials.run([configs[place] for place in fit])))
        results = [
            {"refused": why} if place not in outcomes else _judged(outcomes[place], source)
            for place, why in enumerate(refused)
        ]
        return {"results": results}

    def _refusal(self, trials: Any, config: Any) -> str | None:
        try:
            return trials.refusal(config)
        except JtlError as error:  # trained by itself, it says what is wrong
            return str(error)

    def _source(self, config: Any, outer: dict[str, int] | None) -> Any:
        from jtl.data.options import load_source
        from jtl.study.search.nested import outer_source

        key = repr((dataclasses.replace(config.data, batch_size=1, background=None), outer))
        if key not in self._sources:
            source = load_source(config.data)
            self._sources[key] = source if outer is None else outer_source(source, config, outer)
        return self._sources[key]


def _judged(outcome: Any, source: Any) -> dict[str, Any]:
    import numpy as np

    from jtl.training.measure.intervals import intervals
    from jtl.training.measure.predictions import Predictions
    from jtl.training.measure.tally import Tally

    if outcome.failure is not None:
        return {"failure": outcome.failure}
    tally = Tally(
        Predictions(
            logits=np.asarray(outcome.logits),
            label=source.labels[outcome.examples],
            example=outcome.examples,
            name=np.array([source.name(int(index)) for index in outcome.examples], np.str_),
            classes=source.classes,
        )
    )
    metrics = {**tally.metrics(), **outcome.best}
    found = {name: list(own) for name, own in intervals(tally).items()}
    return {"metrics": {"val": metrics}, "intervals": {"val": found}}


def _describe(error: BaseException) -> dict[str, Any]:
    text = f"{error}".strip() or type(error).__name__
    if isinstance(error, DivergedError):
        status = "diverged"
    elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        status = "out of memory"
    else:
        status = "failed"
    mistake = isinstance(error, JtlError)
    said = text if mistake else f"{type(error).__name__}: {text.splitlines()[0]}"
    return {"status": status, "reason": said, "mistake": mistake}


def _lines(source: Any) -> Receive:
    """Lines of JSON from a thread, which ends this process once the parent has gone."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in source:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lambda: json.loads(waiting.get())


def main() -> None:
    """Serves the parent on standard input and output; whatever prints goes to the log."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        Worker(send, _lines(sys.stdin)).serve()


if __name__ == "__main__":
    main()
