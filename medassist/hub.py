"""Moves runs to and from the Hugging Face Hub, and the project to a Space.

A push uploads the few files that make up an adapter. A pull brings a stranger's adapter: it is staged,
checked, cleaned and only then renamed into the adapters folder. Every failure ends as one sentence in bounded
time: our requests carry a timeout and are never retried. This module knows nothing about training, chat or
the page.

    python -m medassist hub pull OWNER/NAME
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medassist import __version__, adapters, cards, catalog
from medassist.adapters import WEIGHTS, Result, RunInfo
from medassist.config import RunConfig, build_config, to_yaml
from medassist.errors import AdapterError, ConfigError, HubError, MedAssistError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

log = logging.getLogger(__name__)

TIMEOUT_S = 20.0  # for the connection, and for each silence of the server
_SLOWEST = 200_000  # bytes/s that a download must reach on average, after a minute's grace
PULLED = "pulled from the Hub"
# What is published of a run. Logs, progress, checkpoints and owner.json stay at home.
PUBLISHED = ("adapter_config.json", WEIGHTS, "README.md", "run.yaml", "evaluation.json", "loss.csv",
             "loss.png")
# What is fetched of an adapter, and the most bytes of each.
_FETCHED = {"adapter_config.json": 1_000_000, WEIGHTS: 2_000_000_000, "README.md": 1_000_000,
            "run.yaml": 32_000, "evaluation.json": 20_000_000}
_SPACE_FILES = ("app.py", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md")
_SPACE_FOLDERS = ("medassist", "vocab")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_ABSOLUTE = re.compile(r"/|~|\\\\|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_UPLOADING = threading.Lock()


# ---------------------------------------------------------------- ids and tokens

def check_repo_id(text: str) -> str:
    """The id as the Hub takes it: OWNER/NAME.

    Raises:
        HubError: it has another form.
    """
    text = text.strip()
    if not _REPO_ID.fullmatch(text) or "--" in text or ".." in text or text.endswith((".git", ".", "-")) \
            or text.split("/")[0].endswith((".", "-")):
        raise HubError(f"{text!r:.120} is not the id of a Hub repository.",
                       "Write OWNER/NAME with letters, digits, '-', '_' and '.'.")
    return text


def run_name_for(repo_id: str) -> str:
    """The run name that a pulled adapter gets: `owner--name`, cut with a short hash where it is too long."""
    name = repo_id.lower().replace("/", "--")
    if len(name) <= 64:
        return name
    return f"{name[:55].rstrip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def resolve_adapter(text: str, root: Path, *, token: str | None = None, catalogue_only: bool = False) -> str:
    """The run that `text` names: a run in `root`, or an adapter's Hub id, which is pulled on first use.

    Raises:
        AdapterError: no such run, or the Hub's adapter is refused. HubError: it could not be fetched.
    """
    text = text.strip()
    if "/" not in text:
        return adapters.load_run(root, text).name
    name = run_name_for(check_repo_id(text))
    if _is_pulled(root / name, text):
        return name
    return pull_adapter(text, root, token=token, catalogue_only=catalogue_only)


def _find_token(token: str | None) -> str | None:
    """The token given, else HF_TOKEN, else the client's stored login."""
    from huggingface_hub import get_token

    found = (token or os.environ.get("HF_TOKEN") or get_token() or "").strip()
    if found and not re.fullmatch(r"[\x21-\x7e]{1,2000}", found):
        raise HubError("The Hugging Face token holds characters that no token has.", "Copy it again.")
    return found or None


def _need_token(token: str | None) -> str:
    found = _find_token(token)
    if found is None:
        raise HubError("No Hugging Face token was found.",
                       "Set HF_TOKEN to a token with write access, or run `hf auth login`.")
    return found


# ---------------------------------------------------------------- the client, and what its failures mean

class _FaultError(Exception):
    """A request that got no usable answer; the client's own loops do not retry it."""

    def __init__(self, status: int = 0, retry_after_s: int | None = None, timed_out: bool = False) -> None:
        super().__init__(f"status {status}")
        self.status, self.retry_after_s, self.timed_out = status, retry_after_s, timed_out


