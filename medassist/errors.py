"""The only errors that a user of medassist is shown.

    MedAssistError
    ├── UsageError        a command line or a request that asks for something that does not exist
    ├── ConfigError       one or several problems of a run's settings, reported together
    ├── DataError         a dataset that cannot be read, mapped or used
    │   └── ColumnsError  which column is which could not be found out; it names the columns
    ├── ModelError        a base model that cannot be found, fetched or loaded
    ├── AdapterError      a run folder or adapter that is missing, damaged or does not fit
    ├── VocabularyError   the gate's vocabulary or the red-flag list is missing or damaged
    ├── JobError          a training that cannot be started, stopped or resumed now
    ├── TrainingError     a training that ended without a result that can be used
    ├── HubError          the Hugging Face Hub refused, or could not be reached
    └── ClosedError       an action that is closed to this visitor (a public Space)

Each carries one sentence that says what is wrong and one that says what to do next.
Whatever else is raised is a bug of ours and is logged with its traceback.
This module knows nothing about any other.
"""

from __future__ import annotations

from collections.abc import Sequence


class MedAssistError(Exception):
    """Something a user can cause or must know, told in plain words.

    Args:
        message: what is wrong, one sentence, naming the option or file and its value.
        next_step: what to do about it, one sentence. May be empty where the message says it all.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        self.message = message.strip()
        self.next_step = next_step.strip()
        super().__init__(f"{self.message} {self.next_step}".strip())


class UsageError(MedAssistError):
    """A request for something that does not exist, such as an unknown name."""


class ConfigError(MedAssistError):
    """A run's settings are wrong; `problems` holds every problem found, one sentence each."""

    def __init__(self, problems: list[str], next_step: str = "") -> None:
        self.problems = list(problems)
        super().__init__(" ".join(self.problems), next_step)


class DataError(MedAssistError):
    """A dataset cannot be read, mapped or used."""


class ColumnsError(DataError):
    """Which column holds what could not be found out; `columns` are those to choose from."""

    def __init__(self, message: str, next_step: str = "", columns: Sequence[str] = ()) -> None:
        self.columns = tuple(columns)
        super().__init__(message, next_step)


class ModelError(MedAssistError):
    """A base model cannot be found, fetched or loaded."""


class AdapterError(MedAssistError):
    """A run folder or adapter is missing, damaged, or does not fit its base model."""


class VocabularyError(MedAssistError):
    """The gate's vocabulary or the red-flag list is missing or damaged."""


class JobError(MedAssistError):
    """A training cannot be started, stopped, resumed or deleted now."""


class TrainingError(MedAssistError):
    """A training ended without a usable result."""


class HubError(MedAssistError):
    """The Hugging Face Hub refused a request or could not be reached."""


class ClosedError(MedAssistError):
    """The action is closed to this visitor."""
