"""Local paths in a run's settings: found from where the command stands, written so that no file holds an absolute one.

    PROJECT / "adapters"

Knows nothing of what lies at the paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from medassist import catalog
from medassist.config import RunConfig

PROJECT = Path(__file__).resolve().parents[1]


def local_path(text: str) -> Path | None:
    """A file or folder by its path, from where the command stands or from the project's folder."""
    for start in (Path.cwd(), PROJECT):
        try:
            path = (start / Path(text).expanduser()).resolve()
            if path.exists():
                return path
        except (OSError, ValueError, RuntimeError):
            return None
    return None


def portable(text: str) -> str:
    """A path as files may carry it: relative to the project's folder, never absolute. Other names stay."""
    if catalog.find_base(text) is not None or catalog.find_dataset(text) is not None:
        return text
    path = local_path(text)
    return text if path is None else os.path.relpath(path, PROJECT)


def localize(config: RunConfig) -> RunConfig:
    """The config with local paths made relative to the project's folder, as a run folder carries it."""
    base = config.base.model_copy(update={"id": portable(config.base.id)})
    return _with_paths(config, portable).model_copy(update={"base": base})


def resolvable(config: RunConfig) -> RunConfig:
    """The config with dataset paths as this process finds them, the inverse of `localize`."""
    def place(text: str) -> str:
        if catalog.find_dataset(text) is not None:
            return text
        found = local_path(text)
        return str(found) if found is not None else text

    return _with_paths(config, place)


def _with_paths(config: RunConfig, change: Callable[[str], str]) -> RunConfig:
    """The config with the names of its datasets and benchmarks changed."""
    datasets = [d.model_copy(update={"id": change(d.id)}) for d in config.datasets]
    data = config.data.model_copy(update={"benchmarks": [change(b) for b in config.data.benchmarks]})
    return config.model_copy(update={"datasets": datasets, "data": data})
