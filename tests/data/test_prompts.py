"""The prompt's layout: the built-in student's own, or the tokenizer's chat template."""

import copy

import pytest

from cotjax.data.prompts import INSTRUCTION, make_prompts
from cotjax.errors import InputError
from cotjax.models.load import load_tokenizer, resolve

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def plain():
    return load_tokenizer(resolve("tiny"))


@pytest.fixture(scope="module")
def chatty(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_plain_is_the_built_in_layout(plain, chatty):
    for tokenizer in (plain, chatty):
        assert make_prompts(tokenizer, "plain").solve("How many?") == "Question: How many?\n"


def test_chat_is_the_template_with_the_instruction_in_front(chatty):
    shown = make_prompts(chatty, "chat").solve("How many?")
    assert shown == f"[user] {INSTRUCTION}How many?[assistant]"


def test_auto_is_chat_where_there_is_a_template(plain, chatty):
    for tokenizer, style in ((plain, "plain"), (chatty, "chat")):
        assert make_prompts(tokenizer, "auto").solve("?") == make_prompts(tokenizer, style).solve(
            "?"
        )


def test_chat_without_a_template_names_the_fix(plain):
    with pytest.raises(InputError, match='data.prompt = "chat": .* Set data.prompt = "plain"'):
        make_prompts(plain, "chat")
