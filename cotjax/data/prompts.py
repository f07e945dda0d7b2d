"""How a question becomes the text that the student is given."""

from collections.abc import Callable
from typing import Any, Literal

from cotjax.errors import InputError

PromptStyle = Literal["auto", "plain", "chat"]

INSTRUCTION = (
    'Solve the problem step by step. Write each step on a line of its own as "Step 1: ...", '
    'then the result on the last line as "Answer: <number>".\n\n'
)


def plain_prompt(question: str) -> str:
    r"""For a student that was trained on this very layout.

    Example:
      >>> plain_prompt("How many?")
      'Question: How many?\n'
    """
    return f"Question: {question}\n"


def make_prompt(tokenizer: Any, style: PromptStyle) -> Callable[[str], str]:
    """The function from question to prompt text.

    Args:
      tokenizer: a transformers tokenizer.
      style: `plain` is the built-in student's layout, `chat` the tokenizer's chat template with
        the instruction in front of the question, `auto` is `chat` if there is a template.

    Raises:
      InputError: `chat` without a chat template.
    """
    if style == "auto":
        style = "plain" if tokenizer.chat_template is None else "chat"
    if style == "plain":
        return plain_prompt
    if tokenizer.chat_template is None:
        raise InputError(
            'data.prompt = "chat": the tokenizer has no chat template. Set data.prompt = "plain".'
        )

    def chat(question: str) -> str:
        message = {"role": "user", "content": INSTRUCTION + question}
        return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)

    return chat
