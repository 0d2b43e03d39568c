"""Who may do what: on a public Space strangers chat and compare, and nothing that trains, writes or deletes.

A Space is told by the platform's `SPACE_ID`; its owner opens the rest with the Space variable
`MEDASSIST_OPEN=1` (meant for a private or duplicated Space). Handlers ask here themselves, because a
hidden button protects nothing.
"""

from __future__ import annotations

import os

from medassist.errors import ClosedError


def is_public() -> bool:
    """Whether this runs on a Space that its owner has not opened."""
    return bool(os.environ.get("SPACE_ID")) and os.environ.get("MEDASSIST_OPEN", "").lower() not in ("1", "true", "yes")


def require_open(action: str) -> None:
    """Lets the owner's own machine and opened Spaces pass.

    Raises:
        ClosedError: on a public Space.
    """
    if is_public():
        raise ClosedError(f"{action} is closed on this public Space.",
                          "Duplicate the Space and set the variable MEDASSIST_OPEN=1, or run medassist on your machine.")
