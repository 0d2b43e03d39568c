"""Settings: layers, limits, and every problem told at once."""

from __future__ import annotations

import pytest

from medassist.config import (
    PRESETS,
    build_config,
    field_spec,
    is_run_name,
    list_keys,
    load_config,
    parse_assignments,
    to_yaml,
)
from medassist.errors import ConfigError


def test_later_layers_win_and_others_stay():
    config = build_config({"train": {"learning_rate": 1e-3, "seed": 7}}, {"train": {"learning_rate": "2e-4"}},
                          dotted={"train.learning_rate": 5e-5})
    assert config.train.learning_rate == 5e-5
    assert config.train.seed == 7


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "../up"}, dotted={"train.learning_rate": -1, "lora.rank": 4, "data.max_length": 3})
    text = " ".join(caught.value.problems)
    for part in ("../up", "train.learning_rate is -1", "greater than 0", "'lora.rank' is not a setting", "data.max_length is 3"):
        assert part in text
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("key, value", [
    ("train.learning_rate", 0), ("train.learning_rate", "nan"), ("train.learning_rate", "inf"),
    ("train.num_train_epochs", 0), ("train.per_device_train_batch_size", 0), ("train.per_device_train_batch_size", "big"),
    ("lora.r", 0), ("lora.dropout", 1), ("lora.target_modules", []), ("lora.target_modules", ["q; rm"]),
    ("data.max_length", 10**9), ("data.prompt_format", "xml"), ("datasets", []), ("datasets.0.max_rows", 0),
    ("evaluate.budget", "all"), ("name", ".."), ("name", "a/b"), ("name", "Große"), ("name", "x" * 65), ("nonsense", 1)])
def test_bad_values_are_refused(key, value):
    with pytest.raises(ConfigError):
        build_config(dotted={key: value})


def test_a_typo_is_answered_with_the_setting_meant():
    with pytest.raises(ConfigError, match="Did you mean 'train.learning_rate'"):
        build_config(dotted={"train.lerning_rate": 1e-4})


def test_yaml_round_trip_repeats_the_run(tmp_path):
    config = build_config(dotted={"name": "a", "lora.target_modules": ["q_proj"], "train.learning_rate": "5e-5",
                                  "datasets.0.mapping": {"question": "Q", "answer": "A"}})
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("text, value", [("a=1e-4", 1e-4), ("a=5", 5), ("a=null", None), ("a=[q, v]", ["q", "v"]),
                                         ("a=x=y", "x=y"), ("a=true", True)])
def test_assignments_read_values_as_they_look(text, value):
    assert parse_assignments([text]) == {"a": value}


def test_assignment_without_equals_sign_is_refused():
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["train.learning_rate"])


@pytest.mark.parametrize("content, part", [("a: [", "YAML"), ("- 1\n", "mapping"), (None, "no settings file")])
def test_unreadable_files_get_one_sentence(tmp_path, content, part):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=part):
        load_config(path)


def test_every_setting_has_a_label_and_help():
    for key in list_keys():
        spec = field_spec(key.replace(".0.", "."))
        assert spec.label and spec.label != key.rsplit(".")[-1], key
        assert spec.help, key


def test_presets_are_valid_settings():
    epochs = [build_config(dotted=preset).train.num_train_epochs for preset in PRESETS.values()]
    assert epochs == sorted(epochs) and len(set(epochs)) == len(epochs)


@pytest.mark.parametrize("name, ok", [("a", True), ("a-b_c.1", True), ("a..b", False), ("a.", False), ("", False),
                                      ("-a", False), ("a\n", False), ("a b", False)])
def test_run_names(name, ok):
    assert is_run_name(name) is ok
