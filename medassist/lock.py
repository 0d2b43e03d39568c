"""One training at a time on this machine's adapters folder, by whichever road it was asked for.

The lock is the operating system's, on a file: it falls when its holder ends, in whatever way. A
note beside it says who holds it and since when. This module knows nothing about trainings.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from medassist.errors import JobError


@dataclass(frozen=True)
class Owner:
    """A process, told from a later one with the same number by its start time (seconds since 1970)."""

    pid: int
    started_at: float
    run: str = ""
    since: float = 0.0

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < 2.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def this_process(run: str = "") -> Owner:
    """This process as an owner."""
    return Owner(os.getpid(), psutil.Process().create_time(), run, time.time())


def write_owner(path: Path, owner: Owner) -> None:
    """Writes the note about an owner, whole or not at all."""
    staged = path.with_name(path.name + f".{os.getpid()}")
    staged.write_text(json.dumps(owner.__dict__), encoding="utf-8")
    os.replace(staged, path)


def read_owner(path: Path) -> Owner | None:
    """The owner noted in a file, or None where there is none or it cannot be read."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return Owner(int(row["pid"]), float(row["started_at"]), str(row.get("run", "")), float(row.get("since", 0)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def current_owner(root: Path) -> Owner | None:
    """Who is training under `root` now, or None."""
    owner = read_owner(root / ".training.json")
    return owner if owner is not None and owner.is_alive() else None


@contextlib.contextmanager
def training_lock(root: Path, run: str) -> Iterator[None]:
    """Holds the one training place under `root`.

    Raises:
        JobError: somebody else holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".training.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise busy(root) from None
    note = root / ".training.json"
    try:
        write_owner(note, this_process(run))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def busy(root: Path) -> JobError:
    """The error that says which training is going on."""
    owner = current_owner(root)
    which = f"'{owner.run}'" if owner is not None and owner.run else "another run"
    return JobError(f"A training is already going on here: {which}.", "Wait for it to end, or stop it first.")