@cache
def _prepare_client() -> None:
    """Once a process: no telemetry, and a client that lets our requests fail at once.

    The Hub client retries timeouts, 429 and 5xx for minutes, sleeps as long as the server says, and sets no
    timeout on many calls. Requests of other libraries in this process keep their own ways.
    """
    import httpx2
    from huggingface_hub import constants, get_session, set_client_factory

    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    constants.HF_HUB_DISABLE_TELEMETRY = True
    hooks = get_session().event_hooks

    class Client(httpx2.Client):
        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            # Uploads to storage (PUT) carry no name; nothing else in this process puts.
            ours = request.headers.get("user-agent", "").startswith("medassist/") or request.method == "PUT"
            if not ours:
                return super().send(request, **options)
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
            try:
                response = super().send(request, **options)
            except httpx2.TimeoutException:
                raise _FaultError(timed_out=True) from None
            except httpx2.TransportError:
                raise _FaultError from None
            if response.status_code in (408, 429) or response.status_code >= 500 or _is_busy(response):
                response.close()
                raise _FaultError(response.status_code, _retry_after(response.headers))
            return response

    set_client_factory(lambda: Client(event_hooks=hooks, follow_redirects=True, timeout=60))


def _is_busy(response: httpx2.Response) -> bool:
    """The one answer that the client asks again for without end."""
    return response.status_code == 409 and response.is_closed and "conflicting operation" in response.text


def _retry_after(headers: Mapping[str, str]) -> int | None:
    match = re.match(r"\d{1,6}$", headers.get("retry-after", "")) or re.search(r";\s*t=(\d{1,6})",
                                                                             headers.get("ratelimit", ""))
    return int(match[match.lastindex or 0]) if match else None


def _api(token: str | None) -> HfApi:
    from huggingface_hub import HfApi

    _prepare_client()
    return HfApi(endpoint=_endpoint(), token=token or False, library_name="medassist",
                 library_version=__version__)


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now; the client reads it once, at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@contextmanager
def _explained(repo_id: str, token: str | None, *, writing: bool = False) -> Iterator[None]:
    """Turns what the client raises into a HubError. Bugs of ours pass."""
    import httpx2
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except MedAssistError:
        raise
    except (_FaultError, httpx2.HTTPError, HFValidationError, OSError, RuntimeError, ValueError, KeyError,
            TypeError) as error:
        log.debug("the Hub client raised %s", type(error).__name__)
        raise _explain(error, repo_id, token, writing) from None


def _explain(error: BaseException, repo_id: str, token: str | None, writing: bool) -> HubError:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # uploads are wrapped
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return HubError("The Hub is switched off here: HF_HUB_OFFLINE is set.", "Unset it and try again.")
    if isinstance(error, httpx2.TimeoutException) or isinstance(error, _FaultError) and error.timed_out:
        return HubError(f"The Hub did not answer within {TIMEOUT_S:g} seconds.", "Try again later.")
    if isinstance(error, _FaultError) and error.status:
        return _explain_status(error.status, "", repo_id, token, writing, error.retry_after_s)
    if isinstance(error, HfHubHTTPError):
        code = error.response.headers.get("X-Error-Code", "")
        return _explain_status(error.response.status_code, code, repo_id, token, writing)
    if isinstance(error, (_FaultError, httpx2.HTTPError)):
        return HubError("The Hub could not be reached, or the connection broke.",
                        "Check the network and try again; local runs work without it.")
    if isinstance(error, OSError):
        return _explain_disk(error)
    text = str(error)
    if text.startswith("Invalid metadata in README.md"):
        return HubError(f"The Hub refuses the front matter of README.md: {' '.join(text.split()[4:])[:300]}",
                        "Correct README.md and push again.")
    return HubError("The Hub's answer could not be understood.",
                    "Check HF_ENDPOINT and the network, then try again.")


def _explain_disk(error: OSError) -> HubError:
    if error.errno == errno.ENOSPC:
        return HubError("The disk is full.", "Free some space and try again.")
    return HubError(f"A file could not be read or written: {error.strerror or 'unknown reason'}.",
                    "Check the folder and its permissions.")


