"""medassist: fine-tune, compare and talk to a medical assistant."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 — older ones get a sentence instead of a SyntaxError later
    raise SystemExit("medassist needs Python 3.11 or newer; this is " + sys.version.split()[0] + ".")

__version__ = "0.1.0"
