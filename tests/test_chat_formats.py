"""The published prompt forms: our statement of each, the renderer against it, and a template that is not it.

The templates here are written for these tests, from the forms as they are described; none is a model's own.
"""

from __future__ import annotations

import copy

import pytest

from medassist import chat_formats, prompts

ONE = [{"role": "user", "content": "Why?"}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *ONE]
TALK = [*ONE, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]

REFUSE_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
GEMMA = REFUSE_SYSTEM + (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ {'assistant': 'model'}.get(m.role, m.role) }}\n"
    "{{ m.content.strip() }}<end_of_turn>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model{{ '\n' }}{% endif %}")
LLAMA_2 = (
    "{% set ns = namespace(lead='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.lead = '<<SYS>>\n' ~ m.content ~ '\n<</SYS>>\n\n' %}"
    "{% elif m.role == 'user' %}<s>[INST] {{ ns.lead ~ m.content }} [/INST]{% set ns.lead = '' %}"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}")
LLAMA_3_TURN = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content.strip() }}<|eot_id|>"
LLAMA_3_ASK = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
LLAMA_3 = "<|begin_of_text|>{% for m in messages %}" + LLAMA_3_TURN + "{% endfor %}" + LLAMA_3_ASK
LLAMA_3_DATED = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>{{ '\n\n' }}Cutting Knowledge Date: December 2023\n"
    "Today Date: {{ date_string or strftime_now('%d %b %Y') }}{{ '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|eot_id|>"
    "{% for m in messages if m.role != 'system' %}" + LLAMA_3_TURN + "{% endfor %}" + LLAMA_3_ASK)
MISTRAL_OLD = REFUSE_SYSTEM + (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}</s>"
    "{% endif %}{% endfor %}")
MISTRAL = (
    "<s>{% set ns = namespace(lead='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.lead = m.content ~ '\n\n' %}"
    "{% elif m.role == 'user' %} [INST] {{ ns.lead ~ m.content }} [/INST]{% set ns.lead = '' %}"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}")
MISTRAL_3 = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content ~ '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content.strip() }}</s>{% endif %}{% endfor %}")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}")
SMOLLM_2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>{{ '\n' }}{% endif %}" + CHATML)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% endif %}")