def _explain_status(status: int, code: str, repo_id: str, token: str | None, writing: bool,
                    retry_after_s: int | None = None) -> HubError:
    """One sentence, and the next step, for an HTTP status and the Hub's X-Error-Code."""
    if code == "GatedRepo":
        return HubError(f"'{repo_id}' is gated: its licence has to be accepted first ({status}).",
                        "Accept it on its page while signed in, then set HF_TOKEN to that account's token.")
    if code == "RevisionNotFound":
        return HubError(f"'{repo_id}' has no such revision ({status}).",
                        "Leave --revision out for the newest.")
    if code == "EntryNotFound":
        return HubError(f"A file is missing in '{repo_id}' ({status}).",
                        "Try again; it may have just been changed.")
    if status == 401 and token and code != "RepoNotFound":
        return HubError("The Hub did not accept the token (401).",
                        "Set HF_TOKEN to a valid token, or run `hf auth login` again.")
    if status in (401, 404):
        return HubError(f"'{repo_id}' does not exist on the Hub, or is private ({status}).",
                        "Check the name." if token else "Check the name; for a private one set HF_TOKEN.")
    if status == 403 and writing:
        return HubError(f"The Hub does not let this token write to '{repo_id}' (403).",
                        "Use a token with write access to that account.")
    if status == 403:
        return HubError(f"The Hub does not let this token read '{repo_id}' (403).",
                        "Ask its owner for access.")
    if status == 429:
        wait = f"in {retry_after_s} seconds" if retry_after_s else "in a few minutes"
        return HubError("The Hub has had too many requests from here (429).", f"Try again {wait}.")
    if status >= 500 or status == 408:
        return HubError(f"The Hub has a problem of its own ({status}).", "Try again later.")
    if status == 402:
        return HubError(f"The Hub asks for a paid plan for '{repo_id}' (402).",
                        "Check the account's billing page.")
    return HubError(f"The Hub refused the request for '{repo_id}' ({status}).",
                    "Check the name and the token's rights.")


# ---------------------------------------------------------------- push

def push_adapter(run: RunInfo, repo_id: str, *, token: str | None = None, private: bool = True) -> str:
    """Uploads a finished run's adapter, card and measurements; returns the address of its repository.

    Raises:
        AdapterError: the run is not finished, does not verify, or must not be published as it is.
        HubError: the Hub refused, or could not be reached.
    """
    repo_id = check_repo_id(repo_id)
    adapters.verify_run(run)
    config = adapters.check_adapter_folder(run.path)
    path = next((v for v in _strings(config) if _ABSOLUTE.match(v)), None)
    if path is not None:
        raise AdapterError(f"adapter_config.json of '{run.name}' holds a path of this machine ({path:.60}).",
                           "Name the base model as the catalogue does, then push again.")
    _check_values(run.path / WEIGHTS, run.name)
    token = _need_token(token)
    with tempfile.TemporaryDirectory(prefix="medassist-push-") as folder:
        _stage_run(run, Path(folder))
        return _upload(Path(folder), repo_id, "model", token, private, f"Upload the adapter {run.name}")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _stage_run(run: RunInfo, folder: Path) -> None:
    """Puts what is published of a run into `folder`. Local datasets are named without their folder, and
    their rows are left out of the evaluation: they may be nobody else's business."""
    for name in PUBLISHED:
        if (run.path / name).is_file():
            _place(run.path / name, folder / name)
    if run.config is None:
        return
    shared = _without_local_paths(run.config)
    if shared != run.config:
        _replace_text(folder / "run.yaml", to_yaml(shared))
        if run.evaluation is not None and "items" in run.evaluation:
            figures = {k: v for k, v in run.evaluation.items() if k != "items"}
            (folder / "evaluation.json").unlink(missing_ok=True)
            adapters.write_json(folder / "evaluation.json", figures)
    if not (folder / "README.md").exists():
        report = adapters.read_json(run.path / "dataset.json")
        card = cards.render_model_card(run.name, shared, run.result, run.evaluation, report)
        _replace_text(folder / "README.md", card)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _replace_text(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a hard link to the run's own file
    path.write_text(text, encoding="utf-8")


def _without_local_paths(config: RunConfig) -> RunConfig:
    """The config with each local dataset and benchmark named by its file alone."""
    datasets = [d.model_copy(update={"id": _without_folder(d.id)}) for d in config.datasets]
    data = config.data.model_copy(update={"benchmarks": [_without_folder(b) for b in config.data.benchmarks]})
    return config.model_copy(update={"datasets": datasets, "data": data})


def _without_folder(dataset_id: str) -> str:
    if cards.is_shared(dataset_id):
        return dataset_id
    name = re.split(r"[/\\]", dataset_id.rstrip("/\\"))[-1] or "local data"
    return "local data" if name in (".", "..") else name


def push_data(folder: Path, repo_id: str, *, token: str | None = None, private: bool = True) -> str:
    """Uploads what `data export` wrote, as a dataset with its card; returns the address of its repository.

    Raises:
        HubError: the folder is no export, holds likely personal data and would be public, or the Hub refused.
    """
    from medassist.data.export import CARD, REPORT
    from medassist.data.shapes import SPLITS

    repo_id = check_repo_id(repo_id)
    report = adapters.read_json(folder / REPORT) if folder.is_dir() else None
    if not isinstance(report, Mapping) or "sha256" not in report or not (folder / CARD).is_file():
        raise HubError(f"{folder} is not a folder that `data export` wrote.",
                       "Export first: python -m medassist data export --dataset … --out FOLDER")
    dropped = any(s.get("name") == "drop_personal_data" and s.get("on") for s in report.get("steps", ()))
    if report.get("personal") and not dropped and not private:
        raise HubError("Rows of this data were flagged for likely personal data, so it is not made public.",
                       "Export again with --set data.clean='[default, drop_personal_data]', or push without --public.")
    token = _need_token(token)
    names = [CARD, REPORT, *(f"{s}.{f}" for s in SPLITS for f in ("parquet", "jsonl", "csv"))]
    with tempfile.TemporaryDirectory(prefix="medassist-push-") as staged:
        for name in names:
            if (folder / name).is_file():
                _place(folder / name, Path(staged) / name)
        return _upload(Path(staged), repo_id, "dataset", token, private, "Upload prepared questions and answers")


def _upload(folder: Path, repo_id: str, repo_type: str, token: str, private: bool, message: str,
            delete_patterns: list[str] | None = None) -> str:
    """Creates the repository where it is missing and makes one commit of the folder."""
    _check_no_secrets(folder, token)
    sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
    with _explained(repo_id, token, writing=True), _plain_uploads():
        api = _api(token)
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **sdk)
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise HubError(f"'{repo_id}' exists already and is public.",
                           "Add --public to publish there, or choose another name.")
        api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type=repo_type, commit_message=message,
                          delete_patterns=delete_patterns)
    return str(url)


