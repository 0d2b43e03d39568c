"""What a file uploaded through the page may be: CSV, TSV, JSON or JSONL within small limits.

It reads the file where it lies and writes nothing; taking the file away is the page's work.

    python -c "from medassist.data import load_upload; print(len(load_upload('flashcards.csv')))"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medassist.data.textfiles import UPLOAD_LIMITS, file_name, read_text_file
from medassist.errors import DataError


def load_upload(path: str | Path) -> list[dict[str, Any]]:
    """The rows of an uploaded file.

    Raises:
        DataError: one sentence on why it is not taken.
    """
    path = Path(path)
    if path.suffix.lower() in (".parquet", ".xlsx", ".xml"):
        raise DataError(f"{file_name(path)} is not taken as an upload: only CSV, TSV, JSON and JSONL are.",
                        "Save it as CSV or JSONL, or give its path on the command line.")
    if not path.is_file():
        raise DataError("The uploaded file is gone.", "Upload it again.")
    return read_text_file(path, UPLOAD_LIMITS)
