"""Prepared rows on disk: Arrow files kept under a key, and examples read from them one by one.

A file stands under the hash of everything that it came from: the source's content, the settings, and the code and
vocabulary that made it. `MEDASSIST_CACHE` names the folder; nothing in it is needed, and what nobody used for 30 days
is taken away. Knows nothing of columns or cleaning.

    python -m medassist data check --dataset starter
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, overload

from medassist.data.shapes import Example
from medassist.errors import DataError

_KEPT_S = 30 * 24 * 3600
_BATCH = 1000  # rows decoded at a time


def cache_folder() -> Path:
    """The folder for prepared data: MEDASSIST_CACHE, else the user's cache folder, else a temporary one."""
    wanted = os.environ.get("MEDASSIST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [Path(wanted)] if wanted else [Path(home).expanduser() / "medassist", Path(tempfile.gettempdir()) / "medassist"]
    for place in places:
        with contextlib.suppress(OSError, RuntimeError):
            folder = place / "data"
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise DataError(f"The folder {places[0]} for prepared data cannot be written.",
                    "Set MEDASSIST_CACHE to a folder that can be.")


@cache
def code_fingerprint() -> str:
    """A hash of this package's source and of the gate with its vocabulary: what they make is made anew when they change."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve()
    package = here.parents[1]
    files = [*sorted(here.parent.glob("*.py")), package / "gate.py", *sorted((package.parent / "vocab").glob("*"))]
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    """A file name for what `parts` (plain values) make."""
    text = json.dumps([code_fingerprint(), *parts], sort_keys=True, ensure_ascii=True, default=sorted)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kept(key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """The dataset under `key` and what was noted about it; made by `build(path)` if it is not there.

    Args:
        build: writes an Arrow file at the path and returns notes (plain values).

    Raises:
        DataError: the disk is full or cannot be written.
    """
    import datasets
    from filelock import FileLock

    folder = cache_folder()
    rows, notes = folder / f"{key}.arrow", folder / f"{key}.json"
    try:
        with FileLock(folder / f"{key}.lock"):
            found = _read_notes(notes) if rows.is_file() else None
            if found is None:
                part = folder / f"{key}.part"
                try:
                    found = build(part)
                    os.replace(part, rows)
                    notes.write_text(json.dumps(found, ensure_ascii=True), encoding="utf-8")
                finally:
                    part.unlink(missing_ok=True)
                _prune(folder)
            os.utime(notes)
            # Named by its key: left to itself the library would hash the whole object with each opening.
            return datasets.Dataset(datasets.table.MemoryMappedTable.from_file(str(rows)), fingerprint=key), found
    except OSError as error:
        raise DataError(f"The prepared data could not be written to {folder}: {error.strerror or error}.",
                        "Free some disk space, or set MEDASSIST_CACHE to a folder on another disk.") from error


def _read_notes(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _prune(folder: Path) -> None:
    """Takes away what was not used for 30 days, and what a killed process left half-written."""
    now = time.time()
    for notes in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            if now - notes.stat().st_mtime > _KEPT_S:
                for suffix in (".arrow", ".lock", ".json"):
                    notes.with_suffix(suffix).unlink(missing_ok=True)
    for part in folder.glob("*.part*"):
        with contextlib.suppress(OSError):
            if now - part.stat().st_mtime > 24 * 3600:
                part.unlink()


class Examples(Sequence[Example]):
    """Examples in a fixed order, decoded from disk when they are looked at; a few bytes each in memory.

    Args:
        rows: a Dataset with the columns question, answer, history (JSON or ""), topic and source.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.select_columns(["question", "answer", "history", "topic", "source"])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            if not places:
                return []
            if places.step == 1:
                return _decode(self._rows[places.start:places.stop])
            return _decode(self._rows.select(list(places), keep_in_memory=True)[:])
        place = range(len(self))[index]  # negative ones, and an IndexError for what is not there
        return _decode(self._rows[place:place + 1])[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _BATCH):
            yield from _decode(self._rows[start:start + _BATCH])


def _decode(columns: dict[str, list[Any]]) -> list[Example]:
    return [Example(question, answer, topic or None, source, _history(history))
            for question, answer, history, topic, source in zip(
                columns["question"], columns["answer"], columns["history"], columns["topic"], columns["source"])]


def _history(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((q, a) for q, a in json.loads(text)) if text else ()