@contextmanager
def _plain_uploads() -> Iterator[None]:
    """Uploads over HTTP in one commit: the Xet transfer has retries and timeouts of its own."""
    from huggingface_hub import constants

    with _UPLOADING:
        before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before


def _check_no_secrets(folder: Path, token: str) -> None:
    """The last look at what leaves this machine."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".safetensors"):
        content = path.read_bytes()
        if _SECRET.search(content) or token.encode() in content:
            name = path.relative_to(folder).as_posix()
            raise HubError(f"{name} holds an access token, so nothing was uploaded.",
                           "Take the token out of the file, and revoke it.")


# ---------------------------------------------------------------- pull

def pull_adapter(repo_id: str, root: Path, *, revision: str | None = None, token: str | None = None,
                 catalogue_only: bool = False) -> str:
    """Fetches an adapter into `root` as a finished run; returns the run's name.

    Args:
        revision: branch, tag or commit; None for the newest.
        catalogue_only: let in only adapters of base models in the catalogue; else also of the bases that
            finished runs in `root` already use.

    Raises:
        AdapterError: the adapter is refused. HubError: it could not be fetched.
    """
    repo_id = check_repo_id(repo_id)
    name = run_name_for(repo_id)
    target = adapters.run_path(root, name)
    if target.exists() and not _is_pulled(target):
        raise AdapterError(f"There is a run '{name}' already, and it was not pulled.",
                           "Rename or delete it first.")
    token = _find_token(token)
    staging = root / f".pulling-{name}-{uuid.uuid4().hex[:8]}"
    try:
        with _explained(repo_id, token):
            api = _api(token)
            info = api.model_info(repo_id, revision=revision, files_metadata=True)
            files = _choose_files(info, repo_id)
            if _is_pulled(target, repo_id, (files[WEIGHTS].lfs or {}).get("sha256")):
                return name
            staged = staging / name
            staged.mkdir(parents=True)
            for file, sibling in files.items():
                _download(repo_id, str(info.sha), file, sibling, staged / file, token)
        _accept(staged, repo_id, str(info.sha), root, catalogue_only)
        _into_place(staged, target)
    except OSError as error:
        raise _explain_disk(error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return name


def _is_pulled(path: Path, repo_id: str | None = None, sha256: str | None = None) -> bool:
    """Whether a folder holds a pulled adapter; with a repository given, also whether it is of that one and
    verifies; with a hash given, also whether it is that one."""
    result = adapters.read_result(path)
    if result is None or not result.reason.startswith(PULLED):
        return False
    source = result.reason.removeprefix(f"{PULLED}: ").split(" ")[0]
    if repo_id is not None and source.lower() != repo_id.lower():
        return False
    if sha256 is not None and result.adapter_sha256 != sha256:
        return False
    try:
        adapters.verify_run(adapters.load_run(path.parent, path.name))
    except AdapterError:
        return repo_id is None  # damaged, but ours to replace
    return True


def _choose_files(info: ModelInfo, repo_id: str) -> dict[str, RepoSibling]:
    """The files to fetch. Names are only compared with ours, so that none from outside becomes a path."""
    there = {s.rfilename: s for s in info.siblings or ()}
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise HubError(f"The Hub named no commit of '{repo_id}'.", "Try again later.")
    if "adapter_config.json" not in there:
        raise AdapterError(f"'{repo_id}' holds no LoRA adapter: it has no adapter_config.json.",
                           "Choose a repository with a PEFT adapter.")
    if WEIGHTS not in there:
        pickled = any(n.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) for n in there)
        why = ", only pickled weights, which can run code" if pickled else ""
        raise AdapterError(f"'{repo_id}' has no {WEIGHTS}{why}.",
                           "Weights must be in safetensors format; ask its author for them.")
    files = {name: there[name] for name in _FETCHED if name in there}
    for name, sibling in files.items():
        if (sibling.size or 0) > _FETCHED[name]:
            raise _too_large(repo_id, name)
    return files


def _too_large(repo_id: str, name: str) -> AdapterError:
    return AdapterError(f"{name} in '{repo_id}' is larger than {_FETCHED[name] / 1e6:g} MB.",
                        "Choose another adapter.")


def _download(repo_id: str, commit: str, name: str, sibling: RepoSibling, target: Path,
              token: str | None) -> None:
    """Streams one file to disk, within its limits of size and time, and checks it against the Hub's hash.

    Not the client's own download: it trusts the size that a server states, and asks a silent one for minutes.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    limit, received, digest = _FETCHED[name], 0, hashlib.sha256()
    deadline = time.monotonic() + 3 * TIMEOUT_S + (sibling.size or limit) / _SLOWEST
    headers = build_hf_headers(token=token or False, library_name="medassist", library_version=__version__,
                               headers={"Accept-Encoding": "identity"})
    url = hf_hub_url(repo_id, name, revision=commit, endpoint=_endpoint())
    with get_session().stream("GET", url, headers=headers) as response, target.open("wb") as file:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes(1 << 20):
            received += len(chunk)
            if received > limit:
                raise _too_large(repo_id, name)
            if time.monotonic() > deadline:
                raise HubError(f"The download of {name} is too slow.", "Try again with a better connection.")
            digest.update(chunk)
            file.write(chunk)
    wrong_hash = sibling.lfs is not None and sibling.lfs["sha256"] != digest.hexdigest()
    if wrong_hash or sibling.size not in (None, received):
        raise HubError(f"{name} of '{repo_id}' arrived damaged.", "Try again.")


