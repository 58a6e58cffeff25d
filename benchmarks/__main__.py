"""Runs every benchmark that fits a time: `python -m benchmarks`.

    python -m benchmarks --minutes 60
    python -m benchmarks --only startup,train_step
    python -m benchmarks --draw

The last runs none, and makes README's table and picture from the results that are there, as every
run at full size does in the end. The scripts with the most to say come first; one that is not
expected to end in time is left out and named. What each wrote stays, even where a later one fails.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
# What is no benchmark itself:
HELPERS = {"picture", "planted", "reading", "record", "savers", "summary"}
PICTURE = FOLDER.parent / "docs" / "benchmarks.png"
# Minutes that each takes on two cores; the order is that of importance.
MINUTES = {
    "train_step": 40.0,
    "shares": 2.0,
    "startup": 6.0,
    "loop_overhead": 2.0,
    "end_to_end": 6.0,
    "resume": 10.0,
    "frozen_cost": 3.0,
    "cache_gain": 6.0,
    "input_pipeline": 10.0,
    "vectorised": 8.0,
    "placement": 4.0,
    "key_price": 3.0,
    "weights_load": 2.0,
    "check": 4.0,
    "digits_fewshot": 15.0,
    "tune_digits": 30.0,
    "ahead": 60.0,
}
UNKNOWN = 10.0  # minutes of a script that is not listed


def scripts() -> list[str]:
    """The names of all benchmarks, the most important first."""
    found = {path.stem for path in FOLDER.glob("[!_]*.py")} - HELPERS
    return [name for name in MINUTES if name in found] + sorted(found - MINUTES.keys())


def main() -> None:
    """Runs the scripts one after the other; the exit status is 1 where one failed."""
    parser = record.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="what all may take")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="A,B")
    parser.add_argument("--draw", action="store_true", help="README's table and picture alone")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.results)
        return
    chosen = scripts() if arguments.only is None else arguments.only
    if unknown := sorted(set(chosen) - set(scripts())):
        parser.error(
            f"no benchmark is called {', '.join(unknown)}; there is {', '.join(scripts())}"
        )
    options = ["--results", str(arguments.results), *(["--smoke"] if arguments.smoke else [])]
    end = time.monotonic() + 60 * arguments.minutes
    failed = _run_all(chosen, options, end, smoke=arguments.smoke)
    if arguments.results == record.RESULTS and not arguments.smoke:
        draw(arguments.results)
    if failed:
        print(f"failed: {', '.join(failed)}")
        sys.exit(1)


def draw(results: Path) -> None:
    """Makes README's table and picture from the results of a folder."""
    from benchmarks import picture, summary

    text = README.read_text("utf-8")
    README.write_text(summary.insert(text, summary.table(results)), encoding="utf-8")
    print(README)
    print(picture.draw(results, PICTURE))


def _run_all(
    chosen: Sequence[str], options: Sequence[str], end: float, *, smoke: bool
) -> list[str]:
    """Runs those that fit until `end`, by the monotonic clock; the names of those that failed."""
    failed = []
    for name in chosen:
        left = (end - time.monotonic()) / 60
        expected = 0.5 if smoke else MINUTES.get(name, UNKNOWN)
        if expected > left:
            print(
                f"== {name}: left out; it takes {expected:g} minutes, {max(left, 0):.0f} are left"
            )
            continue
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        if subprocess.run(command, cwd=FOLDER.parent, check=False).returncode:
            failed.append(name)
    return failed


if __name__ == "__main__":
    main()
