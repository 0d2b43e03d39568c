"""What the page's handlers are given: the adapters folder, the assistant, and three small memories of the process.

Made once in `app.py`. Nothing here knows a widget, and nothing here must last: what must, is on disk.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medassist.progress import RunView, read_rows

if TYPE_CHECKING:
    from medassist.chat import Assistant
    from medassist.config import RunConfig
    from medassist.data import PreparedData
    from medassist.preview import TokenStats


class Cancel(threading.Event):
    """Asks an answer to end. `superseded`: a newer question took its place, so it has nothing more to show."""

    superseded = False


class Cancels:
    """One cancel event for each session and place (chat, compare): a new question ends the one before."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], Cancel] = {}
        self._lock = threading.Lock()

    def begin(self, session: str | None, place: str) -> Cancel:
        """A fresh event; the session's older one, if any, is set."""
        event = Cancel()
        with self._lock:
            older = self._events.pop((session, place), None) if session else None
            if session:
                self._events[session, place] = event
        if older is not None:
            older.superseded = True
            older.set()
        return event

    def end(self, session: str | None, place: str, event: Cancel) -> None:
        """Forgets an event, and sets it: whoever still computes for it stops."""
        event.set()
        with self._lock:
            if self._events.get((session or "", place)) is event:
                del self._events[session or "", place]

    def clear(self, session: str | None, place: str) -> None:
        """Ends what runs there and lets it show nothing more."""
        self.end(session, place, self.begin(session, place))

    def stop(self, session: str | None, place: str) -> None:
        """Asks what runs in the session at this place to end."""
        with self._lock:
            event = self._events.get((session or "", place))
        if event is not None:
            event.set()


@dataclass
class WatchedRun:
    """A run's view and the rows that a log shows, as far as its file was read."""

    view: RunView = field(default_factory=RunView)
    rows: list[dict] = field(default_factory=list)  # all but the steps
    offset: int = 0


class Watcher:
    """Reads each run's progress file once, however many pages look at it."""

    def __init__(self, keep: int = 8) -> None:
        self._runs: OrderedDict[Path, WatchedRun] = OrderedDict()
        self._lock = threading.Lock()
        self._keep = keep

    def look(self, path: Path) -> WatchedRun:
        """The run folder's state, brought up to date."""
        file = path / "progress.jsonl"
        with self._lock:
            size = file.stat().st_size if file.exists() else 0
            watched = self._runs.get(path)
            if watched is None or size < watched.offset:  # a deleted run's name may come again
                watched = self._runs[path] = WatchedRun()
            self._runs.move_to_end(path)
            rows, watched.offset = read_rows(file, watched.offset)
            for row in rows:
                watched.view.add(row)
                if row.get("event") not in ("step", "evaluating"):
                    watched.rows.append(row)
            while len(self._runs) > self._keep:
                self._runs.popitem(last=False)
            return watched


class PreparedCache:
    """The last few datasets as they will be trained on, so that browsing a preview reads nothing again."""

    def __init__(self, keep: int = 2) -> None:
        self._kept: OrderedDict[str, PreparedData] = OrderedDict()
        self._stats: OrderedDict[str, TokenStats] = OrderedDict()
        self._lock = threading.Lock()
        self._keep = keep

    def get(self, config: RunConfig) -> PreparedData:
        """Raises what `prepare_data` raises."""
        from medassist.data import prepare_data

        import_tokenizers()  # datasets looks into transformers where that is loaded, and must not find it half-loaded
        return self._get(self._kept, _data_key(config), lambda: prepare_data(config))

    def stats(self, config: RunConfig, prepared: PreparedData) -> TokenStats:
        """Token figures of prepared data for the run's base; raises what `count_tokens` raises."""
        from medassist.preview import count_tokens

        key = _data_key(config) + json.dumps(config.base.model_dump())
        return self._get(self._stats, key, lambda: count_tokens(config, prepared))

    def _get(self, kept: OrderedDict[str, Any], key: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        made = make()
        with self._lock:
            kept[key] = made
            while len(kept) > self._keep:
                kept.popitem(last=False)
        return made


def _data_key(config: RunConfig) -> str:
    key = json.dumps([[d.model_dump() for d in config.datasets], config.data.model_dump()], default=str)
    return key + "".join(_stamp(d.id) for d in config.datasets)


def _stamp(text: str) -> str:
    """A local file's size and time, so that a changed file is read again."""
    try:
        stat = Path(text).stat()
    except (OSError, ValueError):
        return ""
    return f"|{stat.st_size}:{stat.st_mtime_ns}"


# Held while torch and transformers are imported for the first time: transformers gives its names out one by one, and
# two threads that import it at once find some missing.
LIBRARIES = threading.Lock()


def import_tokenizers() -> None:
    """Imports what a preview needs, alone."""
    with LIBRARIES:
        from transformers import AutoTokenizer  # noqa: F401


@dataclass
class Services:
    """Everything that handlers call."""

    root: Path
    assistant: Assistant
    cancels: Cancels = field(default_factory=Cancels)
    watcher: Watcher = field(default_factory=Watcher)
    prepared: PreparedCache = field(default_factory=PreparedCache)