def _accept(staged: Path, repo_id: str, commit: str, root: Path, catalogue_only: bool) -> None:
    """Checks and cleans a stranger's adapter, and makes a finished run of it; `result.json` comes last."""
    from huggingface_hub import __version__ as client_version

    config = adapters.check_adapter_folder(staged)
    shapes = adapters.lora_shapes(staged / WEIGHTS)
    base = _known_base(config["base_model_name_or_path"], repo_id, root, catalogue_only)
    _check_values(staged / WEIGHTS, repo_id)
    _check_fits(shapes, base, repo_id)
    clean = clean_adapter_config(config, shapes, base, repo_id)
    if clean != config:
        adapters.write_json(staged / "adapter_config.json", clean)
    _settle_run_file(staged, base, clean)
    if adapters.read_json(staged / "evaluation.json") is None:
        (staged / "evaluation.json").unlink(missing_ok=True)
    adapters.write_result(staged, Result(
        "finished", f"{PULLED}: {repo_id} at {commit[:12]}", base=base,
        base_sha256=_base_sha256(staged / "README.md"), adapter_sha256=adapters.file_sha256(staged / WEIGHTS),
        versions={"medassist": __version__, "huggingface_hub": client_version}))


def _known_base(named: str, repo_id: str, root: Path, catalogue_only: bool) -> str:
    """The base as files name it: `mini` or a Hub id.

    Raises:
        AdapterError: it is not known here.
    """
    entry = catalog.find_base(named)
    if entry is not None:
        return entry.id
    if not catalogue_only and catalog.is_hub_id(named) and any(
            r.state == "finished" and r.base == named for r in adapters.list_runs(root)):
        return named
    raise AdapterError(f"'{repo_id}' belongs to a base model that is not known here ({named!r:.100}).",
                       "Choose an adapter of a base model that `list models` shows.")


