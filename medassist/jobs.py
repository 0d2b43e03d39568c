"""Trainings as processes of their own: started, watched, stopped, resumed and deleted; one at a time.

The page and the command line talk to a training through its folder only, so a closed tab, a reload or
a crash of the page's server does not touch it. At start `reconcile` finds what was left behind.
Knows nothing about models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from medassist import adapters, catalog, lock
from medassist.config import HUB_ID, RunConfig, to_yaml
from medassist.errors import AdapterError, JobError
from medassist.paths import PROJECT, localize
from medassist.progress import ProgressWriter, Result, load_view

log = logging.getLogger(__name__)

STOP_FILE = "stop"
STOP_GRACE_S = 90.0  # for the step in hand and its checkpoint
TERM_GRACE_S = 15.0
# What a training process gets of the server's environment; tokens only where the Hub is needed.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "VIRTUAL_ENV",
              "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "OMP_NUM_THREADS", "HF_HOME",
              "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE",
              "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
              "https_proxy", "no_proxy", "MEDASSIST_ADAPTERS", "MEDASSIST_CACHE", "XDG_CACHE_HOME", "SPACE_ID",
              "MEDASSIST_OPEN")
_KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else -9

_starting = threading.Lock()


def create_run(root: Path, config: RunConfig) -> tuple[RunConfig, Path]:
    """Makes the folder of a new run with its `run.yaml`; paths in it are relative to the project.

    Raises:
        JobError: there is a run of that name already.
    """
    name = config.name or adapters.new_run_name(root, config)
    folder = adapters.run_path(root, name)
    config = localize(config).model_copy(update={"name": name})
    root.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise JobError(f"There is a run '{name}' already.", "Choose another name, or resume or delete that run.") from None
    lock.write_owner(folder / "owner.json", lock.this_process(name))
    (folder / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    return config, folder


def prepare_resume(root: Path, name: str) -> tuple[RunConfig, Path]:
    """The config and folder of a run that can be resumed.

    Raises:
        AdapterError: there is no such run, or its run.yaml cannot be read. JobError: it runs or is finished.
    """
    run = adapters.load_run(root, name)
    if adapters.is_running(run.path):
        raise JobError(f"'{name}' is running.", "Wait for it to end.")
    if run.state == "finished":
        raise JobError(f"'{name}' is finished; there is nothing to resume.", "Start a new run from its settings.")
    if run.config is None:
        raise AdapterError(f"The run.yaml of '{name}' cannot be read.", "Start a new run.")
    (run.path / STOP_FILE).unlink(missing_ok=True)  # what was asked of an earlier part is done
    return run.config, run.path


def start(root: Path, config: RunConfig) -> str:
    """Starts a training in a process of its own and returns the run's name at once.

    Raises:
        JobError: a training is going on, or there is a run of that name.
    """
    with _starting:
        _refuse_if_busy(root)
        config, folder = create_run(root, config)
        try:
            _launch(folder, config, resume=False)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder.name


def resume(root: Path, name: str) -> str:
    """Goes on with a run that was stopped, failed or was killed.

    Raises:
        AdapterError, JobError: there is no such run, it runs, is finished, or another one is going on.
    """
    with _starting:
        _refuse_if_busy(root)
        config, folder = prepare_resume(root, name)
        (folder / "result.json").unlink(missing_ok=True)
        lock.write_owner(folder / "owner.json", lock.this_process(name))
        _launch(folder, config, resume=True)
    return name


def running(root: Path) -> str | None:
    """The name of the run that is going on, or None."""
    owner = lock.current_owner(root)
    if owner is not None and owner.run:
        return owner.run
    return next((r.name for r in adapters.list_runs(root) if adapters.is_running(r.path)), None)


def stop(root: Path, name: str) -> None:
    """Asks a run to save and end; if it does not, it is made to. Asking twice is asking once.

    Raises:
        AdapterError: there is no such run. JobError: it is not running.
    """
    run = adapters.load_run(root, name)
    owner = lock.read_owner(run.path / "owner.json")
    if owner is None or not owner.is_alive():
        raise JobError(f"'{name}' is not running.", "Resume it, or start a new run.")
    flag = run.path / STOP_FILE
    if flag.exists():
        return
    flag.touch()
    threading.Thread(target=_make_stop, args=(owner,), daemon=True, name=f"stop-{name}").start()


def delete(root: Path, name: str) -> None:
    """Deletes a run that is not running. See `adapters.delete_run`."""
    adapters.delete_run(root, name)


def reconcile(root: Path) -> list[str]:
    """Marks runs whose process is gone as failed and clears half-written rests; returns the runs' names."""
    found = []
    for run in adapters.list_runs(root):
        if run.state == "interrupted":
            _mark_killed(run.path, "The training process ended without a result: it was killed, or the machine was "
                                   "restarted.")
            found.append(run.name)
    if root.is_dir():
        for rest in root.glob(".deleted-*"):
            shutil.rmtree(rest, ignore_errors=True)
    return found


