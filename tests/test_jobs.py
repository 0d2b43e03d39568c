"""Trainings as processes: started once, watched by files, stopped, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from medassist import adapters, jobs, lock
from medassist.config import build_config, to_yaml
from medassist.errors import AdapterError, JobError, MedAssistError
from medassist.progress import load_view


def wait(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {condition}")


def step_of(folder):
    return load_view(folder / "progress.jsonl").step


@pytest.fixture
def long_config(tiny_config):
    """A run of the tiny base that goes on for a while, with a checkpoint every step or two."""
    return tiny_config("long", train__max_steps=400, train__checkpoints_per_epoch=4)


@pytest.fixture(autouse=True)
def _leave_nothing_running(root):
    yield
    for run in adapters.list_runs(root):
        owner = lock.read_owner(run.path / "owner.json")
        if owner is not None and owner.pid != os.getpid() and owner.is_alive():
            os.kill(owner.pid, signal.SIGKILL)


def test_started_watched_and_stopped(root, long_config):
    name = jobs.start(root, long_config)
    folder = root / name
    wait(lambda: step_of(folder) >= 2)
    assert jobs.running(root) == "long"
    assert adapters.load_run(root, name).state == "running"
    with pytest.raises(JobError, match="already going on"):
        jobs.start(root, build_config(dotted={"name": "other"}))
    with pytest.raises(JobError, match="is running"):
        jobs.delete(root, name)
    for _ in range(3):  # stopping thrice is stopping once
        jobs.stop(root, name)
    result = wait(lambda: adapters.read_result(folder))
    assert (result.outcome, result.reason) == ("stopped", "Stopped on request; a checkpoint was saved.")
    wait(lambda: jobs.running(root) is None)
    with pytest.raises(JobError, match="is not running"):
        jobs.stop(root, name)
    assert adapters.list_usable(root) == []


@pytest.mark.slow
def test_killed_is_failed_and_resumes(root, tiny_config):
    name = jobs.start(root, tiny_config("killed", train__max_steps=40, train__checkpoints_per_epoch=4))
    folder = root / name
    wait(lambda: (folder / "checkpoints" / "step-6").exists() or step_of(folder) > 10)
    os.kill(lock.read_owner(folder / "owner.json").pid, signal.SIGKILL)
    result = wait(lambda: adapters.read_result(folder))
    assert result.outcome == "failed"
    assert "signal 9" in result.reason and "memory" in result.reason
    assert result.steps >= 1
    assert jobs.resume(root, name) == name
    result = wait(lambda: (r := adapters.read_result(folder)) and r.outcome == "finished" and r)
    assert result.steps == 40
    view = load_view(folder / "progress.jsonl")
    assert any("Going on from the checkpoint at step" in n for n in view.notices)
    assert [s for s, _ in view.losses] == list(range(1, 41))


@pytest.mark.slow
def test_a_run_outlives_the_server_that_started_it(root, tiny_config, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(tiny_config("outlives", train__max_steps=60)))
    code = ("import os, sys\nfrom pathlib import Path\nfrom medassist import jobs\nfrom medassist.config import load_config\n"
            "jobs.start(Path(sys.argv[1]), load_config(Path(sys.argv[2])))\nos.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code, str(root), str(config)], cwd=jobs.PROJECT, check=False)
    assert jobs.running(root) == "outlives"
    assert jobs.reconcile(root) == []  # what a new server does first: the run is alive and stays so
    result = wait(lambda: adapters.read_result(root / "outlives"))
    assert (result.outcome, result.steps) == ("finished", 60)


def test_what_a_dead_server_left_behind_is_found(root):
    config, folder = jobs.create_run(root, build_config(dotted={"name": "orphan"}))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    created = psutil.Process(gone.pid).create_time()
    gone.wait()
    lock.write_owner(folder / "owner.json", lock.Owner(gone.pid, created, "orphan"))
    (folder / "checkpoints" / ".staging").mkdir(parents=True)
    (root / ".deleted-x-1").mkdir()
    assert jobs.reconcile(root) == ["orphan"]
    run = adapters.load_run(root, "orphan")
    assert run.state == "failed"
    assert "killed, or the machine was restarted" in run.result.reason
    assert not (folder / "checkpoints" / ".staging").exists()
    assert not (root / ".deleted-x-1").exists()
    assert jobs.reconcile(root) == []


def test_twenty_presses_start_one_run(root, tiny_config, monkeypatch):
    launched = []

    def launch(folder, config, resume):
        launched.append(folder.name)
        lock.write_owner(folder / "owner.json", lock.this_process(folder.name))

    monkeypatch.setattr(jobs, "_launch", launch)

    def press(number):
        try:
            return jobs.start(root, tiny_config(f"run{number}"))
        except JobError as error:
            return error

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(press, range(20)))
    assert len(launched) == 1
    assert sum(isinstance(r, JobError) for r in results) == 19
    assert len(adapters.list_runs(root)) == 1


def test_a_run_of_the_same_name_is_not_overwritten(root):
    config = build_config(dotted={"name": "same"})
    jobs.create_run(root, config)
    with pytest.raises(JobError, match="There is a run 'same' already"):
        jobs.create_run(root, config)


def test_what_cannot_be_resumed_says_why(root):
    from test_adapters import make_run

    make_run(root, "done")
    with pytest.raises(JobError, match="is finished"):
        jobs.resume(root, "done")
    with pytest.raises(AdapterError, match="no run 'absent'"):
        jobs.resume(root, "absent")


def test_the_child_gets_a_short_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    local = jobs._environment(build_config())
    assert "HF_TOKEN" not in local and "AWS_SECRET_ACCESS_KEY" not in local
    assert jobs._environment(build_config(dotted={"base.id": "a/b"}))["HF_TOKEN"] == "hf_secret"


def test_several_gpus_go_through_accelerate(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "accelerate.commands.launch" in jobs.command(tmp_path, False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert jobs.command(tmp_path, True)[1:4] == ["-m", "medassist", "train"]


@pytest.mark.slow
def test_two_processes_train_one_adapter_together(root, tiny_config):
    """What `accelerate launch` starts on several GPUs, here on CPU."""
    _, folder = jobs.create_run(root, tiny_config("both", train__max_steps=3, train__checkpoints_per_epoch=4))
    env = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m",
                           "medassist", "train", "--run-dir", str(folder)],
                          cwd=jobs.PROJECT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert adapters.read_result(folder).outcome == "finished"
    assert [s for s, _ in load_view(folder / "progress.jsonl").losses] == [1, 2, 3]
    assert [r.name for r in adapters.list_usable(root)] == ["both"]


def test_a_process_that_does_not_stop_is_made_to(monkeypatch):
    monkeypatch.setattr(jobs, "STOP_GRACE_S", 0.3)
    monkeypatch.setattr(jobs, "TERM_GRACE_S", 0.3)
    deaf = subprocess.Popen([sys.executable, "-c", "import signal, time\n"
                             "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"],
                            stdout=subprocess.PIPE, start_new_session=True)
    deaf.stdout.readline()
    owner = lock.Owner(deaf.pid, psutil.Process(deaf.pid).create_time())
    waiter = threading.Thread(target=deaf.wait)
    waiter.start()
    jobs._make_stop(owner)
    waiter.join(10)
    assert deaf.returncode == -signal.SIGKILL


def test_on_a_space_training_is_closed(monkeypatch):
    from medassist import access

    monkeypatch.setenv("SPACE_ID", "someone/space")
    with pytest.raises(MedAssistError, match="closed on this public Space"):
        access.require_open("Training")
    monkeypatch.setenv("MEDASSIST_OPEN", "1")
    access.require_open("Training")
