"""Datasets of the Hugging Face Hub: `fetch`, with each way it can fail told in one sentence.

The Hub is asked first, with a short time limit, so that a missing network, an unknown id and a gated set show
within seconds. No code of a dataset's repository is run and no pickle is opened: only the builders for plain
tables are let through, and only on files of the repository itself. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
are read by the client. Knows nothing of columns.

    python -m medassist data preview --dataset medalpaca/medical_meadow_medical_flashcards
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medassist.errors import DataError

_TIMEOUT_S = 10
_BUILDERS = {"parquet", "csv", "json", "arrow", "text", "cache"}  # cache: prepared by one of these before
_OFFLINE_STEP = ("Check the network, give a local file instead, or set HF_HUB_OFFLINE=1 to use a copy "
                 "fetched before.")


def fetch(hub_id: str, subset: str | None, revision: str | None) -> tuple[Any, str]:
    """The dataset's splits, and its licence as its card states it ("" if it does not).

    Raises:
        DataError: no network, no such dataset, revision or subset, gated, or not a plain table.
    """
    import datasets
    import huggingface_hub.constants

    licence = ""
    if not huggingface_hub.constants.is_offline_mode():
        licence = _ask(hub_id, revision)
    try:
        # With the prefix a local folder of the same name is not taken for it.
        builder = datasets.load_dataset_builder(f"hf://datasets/{hub_id}", subset, revision=revision)
        _check_builder(builder, hub_id)
        builder.download_and_prepare()
        return builder.as_dataset(), licence
    except DataError:
        raise
    except Exception as error:
        # datasets raises a dozen types for these, several of them bare ValueError.
        raise _told(error, hub_id, subset, revision) from error


def _ask(hub_id: str, revision: str | None) -> str:
    """Ask the Hub whether the dataset is there; returns its licence."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(hub_id, revision=revision, timeout=_TIMEOUT_S)
    except Exception as error:
        raise _told(error, hub_id, None, revision) from error
    licence = (info.card_data or {}).get("license") or ""
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)


def _check_builder(builder: Any, hub_id: str) -> None:
    """Refuse builders for other than tables, and cards that point outside their own repository."""
    kind = type(builder).__module__.rsplit(".", 1)[-1]
    if kind not in _BUILDERS:
        raise DataError(f"The dataset {hub_id} is not a table of text (it is of the kind '{kind}').",
                        "Choose a dataset with Parquet, CSV or JSON files.")
    files = getattr(builder.config, "data_files", None) or {}
    own = f"hf://datasets/{hub_id}@".lower()
    outside = [f for split in files.values() for f in split if not str(f).lower().startswith(own)]
    if outside:
        raise _outside(hub_id)


def _outside(hub_id: str) -> DataError:
    return DataError(f"The dataset {hub_id} names files outside its own repository.",
                     "Download what you need by hand and give the file.")


def _told(error: Exception, hub_id: str, subset: str | None, revision: str | None) -> DataError:
    """The one sentence for what went wrong, from the chain of exceptions."""
    chain = list(_chain(error))
    names = {type(e).__name__ for e in chain}
    page = f"https://huggingface.co/datasets/{hub_id}"
    text = " ".join(str(e) for e in chain).lower()
    status = next((e.response.status_code for e in chain if getattr(e, "response", None) is not None), None)
    if "GatedRepoError" in names or "gated dataset" in text or status == 403:
        return DataError(f"The dataset {hub_id} is gated: the Hub gives it to those who accepted its terms.",
                         f"Accept them at {page} and set HF_TOKEN to your token.")
    if "RevisionNotFoundError" in names or (revision and "revision" in text and "exist" in text):
        return DataError(f"The dataset {hub_id} has no revision '{revision}'.",
                         "Leave it out for the newest.")
    if "RepositoryNotFoundError" in names or status in (401, 404) or "doesn't exist on the hub" in text:
        return DataError(f"The Hub has no dataset {hub_id}, or it is private.",
                         "Check the spelling; for a private one set HF_TOKEN to your token.")
    if "OfflineModeIsEnabled" in names or "offline" in text:
        return DataError(f"The dataset {hub_id} is not in the local cache, and HF_HUB_OFFLINE is set.",
                         "Unset HF_HUB_OFFLINE to fetch it, or give a local file instead.")
    if status is not None:
        return DataError(f"The Hub answered with status {status} for the dataset {hub_id}.",
                         "Try again in a few minutes." if status == 429 or status >= 500 else _OFFLINE_STEP)
    if any("Connect" in n or "Timeout" in n or "NetworkError" in n or "ProtocolError" in n for n in names):
        return DataError(f"The Hub could not be reached for the dataset {hub_id}.", _OFFLINE_STEP)
    if "data files don't belong" in text:
        return _outside(hub_id)
    if "config name is missing" in text or ("builderconfig" in text and "not found" in text):
        return DataError(f"The dataset {hub_id} has no subset '{subset}'." if subset
                         else f"The dataset {hub_id} has several subsets, and none was chosen.",
                         f"Set datasets.0.subset; they are listed at {page}.")
    if "scripts are no longer supported" in text:
        return DataError(f"The dataset {hub_id} needs code of its own to be read, which is never run here.",
                         "Look for a copy of it in Parquet.")
    if names & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return DataError(f"The dataset {hub_id} holds no files that can be read as a table.",
                         "Choose a dataset with Parquet, CSV or JSON files.")
    if "No space left" in str(error):
        return DataError(f"The disk is full: the dataset {hub_id} could not be stored.",
                         "Make room and try again.")
    return DataError(f"The dataset {hub_id} could not be read as a table.",
                     f"Look at {page}; give a file of it by its local path if you can.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 20:
        yield error
        seen += 1
        error = error.__cause__ or error.__context__
