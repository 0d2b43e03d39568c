"""Datasets that came through the page: checked, given a name of ours, kept beside the runs.

They stay for as long as the adapters folder does, because a run must be able to go on after a restart.
Knows nothing of widgets.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from medassist.data import load_upload
from medassist.errors import DataError

FOLDER = ".uploads"
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
MAX_KEPT = 50


def keep_upload(root: Path, uploaded: Path) -> Path:
    """Checks an uploaded file and moves it to its place; a refused one is removed.

    Raises:
        DataError: one sentence on why it is not taken.
    """
    try:
        suffix = uploaded.suffix.lower()
        if suffix not in SUFFIXES:
            raise DataError(
                f"A file of the kind '{suffix[:12] or 'without ending'}' is not taken here.",
                "Upload CSV, TSV, JSON or JSONL; give other files by their local path.",
            )
        load_upload(uploaded)
        slug = re.sub(r"[^a-z0-9]+", "-", uploaded.stem.lower()[:60]).strip("-")[:32] or "data"
        with uploaded.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{slug}-{digest}{suffix}"
        if not target.exists() and len(list(folder.iterdir())) >= MAX_KEPT:
            raise DataError(f"{MAX_KEPT} uploaded files are kept already.", f"Delete some in adapters/{FOLDER}.")
        shutil.copyfile(uploaded, target)
        return target
    finally:
        uploaded.unlink(missing_ok=True)


def list_uploads(root: Path) -> list[Path]:
    """The files that were uploaded, newest first."""
    folder = root / FOLDER
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES]
    return sorted(found, key=lambda p: -p.stat().st_mtime)