def _check_values(weights: Path, name: str) -> None:
    """Every value must be a finite number of 16 or 32 bits: others spread through each answer.

    Raises:
        AdapterError: with the matrix that is wrong.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    # A number is not finite where all bits of its exponent are set.
    exponents = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
    try:
        with safe_open(weights, framework="numpy"):  # checks that places, shapes and sizes agree
            pass
    except (SafetensorError, OSError, ValueError):
        raise AdapterError(f"The weights of '{name}' are damaged.",
                           "Weights must be whole safetensors files.") from None
    with weights.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    data = np.memmap(weights, dtype=np.uint8, mode="r", offset=start)
    for key, info in header.items():
        if key == "__metadata__":
            continue
        if info["dtype"] not in exponents:
            raise AdapterError(f"The weights of '{name}' are of type {info['dtype']}, not 16 or 32 bits.",
                               "Choose another adapter.")
        kind, mask = exponents[info["dtype"]]
        bits = data[slice(*info["data_offsets"])].view(kind)
        if np.any((bits & mask) == mask):
            raise AdapterError(f"The weights of '{name}' hold values that are not finite ({key:.100}).",
                               "Choose another adapter, or train it again.")


def _check_fits(shapes: Mapping[str, tuple[list[int], list[int]]], base: str, repo_id: str) -> None:
    """Compares the shapes with the base's, where the base is `mini`; with any other, loading does it."""
    from safetensors import safe_open

    if base != "mini":
        return
    layers: dict[str, list[int]] = {}
    for file in catalog.MINI_DIR.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            names = weights.keys()
            layers |= {n.removesuffix(".weight"): list(weights.get_slice(n).get_shape()) for n in names}
    for module, (a, b) in shapes.items():
        if layers.get(module.removeprefix("base_model.model.")) != [b[0], a[1]]:
            raise AdapterError(f"'{repo_id}' does not fit its base model {base} ({module:.100}).",
                               "It was made for another version of the base; train it again.")


# Settings of a plain LoRA adapter that may stay, and what each must look like. The rest is set or dropped.
_PLAIN_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "fan_in_fan_out": lambda v: isinstance(v, bool),
    "inference_mode": lambda v: isinstance(v, bool),
    "lora_dropout": lambda v: type(v) in (int, float) and 0 <= v < 1,
    "megatron_core": lambda v: v == "megatron.core",
    "peft_version": lambda v: isinstance(v, str) and re.fullmatch(r"[\w.+-]{1,40}", v) is not None,
    "qalora_group_size": lambda v: type(v) is int,
    "revision": lambda v: isinstance(v, str) and re.fullmatch(r"[\w.-]{1,100}", v) is not None,
    "use_rslora": lambda v: isinstance(v, bool),
}
# Variants that change the base, the shapes or the sum: an adapter with one of them is not plain LoRA.
_VARIANTS = ("layer_replication", "target_parameters", "use_qalora", "alora_invocation_tokens", "use_bdlora",
             "arrow_config", "kasa_config", "monteclora_config", "velora_config", "lora_bias",
             "megatron_config")


