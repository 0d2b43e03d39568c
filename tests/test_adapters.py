"""The run folder: states, names, and adapters that are not what they say."""

from __future__ import annotations

import json
import struct

import pytest

from medassist import adapters, lock
from medassist.config import build_config, to_yaml
from medassist.errors import AdapterError, JobError
from medassist.progress import (
    Notice,
    Phase,
    ProgressWriter,
    Step,
    load_view,
    read_rows,
)
from medassist.progress import (
    Result as ResultEvent,
)


def write_safetensors(path, tensors):
    """A safetensors file of zeros with the given shapes, by hand."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * at)


GOOD = {"base.q_proj.lora_A.weight": [4, 32], "base.q_proj.lora_B.weight": [32, 4]}


def make_run(root, name="good", config=None, tensors=None, **result):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(to_yaml(build_config(dotted={"name": name})), encoding="utf-8")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "mini", "bias": "none"} | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_safetensors(folder / adapters.WEIGHTS, tensors or GOOD)
    values = {"outcome": "finished", "base": "mini",
              "adapter_sha256": adapters.file_sha256(folder / adapters.WEIGHTS)} | result
    adapters.write_result(folder, adapters.Result(**values))
    return folder


def test_a_finished_run_is_offered(root):
    make_run(root)
    assert [r.name for r in adapters.list_usable(root)] == ["good"]


def test_a_flipped_bit_takes_an_adapter_off_the_offer(root):
    folder = make_run(root)
    data = bytearray((folder / adapters.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / adapters.WEIGHTS).write_bytes(data)
    assert adapters.list_usable(root) == []
    with pytest.raises(AdapterError, match="hash differs"):
        adapters.verify_run(adapters.load_run(root, "good"))


@pytest.mark.parametrize("config, tensors, part", [
    ({"peft_type": "IA3"}, None, "not a plain LoRA"),
    ({"use_dora": True}, None, "not a plain LoRA"),
    ({"modules_to_save": ["lm_head"]}, None, "replaces parts"),
    ({"bias": "all"}, None, "replaces parts"),
    ({"base_model_name_or_path": None}, None, "does not name its base"),
    (None, {**GOOD, "base.embed.weight": [2, 2]}, "not a LoRA matrix"),
    (None, {"base.q_proj.lora_A.weight": [4, 32]}, "whole LoRA pairs"),
    (None, {"base.q_proj.lora_A.weight": [4, 32], "base.q_proj.lora_B.weight": [32, 8]}, "do not fit together")])
def test_foreign_adapters_are_refused(root, config, tensors, part):
    folder = make_run(root, config=config, tensors=tensors)
    with pytest.raises(AdapterError, match=part):
        adapters.check_adapter_folder(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, struct.pack("<Q", 2**40) + b"{}",
                                     struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2) + b"{}" + b"rest"])
def test_files_that_are_not_safetensors_are_refused(root, content):
    folder = make_run(root)
    (folder / adapters.WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError):
        adapters.check_adapter_folder(folder)


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", "", "A", "a\0b"])
def test_no_name_leads_out_of_the_root(root, name):
    with pytest.raises(AdapterError, match="not a run name"):
        adapters.load_run(root, name)


def test_a_link_that_leads_out_is_refused(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(AdapterError, match="does not lie"):
        adapters.run_path(root, "link")


def test_a_folder_without_result_is_running_or_interrupted(root):
    folder = make_run(root)
    (folder / "result.json").unlink()
    assert adapters.load_run(root, "good").state == "interrupted"
    lock.write_owner(folder / "owner.json", lock.this_process("good"))
    assert adapters.load_run(root, "good").state == "running"


def test_an_owner_is_told_from_a_later_process_with_its_number():
    owner = lock.this_process()
    assert owner.is_alive()
    assert not lock.Owner(owner.pid, owner.started_at - 100).is_alive()


def test_a_running_run_is_not_deleted_and_others_are(root):
    folder = make_run(root)
    lock.write_owner(folder / "owner.json", lock.this_process("good"))
    with pytest.raises(JobError, match="is running"):
        adapters.delete_run(root, "good")
    (folder / "owner.json").unlink()
    adapters.delete_run(root, "good")
    assert list(root.iterdir()) == []


def test_the_shipped_adapter_is_not_deleted(root):
    make_run(root, "starter")
    with pytest.raises(JobError, match="ships with"):
        adapters.delete_run(root, "starter")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"outcome": "great"}', "[" * 100_000])
def test_damaged_results_are_no_results(root, content):
    folder = make_run(root)
    (folder / "result.json").write_text(content)
    assert adapters.load_run(root, "good").state == "interrupted"


def test_one_training_at_a_time(root):
    with lock.training_lock(root, "first"), pytest.raises(JobError, match="'first'"):
        with lock.training_lock(root, "second"):
            pass
    with lock.training_lock(root, "third"):
        assert lock.current_owner(root).run == "third"
    assert lock.current_owner(root) is None


def test_progress_survives_a_torn_line_and_nan(tmp_path):
    path = tmp_path / "progress.jsonl"
    write = ProgressWriter(path)
    write(Phase("training"))
    write(Step(1, 10, 0.1, float("nan"), 1e-3, None, 5.0, 1.0, 9.0))
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    rows, offset = read_rows(path)
    assert [r["event"] for r in rows] == ["phase", "step"]
    assert rows[1]["loss"] is None
    with path.open("a") as file:
        file.write('ep": 1}\n')
    write(Notice("hello"))
    assert [r["event"] for r in read_rows(path, offset)[0]] == ["step", "notice"]
    assert load_view(path).notices == ["hello"]


def test_a_resumed_run_shows_the_newer_steps(tmp_path):
    write = ProgressWriter(tmp_path / "p")
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
        write(Step(step, 4, 0.0, loss, 0.0, None, 1.0, 1.0, 1.0))
    write(ResultEvent("r", "failed"))
    write(Phase("data"))
    write(Step(2, 4, 0.0, 2.5, 0.0, None, 1.0, 1.0, 1.0))
    view = load_view(tmp_path / "p")
    assert view.losses == [(1, 3.0), (2, 2.5)]
    assert view.result is None
