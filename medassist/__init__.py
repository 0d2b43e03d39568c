"""medassist: fine-tune, compare and talk to a medical assistant."""

__version__ = "0.1.0"