def clean_adapter_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[list[int], list[int]]],
                         base: str, name: str) -> dict[str, Any]:
    """A stranger's `adapter_config.json` with what PEFT may safely be given: no import, no pattern, no path.

    PEFT imports the module that `auto_mapping` names, and takes layer patterns as regular expressions.

    Raises:
        AdapterError: it is not plain LoRA, or contradicts its weights.
    """
    used = [k for k in _VARIANTS if config.get(k)]
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in ("gaussian", "eva", "orthogonal"):
        used.append(f"init_lora_weights={start:.40}")  # PiSSA and its like change the base's weights
    if used:
        raise AdapterError(f"'{name}' is not a plain LoRA adapter: it uses {', '.join(used)}.",
                           "Only plain LoRA adapters can be used here.")
    clean = {k: v for k, v in config.items() if v is None or v is False or v in ({}, [])
             or k in _PLAIN_SETTINGS and _PLAIN_SETTINGS[k](v)}
    rank, alpha = config.get("r"), config.get("lora_alpha")
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    wanted = {rank, *(ranks.values() if _is_pattern(ranks) else ())}
    if type(rank) is not int or not _is_number(alpha) or not _is_pattern(ranks) or not _is_pattern(alphas) \
            or any(type(r) is not int for r in wanted) or {a[0] for a, _ in shapes.values()} - wanted \
            or max(wanted) > max(a[0] for a, _ in shapes.values()):
        raise AdapterError(f"adapter_config.json of '{name}' does not fit its weights (r, alpha, patterns).",
                           "Choose another adapter.")
    clean |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": base,
              "r": rank, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas,
              "init_lora_weights": True, "target_modules": _target_modules(config, shapes)}
    for key in ("exclude_modules", "layers_to_transform", "layers_pattern", "auto_mapping"):
        if clean.get(key):
            del clean[key]
    return clean


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1e6


def _is_pattern(value: Any) -> bool:
    """Layer name → number, with names that mean only themselves as a regular expression."""
    return isinstance(value, dict) and len(value) <= 2_000 and all(
        re.fullmatch(r"[\w.]{1,200}", k) and _is_number(v) for k, v in value.items())