def _refuse_if_busy(root: Path) -> None:
    if running(root) is not None:
        raise lock.busy(root)


def command(folder: Path, resume: bool) -> list[str]:
    """The command line of a training process; through `accelerate launch` where there are several GPUs."""
    python = [sys.executable, "-m"]
    gpus = _gpu_count()
    if gpus > 1:
        python += ["accelerate.commands.launch", "--num_processes", str(gpus), "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    return [*python, "medassist", "train", "--run-dir", str(folder), *(["--go-on"] if resume else [])]


def _gpu_count() -> int:
    """GPUs by their device nodes, so that the server need not import torch to start a training."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if os.name == "posix" else 1


def _launch(folder: Path, config: RunConfig, resume: bool) -> None:
    with (folder / "train.log").open("ab") as log_file:
        process = subprocess.Popen(
            command(folder, resume), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log_file,
            cwd=PROJECT, env=_environment(config), start_new_session=True)
    with contextlib.suppress(psutil.Error, OSError):
        if not (folder / "result.json").exists():
            created = psutil.Process(process.pid).create_time()
            lock.write_owner(folder / "owner.json", lock.Owner(process.pid, created, folder.name, time.time()))
    threading.Thread(target=_watch, args=(process, folder), daemon=True, name=f"watch-{folder.name}").start()


def _environment(config: RunConfig) -> dict[str, str]:
    passed = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
    ids = [config.base.id, *(d.id for d in config.datasets), *config.data.benchmarks]
    needs_hub = any(HUB_ID.match(i) or (catalog.find_base(i) or catalog.find_dataset(i)) for i in ids
                    if i not in ("mini", "starter"))
    if needs_hub and os.environ.get("HF_TOKEN"):
        passed["HF_TOKEN"] = os.environ["HF_TOKEN"]
    return passed | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
                     "DO_NOT_TRACK": "1"}


def _watch(process: subprocess.Popen, folder: Path) -> None:
    """Waits for a child of this server, so that it does not linger, and notes an end without a result."""
    code = process.wait()
    if adapters.read_result(folder) is not None or not folder.exists():
        return
    if code == _KILLED:
        reason = "The system ended the training (signal 9), most likely because the memory ran out."
        _mark_killed(folder, reason, "Choose a smaller base model or batch, then resume or start again.")
    else:
        _mark_killed(folder, _last_words(folder) or f"The training process ended with status {code}.")


def _last_words(folder: Path) -> str:
    """The sentence that the process left in its log, if it ended with one."""
    with contextlib.suppress(OSError):
        lines = (folder / "train.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines and lines[-1].startswith("medassist: "):
            return lines[-1].removeprefix("medassist: ")[:400]
    return ""


def _mark_killed(folder: Path, reason: str, next_step: str = "Resume it to go on from its last checkpoint.") -> None:
    view = load_view(folder / "progress.jsonl")
    metrics = {"tokens_per_s": view.tokens_per_s} if view.tokens_per_s else {}
    result = adapters.Result("failed", reason, next_step, view.step, metrics, round(view.elapsed_s, 2),
                             dataset_sha256=view.data.dataset_sha256 if view.data else "")
    with contextlib.suppress(OSError):
        shutil.rmtree(folder / "checkpoints" / ".staging", ignore_errors=True)
        shutil.rmtree(folder / ".adapter", ignore_errors=True)
        ProgressWriter(folder / "progress.jsonl")(
            Result(folder.name, "failed", reason, next_step, view.step, view.elapsed_s))
        for name in ("owner.json", STOP_FILE):
            (folder / name).unlink(missing_ok=True)
        adapters.write_result(folder, result)


def _make_stop(owner: lock.Owner) -> None:
    """Waits for an asked process; then asks harder, twice."""
    for grace, sign in ((STOP_GRACE_S, signal.SIGTERM), (TERM_GRACE_S, getattr(signal, "SIGKILL", signal.SIGTERM))):
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if not owner.is_alive():
                return
            time.sleep(0.25)
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(os.getpgid(owner.pid), sign)
            else:
                os.kill(owner.pid, sign)
