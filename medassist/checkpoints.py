"""Checkpoints that can be trusted: staged, hashed and renamed into place; the newest that verifies is resumed.

transformers writes its checkpoint-N in place and would resume from a torn one. Here it writes into a
staging folder; `seal` hashes every file, writes the manifest and renames the folder, so that a
checkpoint is whole or is not there. This module knows nothing about models.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

MANIFEST = "manifest.json"
STAGING = ".staging"
_LEFT_OUT = ("training_args.bin", "README.md")  # the first holds the Hub token in clear


def seal(staged: Path, checkpoints: Path, step: int, *, keep: int = 2) -> Path:
    """Turns a staged folder into `step-N` and drops all but the newest `keep`.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing that was sealed is lost.
    """
    for name in _LEFT_OUT:
        (staged / name).unlink(missing_ok=True)
    files = {str(p.relative_to(staged)): _digest(p) for p in sorted(staged.rglob("*")) if p.is_file()}
    with (staged / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"step": step, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    place = checkpoints / f"step-{step}"
    if place.exists():
        shutil.rmtree(place)
    os.replace(staged, place)
    for old in _steps(checkpoints)[keep:]:
        shutil.rmtree(checkpoints / f"step-{old}", ignore_errors=True)
    return place


def newest_valid(checkpoints: Path) -> tuple[Path, int] | None:
    """The newest checkpoint whose every file has the hash it was sealed with, and its step."""
    for step in _steps(checkpoints):
        place = checkpoints / f"step-{step}"
        if _verifies(place, step):
            return place, step
    return None


def clear_staging(checkpoints: Path) -> None:
    """Removes what a crash left half-written."""
    shutil.rmtree(checkpoints / STAGING, ignore_errors=True)


def _verifies(place: Path, step: int) -> bool:
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        return manifest["step"] == step and bool(files) and all(
            _digest(place / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _steps(checkpoints: Path) -> list[int]:
    """Steps of the sealed checkpoints, newest first."""
    if not checkpoints.is_dir():
        return []
    names = [p.name.removeprefix("step-") for p in checkpoints.iterdir() if p.name.startswith("step-")]
    return sorted((int(n) for n in names if n.isdigit()), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