def _target_modules(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> list[str] | str:
    """The layer names as given, where they are plain names; else the very layers that the weights are for."""
    given = config.get("target_modules")
    narrowed = any(config.get(k) for k in ("exclude_modules", "layers_to_transform", "layers_pattern"))
    if not narrowed and isinstance(given, list) and 0 < len(given) <= 2_000 \
            and all(isinstance(n, str) and re.fullmatch(r"[\w.]{1,200}", n) for n in given):
        return given
    return sorted(m.removeprefix("base_model.model.") for m in shapes)


def _settle_run_file(staged: Path, base: str, adapter: Mapping[str, Any]) -> None:
    """Keeps a `run.yaml` that is valid, with its base and datasets named safely; else writes one."""
    path = staged / "run.yaml"
    config = _read_foreign_config(path)
    if config is None:
        dropout = adapter.get("lora_dropout") or 0.0
        lora = {"r": adapter["r"], "alpha": adapter["lora_alpha"], "dropout": dropout}
        try:
            config = build_config({"name": staged.name, "base": {"id": base}, "lora": lora})
        except ConfigError:  # an unusual rank or alpha: the adapter's own config says it
            config = build_config({"name": staged.name, "base": {"id": base}})
        return _replace_text(path, to_yaml(config))
    known = _without_local_paths(config)
    entry = catalog.find_base(config.base.id)
    if (entry.id if entry else config.base.id) != base:
        named = config.base.model_copy(update={"id": base, "revision": None})
        known = known.model_copy(update={"base": named})
    if known != config:
        _replace_text(path, to_yaml(known))
    return None


def _read_foreign_config(path: Path) -> RunConfig | None:
    """A stranger's run.yaml, or None where it is missing or not valid.

    Not valid are aliases, which can unfold to any size, and deep brackets, which take the reader minutes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        deep = text.count("[") + text.count("{") > 200
        if deep or any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return None
        tree = yaml.safe_load(text)
        return build_config(tree) if isinstance(tree, dict) else None
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError, ConfigError):
        return None


def _base_sha256(card: Path) -> str:
    """The hash of the base's weights that a card of ours states; empty where it states none."""
    try:
        head = card.read_text(encoding="utf-8")[:8_000]
    except (OSError, ValueError):
        card.unlink(missing_ok=True)  # not text
        return ""
    match = re.search(r"^base_sha256: '?([0-9a-f]{64})'?$", head, re.MULTILINE)
    return match[1] if match else ""


def _into_place(staged: Path, target: Path) -> None:
    """Renames a staged run to its place; an older pull of it goes to the staging folder, which is deleted."""
    old = staged.parent / ".old"
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(staged, target)
    except OSError:
        if old.exists() and not target.exists():
            os.replace(old, target)
        if not _is_pulled(target):  # else another pull was faster
            raise


# ---------------------------------------------------------------- deploy

def deploy_space(repo_id: str, project_root: Path, *, token: str | None = None, private: bool = True) -> str:
    """Puts the project up as a Gradio Space; returns its address.

    Goes up: app.py, the package, the vocabulary, the starter adapter, requirements and the texts; no more.
    A second deploy also takes away what is no longer in the package.

    Raises:
        HubError: a file is missing, the Hub refused, or could not be reached.
    """
    repo_id = check_repo_id(repo_id)
    files = _space_files(project_root)
    missing = [n for n in ("app.py", "requirements.txt", "README.md") if n not in files]
    if missing or not any(f.startswith("medassist/") for f in files):
        raise HubError(f"The project's folder is not whole: there is no {(missing or ['medassist/'])[0]}.",
                       "Deploy from a clone of the project.")
    head = re.match(r"---\n(.*?)\n---\n", (project_root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if head is None or not re.search(r"^sdk: *gradio *$", head[1], re.MULTILINE):
        raise HubError("README.md does not begin with a Space's front matter (sdk: gradio).",
                       "Restore README.md from the project.")
    token = _need_token(token)
    with tempfile.TemporaryDirectory(prefix="medassist-deploy-") as folder:
        for name, source in files.items():
            _place(source, Path(folder) / name)
        return _upload(Path(folder), repo_id, "space", token, private, f"Deploy medassist {__version__}",
                       delete_patterns=[f"{f}/*" for f in _SPACE_FOLDERS])


def _space_files(root: Path) -> dict[str, Path]:
    """What a Space needs: path in the repository → file. Hidden files, caches and links stay here."""
    found = {name: root / name for name in _SPACE_FILES}
    for folder in _SPACE_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
            if not hidden and path.suffix not in (".pyc", ".pyo", ".log"):
                found[name] = path
    starter = root / "adapters" / "starter"
    found |= {f"adapters/starter/{n}": starter / n for n in (*PUBLISHED, "result.json", "dataset.json")}
    return {name: path for name, path in found.items() if path.is_file() and not path.is_symlink()}


# ---------------------------------------------------------------- command line

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `push`, `push-data`, `pull` and `deploy` to the parser of `python -m medassist hub`."""
    actions = parser.add_subparsers(dest="hub_action", required=True, metavar="push|push-data|pull|deploy")
    push = actions.add_parser("push", help="upload a finished run's adapter")
    push.add_argument("run_name", metavar="RUN", help="a finished run, as `list adapters` shows it")
    data = actions.add_parser("push-data", help="upload what `data export` wrote, as a dataset")
    data.add_argument("folder", metavar="FOLDER", type=Path, help="the folder given to `data export --out`")
    pull = actions.add_parser("pull", help="fetch an adapter into the adapters folder")
    deploy = actions.add_parser("deploy", help="put the app up as a Space")
    for action, kind in ((push, "repository"), (data, "dataset"), (pull, "repository"), (deploy, "Space")):
        action.add_argument("repo", metavar="OWNER/NAME", help=f"the {kind} on the Hub")
        action.add_argument("--json", action="store_true", help="print one JSON object")
    for action in (push, data, deploy):
        action.add_argument("--public", action="store_true", help="visible to everybody (default: private)")
    pull.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the newest)")


def main(args: argparse.Namespace) -> int:
    """Runs `hub push|push-data|pull|deploy`. What goes wrong is raised as a MedAssistError, for the caller to show."""
    root = adapters.adapters_root()
    if args.hub_action == "push":
        url = push_adapter(adapters.load_run(root, args.run_name), args.repo, private=not args.public)
        row = {"run": args.run_name, "url": url, "private": not args.public}
        text = f"Pushed '{args.run_name}' to {url}"
    elif args.hub_action == "push-data":
        url = push_data(args.folder, args.repo, private=not args.public)
        row, text = {"url": url, "private": not args.public}, f"Pushed the data to {url}"
    elif args.hub_action == "pull":
        name = pull_adapter(args.repo, root, revision=args.revision)
        row = {"run": name, "base": adapters.load_run(root, name).base}
        text = f"Pulled as '{name}'. Try it: python -m medassist chat --adapter {name}"
    else:
        url = deploy_space(args.repo, Path(__file__).resolve().parents[1], private=not args.public)
        row, text = {"url": url, "private": not args.public}, f"Deployed to {url}"
    print(json.dumps({"action": args.hub_action, "repo": args.repo, **row}) if args.json else text)
    return 0
