"""Chat templates: rendered as published, limited, and refused or told where they cannot serve.

The templates are written from the published formats of six families, shortened to what a prompt of
one message passes through; the expected prompts are those formats, written out.
"""

import copy
import pickle
import sys
import threading
import time

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cotjax.config import load
from cotjax.data import chat
from cotjax.data.chat import VERIFIED, Begin, beginning, open_chat, open_plain
from cotjax.data.prompts import make_prompts
from cotjax.data.token_cache import TokenCache
from cotjax.errors import InputError
from cotjax.models.formats.load import load_tokenizer, resolve

QUESTION = "How many?"
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def with_system(text):
    return (
        "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\n"
        + text
        + "<|im_end|>\\n' }}{%- endif %}"
        + CHATML
    )


SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QWEN25 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN3 = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
LLAMA32 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n"
    "Today Date: ' + date_string + '\\n\\n' }}{{- '<|eot_id|>' }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim }}"
    "{{- '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{%- for m in messages -%}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- endif -%}{%- set role = 'model' if m.role == 'assistant' else m.role -%}"
    "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
PHI4_MINI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
# (template, its variables, the prompt of one question)
GOLDEN = {
    "SmolLM2": (
        *(with_system(SMOLLM2), {}),
        f"<|im_start|>system\n{SMOLLM2}<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "Qwen2.5": (
        *(with_system(QWEN25), {}),
        f"<|im_start|>system\n{QWEN25}<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "Qwen3": (QWEN3, {}, "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"),
    "Qwen3, thinking": (
        *(QWEN3, {"enable_thinking": True}),
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Qwen3, not thinking": (
        *(QWEN3, {"enable_thinking": False}),
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "Llama 3.2": (
        *(LLAMA32, {"date_string": "26 Jul 2024"}),
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "How many?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Gemma 3": (
        *(GEMMA3, {}),
        "<s><start_of_turn>user\nHow many?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "Phi-4-mini": (PHI4_MINI, {}, "<|user|>How many?<|end|><|assistant|>"),
}


@pytest.fixture(scope="module")
def plain():
    return load_tokenizer(resolve("tiny"))


def templated(tokenizer, template, **tokens):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    return tokenizer


def refused(tokenizer, template, **kwargs):
    with pytest.raises(InputError) as error:
        open_chat(templated(tokenizer, template), kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", GOLDEN)
def test_prompts_are_those_of_the_published_formats(plain, name):
    template, kwargs, expected = GOLDEN[name]
    wrap, notes = open_chat(templated(plain, template, bos_token="<s>"), kwargs)
    assert wrap(QUESTION) == expected and notes == ()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_wrapped_message_is_what_transformers_renders(plain, name):
    template, kwargs, _ = GOLDEN[name]
    tokenizer = templated(plain, template, bos_token="<s>")
    wrap, _ = open_chat(tokenizer, kwargs)
    for content in ("  a\n\nb {{ c }} ", "{% if %}", "x" * 300):
        message = [{"role": "user", "content": content}]
        assert wrap(content) == tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, **kwargs
        )
    assert pickle.loads(pickle.dumps(wrap))(QUESTION) == wrap(QUESTION)


# What cannot serve.


def test_a_template_that_raises_is_one_sentence_with_what_it_said(plain):
    said = refused(plain, "{{ raise_exception('I only translate.') }}")
    assert "raises TemplateError (I only translate.)" in said and 'data.prompt = "plain"' in said
    assert "raises TemplateSyntaxError" in refused(plain, "{% if %}")
    assert "raises UndefinedError" in refused(plain, "{{ nothing.here }}")
    assert "raises OverflowError" in refused(plain, "{% for i in range(10 ** 9) %}{% endfor %}")


def test_a_template_that_drops_the_question_is_named(plain):
    said = refused(plain, "{{ 'User:' }}{% if add_generation_prompt %}{{ 'Bot:' }}{% endif %}")
    assert "drops the user's message; it gives 'User:Bot:'" in said


def test_a_template_that_needs_a_system_message_is_named(plain):
    needs = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
    assert "needs a message of the system" in refused(plain, needs + CHATML)


READS = [
    "{% if m.content|length > 60 %}LONG {% endif %}{{ m.content }}",
    "{% if m.content.startswith('/no') %}{{ m.content[3:] }}{% else %}{{ m.content }}{% endif %}",
    "{{ m.content }}{% if '?' in m.content %} Asked.{% endif %}",
]


@pytest.mark.parametrize("reads", READS)
def test_a_template_that_reads_the_message_is_rendered_for_each(plain, reads):
    template = "{% for m in messages %}" + reads + "{% endfor %}{% if add_generation_prompt %}A:"
    tokenizer = templated(plain, template + "{% endif %}")
    wrap, _ = open_chat(tokenizer, {})
    for text in ("How many", "x" * 99, "/no thought", "How many?") * 2:
        message = [{"role": "user", "content": text}]
        whole = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert wrap(text) == whole
    again = pickle.loads(pickle.dumps(wrap))
    assert again("x" * 99) == wrap("x" * 99)


def test_a_template_that_surrounds_a_message_is_trusted_in_the_end(plain):
    tokenizer = templated(plain, CHATML)
    wrap, _ = open_chat(tokenizer, {})
    texts = [wrap(f"{i}?") for i in range(VERIFIED)]
    tokenizer.chat_template = None  # what renders is not needed any more
    assert wrap("7?") == texts[7]


def test_a_template_that_calls_itself_is_named(plain):
    loop = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    assert "raises RecursionError" in refused(plain, loop + CHATML)


NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_without_an_end_is_one_sentence_in_any_thread(plain):
    began, before, found = time.monotonic(), sys.gettrace(), []
    found.append(refused(plain, NESTED + CHATML))
    assert sys.gettrace() is before
    thread = threading.Thread(target=lambda: found.append(refused(plain, NESTED + CHATML)))
    thread.start()
    thread.join(60)
    assert len(found) == 2 and time.monotonic() - began < 60
    assert all("does not come to an end within 1,000,000 lines" in said for said in found)


def test_no_real_template_comes_near_the_limit(plain, monkeypatch):
    monkeypatch.setattr(chat, "LINES", 1000)
    for template, kwargs, _ in GOLDEN.values():
        open_chat(templated(plain, template, bos_token="<s>"), kwargs)


def test_a_template_without_a_generation_prompt_is_told(plain):
    silent = CHATML.partition("{%- if add")[0]
    _, (note,) = open_chat(templated(plain, silent), {})
    assert "no generation prompt" in note and "<|im_end|>" in note
    mistral = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{%"
    mistral += " else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    wrap, notes = open_chat(templated(plain, mistral), {})
    assert wrap("?") == "[INST] ? [/INST]" and notes == ()  # its user's turn ends with the prompt


def test_a_date_of_today_is_told_and_a_variable_fixes_it(plain):
    wrap, (note,) = open_chat(templated(plain, LLAMA32, bos_token="<s>"), {})
    assert time.strftime("%d %b %Y") in wrap("?") and "date_string" in note


def test_of_several_templates_the_default_is_taken(plain):
    wrap, _ = open_chat(templated(plain, {"default": CHATML, "tool_use": "x"}), {})
    assert wrap("?").startswith("<|im_start|>user\n?")
    said = refused(plain, {"rag": CHATML, "tool_use": "x"})
    assert "chat templates rag, tool_use and none by the name of default" in said


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHATML, "<|im_end|>\n"), (GEMMA3, "<end_of_turn>\n"), (LLAMA32, "<|eot_id|>"),
     (PHI4_MINI, "<|end|><|end|>"), ("{{ messages[0].content }}", "")],
)  # fmt: skip
def test_what_stands_behind_an_answer_is_known(plain, template, end):
    prompts = make_prompts(templated(plain, template), "chat")
    assert prompts.end == end and make_prompts(plain, "plain").end == ""


# data.chat_kwargs.


def test_a_variable_that_the_template_does_not_read_is_refused_or_dropped(plain):
    said = refused(plain, QWEN3, enable_thinkng=False)
    assert "enable_thinkng" in said and "does not read it" in said
    for own in ("tokenize", "messages", "add_generation_prompt"):
        assert "is set by cotjax" in refused(plain, QWEN3, **{own: True})
    tokenizer = templated(plain, CHATML)
    wrap, _ = open_chat(tokenizer, {"enable_thinking": False}, drop_unread=True)
    assert wrap("?") == open_chat(tokenizer, {})[0]("?")


def test_variables_come_from_the_config(plain, tmp_path):
    (tmp_path / "c.toml").write_text("[data]\nchat_kwargs = { enable_thinking = false }\n")
    data = load(["--config", str(tmp_path / "c.toml")]).data
    prompts = make_prompts(templated(plain, QWEN3), "auto", "english", data.chat_kwargs)
    assert prompts.solve(QUESTION).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(InputError, match="data.chat_kwargs = { enable_thinking = … }: prompts are"):
        make_prompts(plain, "auto", "english", data.chat_kwargs)
    with pytest.raises(InputError, match='data.chat_kwargs = .* while data.prompt = "plain"'):
        load(["--config", str(tmp_path / "c.toml"), "--data.prompt=plain", "--data.chat-kwargs",
              "{ enable_thinking = true }"])  # fmt: skip


# The begin token.


def tokenizer_with_bos(*, metaspace="", adds=True):
    """A small tokenizer whose post-processor puts <s> before a text."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<s>", "</s>", *(["▁", *letters] if metaspace else
                              pre_tokenizers.ByteLevel.alphabet())]  # fmt: skip
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace)
        backend.decoder = decoders.Metaspace(prepend_scheme=metaspace)
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    if adds:
        single = "<s> $A" if adds is True else adds
        backend.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>",
                                   pad_token="</s>")  # fmt: skip


@pytest.mark.parametrize("metaspace", ["", "always"])
def test_a_plain_prompt_begins_as_the_tokenizer_begins_a_text(metaspace):
    tokenizer = tokenizer_with_bos(metaspace=metaspace)
    prompts = make_prompts(tokenizer, "plain")
    text = prompts.solve(QUESTION)
    assert text == "<s>Question: How many?\n" and prompts.notes == ()
    expected = tokenizer.encode(text.removeprefix("<s>"), add_special_tokens=True)
    assert tokenizer.encode(text, add_special_tokens=False) == expected
    assert TokenCache(tokenizer).encode(text).tolist() == expected
    assert expected.count(tokenizer.bos_token_id) == 1


def test_it_is_never_doubled():
    tokenizer = tokenizer_with_bos()
    assert Begin("<s>")("<s>A") == "<s>A"
    tokenizer.chat_template = GEMMA3
    ids = tokenizer.encode(make_prompts(tokenizer, "chat").solve("?"), add_special_tokens=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_an_end_token_behind_a_text_is_no_part_of_a_prompt():
    assert beginning(tokenizer_with_bos(adds="<s> $A </s>")) == "<s>"
    assert beginning(tokenizer_with_bos(adds="$A </s>")) == ""


def test_without_a_post_processor_nothing_is_put_there(plain):
    assert beginning(tokenizer_with_bos(adds="")) == beginning(plain) == ""
    assert open_plain(plain) == (str, ())


def test_a_word_that_the_begin_token_changes_is_told():
    wrap, (note,) = open_plain(tokenizer_with_bos(metaspace="first"))
    assert wrap("a") == "<s>a" and "tokenised as if no space" in note
