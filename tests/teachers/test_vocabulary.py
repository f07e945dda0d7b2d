"""Which ids two models have in common, and when they speak of different tokens."""

import pytest

from cotjax.errors import InputError
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.teachers.vocabulary import check_same_texts, common_size, tokenizer_hash
from tests.broken import with_other_cuts
from tests.tiny import END, TOKENIZER

NAMES = "teacher", "student"


class Words:
    """A tokenizer as far as it is asked: tokens by id, and the id that ends a text."""

    def __init__(self, *tokens, end=0):
        self.tokens, self.eos_token_id = tokens, end

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}


def test_a_model_shares_all_ids_with_its_own_tokenizer():
    size = max(TOKENIZER.get_vocab().values()) + 1
    assert common_size(TOKENIZER, TOKENIZER, names=NAMES) == size


def test_what_one_has_beyond_the_other_is_not_in_common():
    short, long = Words("end", "a", "b"), Words("end", "a", "b", "<image>")
    assert common_size(short, long, names=NAMES) == common_size(long, short, names=NAMES) == 3


@pytest.mark.parametrize("other", [Words("end", "b", "a"), Words("end", "a", "c")])
def test_another_token_under_an_id_is_another_tokenizer(other):
    with pytest.raises(InputError, match="teacher and student have different tokenizers .3 and 3"):
        common_size(other, Words("end", "a", "b"), names=NAMES)


def test_a_student_whose_end_the_teacher_lacks_cannot_learn_to_stop():
    with pytest.raises(InputError, match="teacher has 2 ids, but student ends a text with id 2"):
        common_size(Words("a", "b"), Words("a", "b", "end", end=2), names=NAMES)


def test_a_hash_is_that_of_ids_and_tokens_and_of_nothing_else():
    words = Words("end", "a", "b")
    assert tokenizer_hash(words) == tokenizer_hash(Words("end", "a", "b", end=2))
    assert len({tokenizer_hash(one) for one in (words, Words("end", "b", "a"), TOKENIZER)}) == 3
    assert len(tokenizer_hash(words)) == 16


def same(teacher, student=TOKENIZER, ends=(END,), end=END):
    check_same_texts(teacher, student, ends=ends, end=end, names=NAMES)


def test_a_tokenizer_writes_texts_as_it_does_itself():
    same(TOKENIZER)
    same(TOKENIZER, ends=(7, END))


def test_the_same_tokens_cut_otherwise_name_the_text_and_both_cuts(tmp_path):
    other = load_tokenizer(with_other_cuts(resolve("tiny"), tmp_path / "other"))
    assert common_size(other, TOKENIZER, names=NAMES) == common_size(TOKENIZER, other, names=NAMES)
    with pytest.raises(InputError, match="write 'Step 1.* different ones: from place 0 on .* and"):
        same(other)


def test_another_end_names_both_tokens():
    mask = TOKENIZER.convert_tokens_to_ids("<|mask|>")
    with pytest.raises(InputError) as error:
        same(TOKENIZER, ends=(mask,))
    assert f"teacher ends a text with '<|mask|>' ({mask}), and student with '<|end|>' (0)" in str(
        error.value
    )
