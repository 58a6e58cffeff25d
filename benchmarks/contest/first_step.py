"""A run that begins, says when its first step is done and what was compiled for it, and ends.

Its arguments are a recipe and overrides, as `jtl train` takes them; `--workdir` and `--resume`
likewise.
"""

import argparse
import collections
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Begins or resumes the run, with a record after every step."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("assignments", nargs="*")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--go-on", action="store_true", help="say every step, to the run's end")
    arguments = parser.parse_args()
    from jtl.cli.memory import keep_memory, run_where_called

    keep_memory()  # this and what follows as in `jtl train`
    run_where_called()
    from jtl.training.garbage import rare_collections
    from jtl.training.kept_programs import KeptPrograms

    with rare_collections(), KeptPrograms.of(arguments.recipe, *arguments.assignments) as programs:
        _run(arguments, began, programs)


def _run(arguments: argparse.Namespace, began: float, programs: Any) -> None:
    import jax

    counts: collections.Counter[str] = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: counts.update([event])
    )
    from jtl.experiment.options import read_config
    from jtl.experiment.train import train
    from jtl.training.events import Stepped

    def hear(event: Any) -> None:
        if not isinstance(event, Stepped):
            return
        # Programs that JAX asked its compiler or its cache for.
        made = counts["/jax/core/compile/backend_compile_duration"]
        fetched = counts["/jax/compilation_cache/cache_hits"]
        said = {
            "step": event.step,
            "after_start_seconds": time.perf_counter() - began,
            "compiled": made - fetched,
            "fetched": fetched,
        }
        print(json.dumps(said), flush=True)
        if not arguments.go_on:
            raise SystemExit  # what is still being written for the next start is waited for

    from jtl.training.logs import import_tensorboard

    import_tensorboard("torch", "boto3", "google.cloud.storage")
    config = read_config(arguments.recipe, (*arguments.assignments, "train.log_every=1"))
    train(
        config,
        workdir=arguments.workdir,
        resume=arguments.resume,
        listeners=(hear,),
        splits=(),
        programs=programs,
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
