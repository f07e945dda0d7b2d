"""Prompt texts: the built-in student's layout, chat templates, and other wordings."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.data.prompts import FOLDER, PLACES, make_prompts
from cotjax.errors import InputError
from cotjax.models.formats.load import load_tokenizer, resolve

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


@pytest.fixture(scope="module")
def plain():
    return load_tokenizer(resolve("tiny"))


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def chatty(plain):
    return with_template(plain, TEMPLATE)


def test_plain_is_the_built_in_layout(plain, chatty):
    for tokenizer in (plain, chatty):
        assert make_prompts(tokenizer, "plain").solve("How many?") == "Question: How many?\n"


def test_chat_is_the_template_with_the_instruction_in_front(chatty):
    shown = make_prompts(chatty, "chat").solve("How many?")
    assert shown == (
        '[user] Solve the problem step by step. Write each step on a line of its own as "Step 1: '
        '...", then the result on the last line as "Answer: <number>".\n\nHow many?[assistant]'
    )


@pytest.mark.parametrize(
    ("verifier", "answer"),
    [("numeric", "number"), ("math", "result"), ("choice", "letter"), ("exact", "answer"),
     ("./own.py:Own", "answer"), (object(), "answer")],
)  # fmt: skip
def test_a_prompt_asks_for_what_the_verifier_reads(chatty, verifier, answer):
    shown = make_prompts(chatty, "chat", verifier=verifier)
    for text in (shown.solve("?"), shown.complete("?", ("a",)), shown.rewrite("?", "a")):
        assert f'"Answer: <{answer}>"' in text


def test_auto_is_chat_where_there_is_a_template(plain, chatty):
    for tokenizer, style in ((plain, "plain"), (chatty, "chat")):
        auto, named = make_prompts(tokenizer, "auto"), make_prompts(tokenizer, style)
        assert auto.solve("?") == named.solve("?")


def test_chat_without_a_template_names_the_fix(plain):
    with pytest.raises(InputError, match='data.prompt = "chat": .* Set data.prompt = "plain"'):
        make_prompts(plain, "chat")


@pytest.mark.parametrize("trim", ["", " | trim"])
@given(content=st.text(min_size=1))
def test_a_message_is_wrapped_as_the_template_would(plain, trim, content):
    tokenizer = with_template(plain, TEMPLATE.replace("m['content']", f"m['content']{trim}"))
    message = [{"role": "user", "content": content}]
    expected = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert make_prompts(tokenizer, "chat").wrap(content) == expected


def test_the_templates_of_a_run_travel_to_worker_processes(chatty):
    prompts = make_prompts(chatty, "chat")
    assert pickle.loads(pickle.dumps(prompts)).solve("?") == prompts.solve("?")


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("name", NAMES)
def test_every_task_shows_what_it_is_about_in_order(chatty, name, style):
    prompts = make_prompts(chatty, style, name)
    question = "How {steps} many {question}?"
    steps = (r"a \frac{1}{2} {rationale}", "<|mask|>", "3=3")
    shown = [prompts.reconstruct(question, steps), prompts.complete(question, steps)]
    shown += [prompts.rewrite(question, "\n".join(steps))]
    for text in shown:
        assert text.count(question) == 1
        rest = text.split(question)[1]
        places = [rest.index(step) for step in steps]
        assert places == sorted(places) and all(rest.count(step) == 1 for step in steps)
    assert len({*shown, prompts.solve(question)}) == 4


def test_bridge_is_worded_as_released(plain):
    prompts = make_prompts(plain, "plain", "bridge")
    assert prompts.reconstruct("Question?", ("b", "<MASK>")) == (
        "Question: Question?\n\n以下步骤顺序错误且有缺失，请补充并重新排列：\n"
        "[步骤] b\n[步骤] <MASK>"
        "\n\n正确完整的推理过程：\n"
    )
    assert prompts.complete("Question?", ("[MASKED]",)) == (
        "Question: Question?\n\n以下步骤有缺失，请补充完整：\n"
        "[步骤] [MASKED]\n\n正确完整的推理过程：\n"
    )


def test_a_file_of_ones_own(plain, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "english.toml").read_text().replace("Question:", "Q:"))
    assert make_prompts(plain, "plain", str(path)).solve("How many?") == "Q: How many?\n"


@pytest.mark.parametrize("templates", ["english", "bridge"])
def test_a_question_can_ask_for_a_length(plain, templates):
    prompts = make_prompts(plain, "plain", templates)
    for form in ("exact", "max"):
        text = prompts.for_length(form)("How {target} {question}?", 60)
        assert text.startswith("How {target} {question}? ") and text.count("60") == 1
        assert text in prompts.solve(text) and text in prompts.complete(text, ("a",))
    assert prompts.for_length("exact") != prompts.for_length("max")


def test_a_file_may_lack_what_is_not_asked_for_and_is_told_what_it_lacks(plain, tmp_path):
    path, text = tmp_path / "mine.toml", (FOLDER / "bridge.toml").read_text()
    path.write_text("\n".join(one for one in text.splitlines() if not one.startswith("exactly")))
    prompts = make_prompts(plain, "plain", str(path))
    assert prompts.for_length("max")("?", 5)
    with pytest.raises(InputError, match='reward.length = "target": .* has no "exactly"'):
        prompts.for_length("exact")
    path.write_text(text.replace("for {target} tokens", "briefly"))
    with pytest.raises(InputError, match='"exactly" needs a text with {target} in it once'):
        make_prompts(plain, "plain", str(path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("[plain", "cannot be read"),
        ("[plain]", '"step" needs a text with {step} in it once, for plain prompts'),
        ("plain = 3", '"step" needs a text with {step} in it once'),
        *(
            ("\n".join(f'{k} = "{{step}}{{question}}{{steps}}{{rationale}}{{target}}"'
                       for k in PLACES)
             .replace(f"{{{place}}}", times * f"{{{place}}}"), f"with {{{place}}} in it once")
            for place in ("step", "question", "steps", "rationale") for times in (0, 2)
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_serve_is_named_with_the_fix(plain, tmp_path, text, complaint):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        make_prompts(plain, "plain", str(path))
    assert complaint in str(error.value) and str(path) in str(error.value)
    assert "english" in str(error.value)


# What a teacher is shown.


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("name", NAMES)
def test_a_hint_shows_the_first_steps_and_without_any_it_is_the_question_alone(chatty, name, style):
    prompts = make_prompts(chatty, style, name)
    assert prompts.hint("How many?", ()) == prompts.solve("How many?")
    shown = prompts.hint("How many?", ("1+1=2", "2*3=6"))
    places = [shown.index(text) for text in ("How many?", "1+1=2", "2*3=6")]
    assert places == sorted(places) and prompts.listed(("1+1=2", "2*3=6")) in shown


def test_a_file_without_a_hint_serves_until_one_is_asked_for(plain, tmp_path):
    path = tmp_path / "mine.toml"
    texts = (FOLDER / "english.toml").read_text()
    path.write_text(texts.replace("\nhint = ", "\nunused = "))
    prompts = make_prompts(plain, "plain", str(path))
    assert prompts.hint("?", ()) == prompts.solve("?")
    with pytest.raises(InputError, match='behind @ needs a text "hint" in data.templates'):
        prompts.hint("?", ("1+1=2",))
    path.write_text(texts.replace("Shuffled:\\n{steps}", "Shuffled:\\n"))
    with pytest.raises(InputError, match="needs a text with {steps} in it once"):
        make_prompts(plain, "plain", str(path))