H = "<|start_header_id|>{}<|end_header_id|>\n\n"
DATES = "<|begin_of_text|>" + H.format("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
# base model, template, first token, and the text of one question, a system prompt, several turns
PINNED = [
    ("google/gemma-1.1-7b-it", GEMMA, "<bos>",
     "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
     "<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n<start_of_turn>model\n",
     "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n"
     "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n"),
    ("meta-llama/Llama-2-7b-chat-hf", LLAMA_2, "<s>",
     "<s>[INST] Why? [/INST]",
     "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]",
     "<s>[INST] Why? [/INST] So. </s><s>[INST] And? [/INST]"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", LLAMA_3, "<|begin_of_text|>",
     "<|begin_of_text|>" + H.format("user") + "Why?<|eot_id|>" + H.format("assistant"),
     "<|begin_of_text|>" + H.format("system") + "Be brief.<|eot_id|>" + H.format("user") + "Why?<|eot_id|>"
     + H.format("assistant"),
     "<|begin_of_text|>" + H.format("user") + "Why?<|eot_id|>" + H.format("assistant") + "So.<|eot_id|>"
     + H.format("user") + "And?<|eot_id|>" + H.format("assistant")),
    ("meta-llama/Llama-3.2-1B-Instruct", LLAMA_3_DATED, "<|begin_of_text|>",
     DATES + "<|eot_id|>" + H.format("user") + "Why?<|eot_id|>" + H.format("assistant"),
     DATES + "Be brief.<|eot_id|>" + H.format("user") + "Why?<|eot_id|>" + H.format("assistant"),
     DATES + "<|eot_id|>" + H.format("user") + "Why?<|eot_id|>" + H.format("assistant") + "So.<|eot_id|>"
     + H.format("user") + "And?<|eot_id|>" + H.format("assistant")),
    ("mistralai/Mistral-7B-Instruct-v0.2", MISTRAL, "<s>",
     "<s> [INST] Why? [/INST]", "<s> [INST] Be brief.\n\nWhy? [/INST]",
     "<s> [INST] Why? [/INST] So.</s> [INST] And? [/INST]"),
    ("mistralai/Mistral-7B-Instruct-v0.1", MISTRAL_OLD, "<s>",
     "<s>[INST] Why? [/INST]", "<s>[INST] Be brief.\n\nWhy? [/INST]",
     "<s>[INST] Why? [/INST]So.</s>[INST] And? [/INST]"),
    ("mistralai/Mistral-7B-Instruct-v0.3", MISTRAL_3, "<s>",
     "<s>[INST] Why?[/INST]", "<s>[INST] Be brief.\n\nWhy?[/INST]",
     "<s>[INST] Why?[/INST] So.</s>[INST] And?[/INST]"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", SMOLLM_2, "",
     SMOL + "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
     SMOL + "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
     "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"),
    ("HuggingFaceTB/SmolLM-135M-Instruct", CHATML, "",
     "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
     "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", ZEPHYR, "<s>",
     "<|user|>\nWhy?</s>\n<|assistant|>\n",
     "<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
     "<|user|>\nWhy?</s>\n<|assistant|>\nSo.</s>\n<|user|>\nAnd?</s>\n<|assistant|>\n"),
]
FORMS = pytest.mark.parametrize("base, template, first, one, system, talk", PINNED, ids=[row[0] for row in PINNED])
# What training puts behind an answer.
ENDS = {"google/gemma-1.1-7b-it": "So.<end_of_turn>", "meta-llama/Llama-2-7b-chat-hf": " So. </s>",
        "meta-llama/Meta-Llama-3-8B-Instruct": "So.<|eot_id|>", "meta-llama/Llama-3.2-1B-Instruct": "So.<|eot_id|>",
        "mistralai/Mistral-7B-Instruct-v0.1": "So.</s>", "mistralai/Mistral-7B-Instruct-v0.2": " So.</s>",
        "mistralai/Mistral-7B-Instruct-v0.3": " So.</s>", "HuggingFaceTB/SmolLM-135M-Instruct": "So.<|im_end|>",
        "HuggingFaceTB/SmolLM2-135M-Instruct": "So.<|im_end|>", "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "So.</s>"}


@pytest.fixture
def with_template(tokenizer):
    """mini's tokenizer with another template, and the first token that goes with it."""

    def build(template: str, first: str = ""):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        if first:
            other.add_special_tokens({"bos_token": first})
            other.add_bos_token = True
        return other

    return build


@FORMS
def test_each_family_states_the_published_text(base, template, first, one, system, talk):
    render = chat_formats.find_family(base).render
    for messages, text in ((ONE, one), (WITH_SYSTEM, system), (TALK, talk)):
        assert text in render(messages)


@FORMS
def test_the_renderer_writes_the_published_text(with_template, base, template, first, one, system, talk):
    other = with_template(template, first)
    for messages, text in ((ONE, one), (WITH_SYSTEM, system), (TALK, talk)):
        assert prompts.render_prompt(other, messages) == text
    assert prompts.render_completion(other, ONE, "So.") == ENDS[base]
    assert prompts.render_completion(other, WITH_SYSTEM, "So.") == ENDS[base]
    assert prompts.render_completion(other, TALK, "So.") == ENDS[base]


@FORMS
def test_a_prompt_begins_with_one_first_token(with_template, base, template, first, one, system, talk):
    other = with_template(template, first)
    ids = prompts.encode_prompt(other, ONE)
    if first:
        assert ids[0] == other.bos_token_id
        assert ids[1] != other.bos_token_id
    else:
        assert other.bos_token_id not in ids


@FORMS
def test_a_template_as_published_is_not_remarked_on(with_template, base, template, first, one, system, talk):
    assert chat_formats.check_template(base, with_template(template, first)) is None


@pytest.mark.parametrize("base, template, first, part", [
    ("google/gemma-1.1-7b-it", GEMMA.replace("<end_of_turn>{{ '\n' }}", "<end_of_turn>"), "<bos>", "with one question"),
    ("mistralai/Mistral-7B-Instruct-v0.3", MISTRAL, "<s>", "is not the one published for Mistral Instruct v0.3"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", CHATML, "", "_start|>system"),
    ("meta-llama/Llama-3.2-1B-Instruct", LLAMA_3, "<|begin_of_text|>", "with one question it writes"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", CHATML, "<s>", "where '<|user|>"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", REFUSE_SYSTEM + ZEPHYR, "<s>", "with a system prompt it refuses"),
    ("meta-llama/Llama-2-7b-chat-hf", LLAMA_2.replace(" </s>", "</s>"), "<s>", "with several turns it writes")])
def test_another_template_is_reported_in_one_sentence(with_template, base, template, first, part):
    said = chat_formats.check_template(base, with_template(template, first))
    assert part in said
    assert base in said
    assert "\n" not in said


def test_a_missing_first_token_is_reported(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = GEMMA.replace("{{ bos_token }}", "")
    assert "does not begin with <bos>" in chat_formats.check_template("google/gemma-1.1-7b-it", other)


def test_a_chat_model_without_its_template_is_reported(with_template):
    said = chat_formats.check_template("llama-2-7b-chat", with_template(None))
    assert "without the chat template of Llama 2 Chat" in said


@pytest.mark.parametrize("base, family", [
    ("gemma-1.1-7b-it", "Gemma"), ("unsloth/gemma-1.1-7b-it-bnb-4bit", "Gemma"), ("google/gemma-3-270m-it", "Gemma"),
    ("medgemma-4b-it", "Gemma"), ("google/gemma-4-31B-it", None), ("google/gemma-7b", None),
    ("llama-3.1-8b-instruct", "Llama 3.1 and 3.2 Instruct"), ("meta-llama/Llama-3.1-8B", None),
    ("meta-llama/Llama-2-7b-hf", None), ("unsloth/llama-2-7b-chat-bnb-4bit", "Llama 2 Chat"),
    ("unsloth/mistral-7b-instruct-v0.2-bnb-4bit", "Mistral Instruct v0.1 and v0.2"),
    ("models/Mistral-7B-Instruct-v0.3/", "Mistral Instruct v0.3"), ("mistralai/Mistral-7B-v0.1", None),
    ("smollm2-360m-instruct", "SmolLM2 Instruct"), ("smollm-135m-instruct", "SmolLM Instruct"),
    ("HuggingFaceTB/SmolLM2-135M", None), ("tinyllama-1.1b-chat", "TinyLlama Chat v1.0"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v0.6", None), ("mini", None), ("Qwen/Qwen3-0.6B", None)])
def test_the_family_is_found_by_the_models_name(base, family):
    found = chat_formats.find_family(base)
    assert (found.name if found else None) == family


def test_every_named_chat_model_of_these_families_is_known():
    from medassist import catalog

    for entry in catalog.list_base_models():
        chat = any(word in entry.name for word in ("instruct", "chat", "-it"))
        ours = any(word in entry.name for word in ("llama", "mistral-7b", "smollm", "gemma"))
        if chat and ours:
            assert chat_formats.find_family(entry.id) is chat_formats.find_family(entry.name) is not None, entry.id
