"""The built-in tokenizer answers as transformers' own, and imports it only for what it lacks."""

import copy
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from cotjax.data.problems import ProblemSource
from cotjax.models.formats.built_in_tokenizer import BuiltInTokenizer
from cotjax.models.formats.load import load_tokenizer, resolve

PROBLEM = ProblemSource("train", 0, 2, 6)[0]
TEXTS = (
    *("", " ", "\n\n", "Answer: 42<|end|>", "<|end|><|pad|>x<|mask|>", "<|end", "a  b\t\r\n c"),
    *("Ünïcödé → 漢字 🙂", "\x00\x7f\ud7ff", "1234.5e-6", " leading", "trailing ", "don't"),
    *(PROBLEM.question, "\n".join(PROBLEM.steps)),
)
ROWS = ([], [5], [0, 1, 2], list(range(400)), [300, 0, 301, 1], [10**6], [7, 10**6, 8])


@pytest.fixture(scope="module")
def whole():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(resolve("tiny"))
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@pytest.fixture
def own():
    return load_tokenizer(resolve("tiny"))


@pytest.mark.parametrize("settings", [{}, {"add_special_tokens": False}])
def test_texts_have_the_same_ids(own, whole, settings):
    assert isinstance(own, BuiltInTokenizer)
    for text in TEXTS:
        assert own.encode(text, **settings) == whole.encode(text, **settings), text
    assert "whole" not in vars(own)


@pytest.mark.parametrize("skip", [False, True])
def test_ids_have_the_same_text(own, whole, skip):
    forms = [lambda row: row, lambda row: np.array(row, np.int32), lambda row: [*np.array(row)]]
    for row in ROWS:
        text = whole.decode(row, skip_special_tokens=skip)
        assert [own.decode(form(row), skip_special_tokens=skip) for form in forms] == [text] * 3
    assert own.batch_decode([], skip_special_tokens=skip) == []  # [""] of transformers 5.23
    for rows in (ROWS, [np.array(row, np.int64) for row in ROWS]):
        theirs = whole.batch_decode(list(rows), skip_special_tokens=skip)
        assert own.batch_decode(list(rows), skip_special_tokens=skip) == theirs
    for one in (0, 7, 399):
        assert own.decode(one, skip_special_tokens=skip) == whole.decode(
            one, skip_special_tokens=skip
        )
    assert "whole" not in vars(own)


def test_tokens_and_their_names_are_the_same(own, whole):
    assert own.get_vocab() == whole.get_vocab() and len(own) == len(whole)
    assert own.chat_template is whole.chat_template is None
    assert own.added_tokens_decoder == whole.added_tokens_decoder
    for name in ("eos_token", "pad_token", "mask_token"):
        assert getattr(own, name) == getattr(whole, name)
        assert getattr(own, f"{name}_id") == getattr(whole, f"{name}_id") is not None
    for one in (0, 2, 300, 10**6, *ROWS, np.array([1, 0, 300])):
        assert own.convert_ids_to_tokens(one) == whole.convert_ids_to_tokens(one)
    assert "whole" not in vars(own)


def test_what_it_lacks_is_asked_of_transformers(own, whole, tmp_path):
    assert own.bos_token is None and own.bos_token_id is None
    assert own.convert_tokens_to_ids(["<|end|>", "Answer"]) == whole.convert_tokens_to_ids(
        ["<|end|>", "Answer"]
    )
    skipped = own.convert_ids_to_tokens([0, 7], skip_special_tokens=True)
    assert skipped == whole.convert_ids_to_tokens([7])
    assert own("a b").input_ids == whole("a b").input_ids
    assert own.encode("a", "b") == whole.encode("a", "b")
    assert own.decode([[5, 6], [7]]) == whole.decode([[5, 6], [7]])
    assert own.decode(jnp.array([5, 6])) == whole.decode(np.array([5, 6]))
    assert own.backend_tokenizer.to_str() == whole.backend_tokenizer.to_str()
    own.save_pretrained(tmp_path / "own")
    whole.save_pretrained(tmp_path / "whole")
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "own" / file.name).read_bytes(), file.name
    assert own.encode("a b c", truncation=True, max_length=2) == whole.encode("a b c")[:2]
    assert own.encode("a b c") == whole.encode("a b c"), "the next text is whole again"
    with pytest.raises(AttributeError):
        own.nothing_of_this_name  # noqa: B018


def test_a_token_that_is_added_is_known_to_both(own):
    assert own.add_tokens(["<|new|>"]) == 1
    (new,) = own.encode("<|new|>")
    assert len(own) == new + 1 and own.decode(new) == own.whole.decode(new) == "<|new|>"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_answers_the_same(own, again):
    other = again(own)
    assert other.encode(TEXTS[3]) == own.encode(TEXTS[3]) and other.pad_token_id == own.pad_token_id
    assert other.bos_token is None


def test_transformers_is_not_imported_for_it():
    code = (
        "import sys; from cotjax.models.formats.load import load_model; import jax.numpy as jnp; "
        "model = load_model('tiny', init='pretrained', param_dtype=jnp.float32, "
        "compute_dtype=jnp.float32, seed=0); model.tokenizer.decode(model.tokenizer.encode('a')); "
        "print('transformers' in sys.modules); model.tokenizer.bos_token; "
        "print('transformers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]


def test_what_is_set_is_saved(tmp_path):
    tokenizer = load_tokenizer(resolve("tiny"))
    assert tokenizer.chat_template is None
    tokenizer.chat_template, tokenizer.pad_token = "{{ messages }}", "7"
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("7")
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert (again.chat_template, again.pad_token) == ("{{ messages }}", "7")
