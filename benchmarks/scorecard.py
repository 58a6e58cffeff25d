"""What survives? Five faults, done to bare Orbax's `CheckpointManager` and to jtl's checkpoints.

    python -m benchmarks.scorecard

Real processes, killed by SIGKILL, refused by the system, racing for one folder, on files with one
bit flipped. The states are known by their seeds, so that each restore is compared bit for bit.
"""

import dataclasses
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record, savers

SIDES = ("bare", "jtl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How often each fault is done: kills, flipped bits, races of at most `patience` seconds."""

    kills: int
    flips: int
    races: int
    patience: float


def main() -> None:
    """Does the faults to both sides, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    size = Size(kills=10, flips=100, races=3, patience=60.0)
    if arguments.smoke:
        size = Size(kills=0, flips=0, races=0, patience=0.0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="jtl-scorecard-") as name:
        for fault, question in FAULTS[-2:] if arguments.smoke else FAULTS:
            for side in SIDES:
                folder = Path(name) / side / fault.__name__
                folder.mkdir(parents=True)
                rows.append({"fault": question, "side": side, **fault(side, folder, size)})
    print(f"| {'fault':34} | {'side':4} | outcome |")
    for row in rows:
        print(f"| {row['fault']:34} | {row['side']:4} | {row['outcome']} |")
    print(record.write(arguments.results, "scorecard", rows, **dataclasses.asdict(size)))


def _start(side: str, action: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    given = [f"{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.savers", side, action, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *given], stdout=pipe, stderr=pipe, text=True)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _said(side: str, action: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    process = _start(side, action, folder, **options)
    out, err = process.communicate()
    if process.returncode:
        return [{"failed": (err.strip().splitlines() or ["nothing"])[-1][:300]}]
    return _lines(out)


def _right(found: str, seed: int) -> bool:
    return found == savers.digest(savers.arrays(seed))


def _kills(side: str, folder: Path, size: Size) -> dict[str, Any]:
    rng, went_on = random.Random(0), 0
    for number in range(size.kills):
        own = folder / str(number)
        process = _start(side, "save", own, steps=50)
        assert process.stdout is not None
        saved, saving, last = 0, 0, rng.randrange(2, 5)
        while saving < last:
            line = json.loads(process.stdout.readline())
            saved, saving = line.get("saved", saved), line.get("saving", saving)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        for line in _lines(process.communicate()[0]):
            saved = line.get("saved", saved)
        found = _said(side, "read", own)[-1]
        newest = found.get("newest") or 0
        went_on += newest >= saved and _right(found["digests"].get(str(newest), ""), newest)
    return {
        "count": size.kills,
        "went_on": went_on,
        "outcome": f"{went_on} of {size.kills} went on from the last saved step, bit for bit",
    }


def _flips(side: str, folder: Path, size: Size) -> dict[str, Any]:
    beside = folder / "copies"
    lines = _said(side, "flip", folder / "run", count=size.flips, beside=beside)
    ends = {"silently_wrong": 0, "refused": 0, "step_before": 0, "unharmed": 0}
    for line in lines:
        newest, found = line.get("newest"), line.get("digest") or "error"
        if found.startswith("error"):
            ends["refused"] += 1
        elif not _right(found, newest):
            ends["silently_wrong"] += 1
        else:
            ends["unharmed" if newest == 2 else "step_before"] += 1
    told = {name: count for name, count in ends.items() if count}
    text = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in told.items())
    return {"count": size.flips, **ends, "outcome": f"of {size.flips}: {text}"}


def _full(side: str, folder: Path, size: Size) -> dict[str, Any]:
    del size
    said = _said(side, "full", folder / "run")[-1]
    after = _said(side, "read", folder / "run")[-1]
    newest = after.get("newest") or 0
    intact = _right(after.get("digests", {}).get(str(newest), ""), newest)
    claims = 2 in said.get("says_saved", [])
    heard = bool(said.get("heard") or said.get("failed"))
    text = f"{'says' if claims else 'never says'} that it is saved, "
    text += f"{'an' if heard else 'no'} error at the next wait; "
    text += f"the next start finds {f'step {newest}' if newest else 'nothing'}"
    text += "" if intact else ", which cannot be restored"
    return {**said, "after": after, "intact": intact, "outcome": text}


def _races(side: str, folder: Path, size: Size) -> dict[str, Any]:
    claimed = lost = refused = hung = 0
    for number in range(size.races):
        run, go = folder / str(number), folder / f"go{number}"
        both = [_start(side, "save", run, steps=6, writer=writer, go=go) for writer in (1, 2)]
        for process in both:
            assert process.stdout is not None
            process.stdout.readline()  # it is ready
        go.touch()
        said, late = _ends(both, size.patience)
        hung += late
        refused += sum("is in use by process" in err for _, err in said)
        claims = [line for out, _ in said for line in _lines(out) if "saved" in line]
        found = _said(side, "read", run)[-1].get("digests", {})
        claimed += len(claims)
        lost += sum(not _right(found.get(str(c["saved"]), ""), c["seed"]) for c in claims)
    text = f"{lost} of {claimed} steps that were said to be saved are lost"
    text += f"; the second was refused {refused} times of {size.races}" if refused else ""
    text += f"; {hung} processes waited for good" if hung else ""
    return {
        "count": size.races,
        "claimed": claimed,
        "lost": lost,
        "refused": refused,
        "hung": hung,
        "outcome": text,
    }


def _ends(
    processes: list[subprocess.Popen[str]], patience: float
) -> tuple[list[tuple[str, str]], int]:
    """What processes said, and how many had to be killed because they did not end."""
    until, said, late = time.monotonic() + patience, [], 0
    for process in processes:
        try:
            said.append(process.communicate(timeout=max(until - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            process.kill()
            said.append(process.communicate())
            late += 1
    return said, late


def _nan(side: str, folder: Path, size: Size) -> dict[str, Any]:
    del size
    said = _said(side, "metrics", folder / "run")[-1]
    kept = said.get("kept", [])
    text = f"step {said.get('best')} is called the best, kept: {', '.join(map(str, kept))}"
    text += "" if 1 in kept else "; the real best is deleted"
    return {**said, "outcome": text}


FAULTS = (
    (_kills, "kill -9 while saving"),
    (_flips, "one bit flipped in the newest step"),
    (_races, "two processes in one folder"),
    (_full, "a save that the system refuses"),
    (_nan, "accuracy 0.9, then NaN, then 0.5"),
)


if __name__ == "__main__":
    main()
