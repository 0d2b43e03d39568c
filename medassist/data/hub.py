"""Datasets of the Hugging Face Hub: `fetch`, with each way it can fail told in one sentence.

The Hub is asked first, with a short time limit, so that a missing network, an unknown id and a gated set show
within seconds. No code of a dataset's repository is run and no pickle is opened: only the builders for plain
tables are let through, and only on files of the repository itself. A large one is read as a stream where only
its first rows are wanted. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are read by the client. Knows nothing of
columns.

    python -m medassist data preview --dataset medalpaca/medical_meadow_medical_flashcards
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from medassist.catalog import plain
from medassist.config import DatasetConfig
from medassist.data.tablefiles import rows_of_batch
from medassist.data.textfiles import LOCAL_LIMITS, check_row
from medassist.errors import DataError

_TIMEOUT_S = 10
_STREAM_BYTES = 500_000_000  # from here on `auto` streams, where it can
_BATCH_ROWS = 1024
_STREAM_BATCH_ROWS = 100
_BUILDERS = {"parquet", "csv", "json", "arrow", "text", "cache"}  # cache: prepared by one of these before
_OFFLINE_STEP = ("Check the network, give a local file instead, or set HF_HUB_OFFLINE=1 to use a copy "
                 "fetched before.")


@dataclass(frozen=True)
class Fetched:
    """A dataset's splits under their own names, ready to be read."""

    splits: Mapping[str, Callable[[], Iterator[dict[str, Any]]]]
    licence: str  # as its card states it; "" if it does not
    fingerprint: str
    streams: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _About:
    """What the Hub says of a dataset."""

    licence: str = ""
    sha: str = ""
    sizes: Mapping[str, int] | None = None  # path in the repository → bytes; None offline


def fetch(hub_id: str, subset: str | None, dataset: DatasetConfig) -> Fetched:
    """The dataset's splits, or the one that `dataset.split` names.

    Raises:
        DataError: no network, no such dataset, revision, subset or split, gated, or not a plain table.
    """
    import datasets
    import huggingface_hub.constants

    offline = huggingface_hub.constants.is_offline_mode()
    about = _About() if offline else _ask(hub_id, dataset.revision)
    told = partial(_told, hub_id=hub_id, subset=subset, revision=dataset.revision)
    try:
        # With the prefix a local folder of the same name is not taken for it.
        builder = datasets.load_dataset_builder(f"hf://datasets/{hub_id}", subset, revision=dataset.revision)
        _check_builder(builder, hub_id)
        files = {str(split): [str(f) for f in named] for split, named in (builder.config.data_files or {}).items()}
        if files:  # before anything is fetched; a copy from the cache names its splits only when it is opened
            check_split(dataset.split, files, hub_id)
        streams, notes = _choose_way(dataset, files, about)
        parts = _open_stream(builder) if streams else _open_copy(builder)
    except DataError:
        raise
    except Exception as error:
        # datasets raises a dozen types for these, several of them bare ValueError.
        raise told(error) from error
    check_split(dataset.split, parts, hub_id)
    chosen = {name: part for name, part in parts.items() if dataset.split in (None, name)}
    rows = {name: partial(_rows, part, _STREAM_BATCH_ROWS if streams else _BATCH_ROWS, hub_id, told)
            for name, part in chosen.items()}
    known_by = [f"{name}:{about.sha if streams else part._fingerprint}" for name, part in chosen.items()]
    digest = hashlib.blake2b("\n".join([hub_id, subset or "", *known_by]).encode(), digest_size=32)
    return Fetched(rows, about.licence, digest.hexdigest(), streams, notes)


def _choose_way(dataset: DatasetConfig, files: Mapping[str, list[str]], about: _About) -> tuple[bool, tuple[str, ...]]:
    """Whether to stream, and what to say of it. A row limit is shared out over several splits by their sizes,
    which only a whole copy shows; so `auto` streams where one split is read."""
    if dataset.streaming == "off":
        return False, ()
    if about.sizes is None or not files:
        return False, ("read from the local copy, since HF_HUB_OFFLINE is set.",) if dataset.streaming == "on" else ()
    chosen = files if dataset.split is None else {dataset.split: files[dataset.split]}
    size = sum(about.sizes.get(_path_in_repository(file), 0) for named in chosen.values() for file in named)
    if dataset.streaming == "on":
        several = len(chosen) > 1 and dataset.max_rows is not None
        return True, ("read as a stream, as far as needed" + (", one split after the other." if several else "."),)
    if size <= _STREAM_BYTES or dataset.max_rows is None or dataset.select != "first":
        return False, ()
    if len(chosen) > 1:
        return False, (f"all of its {size / 1e9:.1f} GB were fetched, since it has several splits; choose one "
                       "(datasets.0.split), or set streaming to on, to read only the first rows.",)
    return True, (f"read as a stream, as far as needed, since it has {size / 1e9:.1f} GB.",)


def _path_in_repository(file: str) -> str:
    """`hf://datasets/owner/name@commit/data/x.csv` → `data/x.csv`."""
    return file.partition("@")[2].partition("/")[2]


def _open_copy(builder: Any) -> dict[str, Any]:
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def _open_stream(builder: Any) -> dict[str, Any]:
    import datasets.config

    # The library would try a dead connection twenty times, five seconds apart.
    datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1
    return dict(builder.as_streaming_dataset())


def _rows(part: Any, batch_rows: int, hub_id: str, told: Callable[[Exception], DataError]) -> Generator[dict[str, Any]]:
    """The rows of a Dataset or IterableDataset, batch by batch as Arrow."""
    count = 0
    try:
        for table in part.with_format("arrow").iter(batch_size=batch_rows):
            for batch in table.to_batches():
                for row in rows_of_batch(batch, hub_id):
                    count += 1
                    yield check_row(row, count, hub_id, LOCAL_LIMITS)
    except DataError:
        raise
    except Exception as error:
        raise told(error) from error


def check_split(split: str | None, names: Mapping[str, Any], title: str) -> None:
    """Raises:
        DataError: a split was named that is not there.
    """
    if split is not None and split not in names:
        listed = ", ".join(plain(name, 40) for name in list(names)[:20] if name)
        raise DataError(f"{title} has no split '{plain(split, 60)}'; it has {'these: ' + listed if listed else 'none'}.",
                        "Set datasets.0.split to one of them, or leave it out for all.")


def _ask(hub_id: str, revision: str | None) -> _About:
    """Ask the Hub whether the dataset is there, under which licence, and how large."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(hub_id, revision=revision, timeout=_TIMEOUT_S, files_metadata=True)
    except Exception as error:
        raise _told(error, hub_id, None, revision) from error
    licence = (info.card_data or {}).get("license") or ""
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return _About(plain(licence, 200), info.sha or "", {s.rfilename: s.size or 0 for s in info.siblings or []})


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
