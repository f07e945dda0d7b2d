"""What ends and pads: every id that a file names, and only ids that model and tokenizer have."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.errors import InputError
from cotjax.interfaces import End, Rollout
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.formats.special_tokens import special_tokens
from cotjax.models.transformer import Transformer
from cotjax.parallel.mesh import make_mesh
from cotjax.run.use import completions_of, open_to_generate
from cotjax.stages.supervised import solution_encoder
from cotjax.student import guards
from cotjax.student.generate import complete, rollout_sampling
from cotjax.student.load import load_policy
from cotjax.student.records import load_records
from tests.models.formats.test_huggingface import make_model
from tests.models.formats.test_load import change_tokenizer_config, load
from tests.tiny import make_config

GENERATION = "generation_config.json"


@pytest.fixture
def folder(tmp_path):
    """A saved student, whose end token is id 0 and which knows about 420 ids of 424."""
    tokenizer = load_tokenizer(resolve("tiny"))
    huggingface.save(make_model("llama"), tmp_path / "student", tokenizer=tokenizer)
    return tmp_path / "student"


def name_ends(folder, file, ids):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ids}))


def add_tokens(folder, *tokens):
    """Adds tokens behind the vocabulary, as fine-tuning code does without resizing a model."""
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    first = load_tokenizer(folder).backend_tokenizer.get_vocab_size()
    like = table["added_tokens"][0]
    table["added_tokens"] += [
        {**like, "id": first + i, "content": one} for i, one in enumerate(tokens)
    ]
    path.write_text(json.dumps(table))


@pytest.mark.parametrize("file", [GENERATION, "config.json"])
@pytest.mark.parametrize(("ids", "stops"), [([0, 5, 9], (5, 9)), ([7], (7,)), (7, (7,)), (0, ())])
def test_every_id_that_a_file_names_ends_a_completion(folder, file, ids, stops):
    name_ends(folder, file, ids)
    student = load(folder)
    assert (student.eos_id, student.stop_ids) == (0, stops)
    said = [note for note in student.notes if "also with" in note]
    assert len(said) == bool(stops) and all(file in note for note in said)


def test_the_ids_of_both_files_are_joined_and_null_names_none(folder):
    name_ends(folder, GENERATION, [0, 5])
    name_ends(folder, "config.json", [9, 5])
    assert load(folder).stop_ids == (5, 9)
    name_ends(folder, "config.json", None)
    assert load(folder).stop_ids == (5,)


def test_all_ends_are_saved_again(folder, tmp_path):
    name_ends(folder, GENERATION, [5, 0])
    first = load(folder)
    huggingface.save(
        first.model, tmp_path / "again", tokenizer=first.tokenizer, stop_ids=first.stop_ids
    )
    for file in (GENERATION, "config.json"):
        assert json.loads((tmp_path / "again" / file).read_text())["eos_token_id"] == [0, 5]
    assert load(tmp_path / "again").stop_ids == (5,)


@pytest.mark.parametrize("bad", [424, 10**9, -1, "5", True, 2.5, [0, 424], [[5]]])
def test_an_end_that_the_tokenizer_does_not_know_is_refused(folder, bad):
    name_ends(folder, GENERATION, bad)
    with pytest.raises(InputError, match=f"{GENERATION}: eos_token_id = .*is not a token of its"):
        load(folder)


def test_an_end_token_of_the_config_alone_is_refused(folder):
    change_tokenizer_config(folder, eos_token="<|nope|>")
    with pytest.raises(InputError, match='eos_token = "<|nope|>" is no token of tokenizer.json'):
        load(folder)


def test_a_model_file_names_the_end_where_the_tokenizer_does_not(folder):
    change_tokenizer_config(folder, eos_token=None)
    student = load(folder)
    assert student.eos_id == 0
    assert any("names no end token" in note for note in student.notes)
    for file in (GENERATION, "config.json"):
        name_ends(folder, file, None)
    with pytest.raises(InputError, match="no end token.*eos_token"):
        load(folder)


def test_added_tokens_without_an_embedding_are_text_and_named(folder):
    names = [f"<extra {i}>" for i in range(9)]
    add_tokens(folder, *names)
    change_tokenizer_config(folder, pad_token=names[-1])
    student = load(folder)
    assert max(student.tokenizer.get_vocab().values()) < 424
    assert max(student.tokenizer.encode(f"a {names[-1]} b")) < 424
    assert any(names[-1] in note and "none for the added" in note for note in student.notes)
    assert student.pad_id == student.eos_id  # the padding token was one of them


def test_an_end_token_without_an_embedding_is_refused(folder):
    add_tokens(folder, *(f"<extra {i}>" for i in range(9)))
    change_tokenizer_config(folder, eos_token="<extra 8>")
    with pytest.raises(InputError, match="but the embedding has only 424 rows"):
        load(folder)


def test_a_tokenizer_far_narrower_than_the_embedding_is_told():
    tokenizer = load_tokenizer(resolve("tiny"))
    assert special_tokens(tokenizer, 424, {}, "here").notes == ()
    (said,) = special_tokens(tokenizer, 32_000, {}, "here").notes
    assert "and the embedding 32000 rows" in said


def test_lengths_of_a_training_batch_in_a_tokenizer_cut_no_prompt(folder):
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    table["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                           "stride": 0}  # fmt: skip
    path.write_text(json.dumps(table))
    backend = load_tokenizer(folder).backend_tokenizer
    assert len(backend.encode("one two three four five six", add_special_tokens=False).ids) > 3


# What the ids are for: models that say "7" and end their turn, as chat models do, with a token that
# is not the tokenizer's end token.

TURNS = {
    "gemma3_text": ("<end_of_turn>", "<start_of_turn>{}\n{}<end_of_turn>\n", "model"),
    "qwen3": ("<|im_end|>", "<|im_start|>{}\n{}<|im_end|>\n", "assistant"),
}


def write_chat_model(folder, family):
    """Saves such a model: its embedding holds what follows, and its layers add nothing."""
    end, turn, answerer = TURNS[family]
    tokenizer = load_tokenizer(resolve("tiny"))
    tokenizer.add_special_tokens({"extra_special_tokens": [end]})
    first, last = turn.split("{}\n{}")
    tokenizer.chat_template = (
        "{% for m in messages %}" + first + "{{ m['role'] }}\n{{ m['content'] }}" + last
        + "{% endfor %}{% if add_generation_prompt %}" + first + answerer + "\n{% endif %}"
    )  # fmt: skip
    shape = dataclasses.replace(make_model(family).shape, tie_embeddings=False, logit_softcap=0.0)
    model = Transformer(shape, rngs=nnx.Rngs(0))
    for projection in (model.layers.out, model.layers.down):
        projection.kernel[...] *= 0
    seven, turn_end = tokenizer.convert_tokens_to_ids(["7", end])
    embed = np.zeros((shape.vocab_size, shape.hidden_size), np.float32)
    unembed = np.zeros_like(embed)
    embed[:, 0] = unembed[seven, 0] = 9
    embed[seven, :2] = 0, 9
    unembed[turn_end, 1] = 9
    model.embed.embedding[...], model.unembed_weight[...] = jnp.asarray(embed), jnp.asarray(unembed)
    huggingface.save(model, folder, tokenizer=tokenizer, stop_ids=[turn_end])
    return turn_end


@pytest.mark.parametrize("family", TURNS)
def test_a_chat_model_ends_its_turn(tmp_path, family):
    turn_end = write_chat_model(tmp_path / "chat", family)
    opened = open_to_generate(str(tmp_path / "chat"))
    assert (opened.student.eos_id, opened.student.stop_ids) == (turn_end, (0,))
    assert completions_of(opened, "What is 3 + 4?", {"max_new_tokens": 8}) == "7"
    (tmp_path / "chat" / GENERATION).unlink()
    name_ends(tmp_path / "chat", "config.json", 0)
    text = completions_of(open_to_generate(str(tmp_path / "chat")), "?", {"max_new_tokens": 8})
    assert text.startswith(f"7{TURNS[family][0]}")  # nothing else ends it


def test_rewards_and_guards_know_every_end(tmp_path):
    turn_end = write_chat_model(tmp_path / "chat", "qwen3")
    wide = "--rollout.max-prompt-tokens=192"
    config = make_config(tmp_path, f"--model.path={tmp_path / 'chat'}", wide)
    mesh = make_mesh(1)
    student = load_policy(config, mesh)
    records = load_records(config, student.tokenizer, student.prompts)[1][:2]
    settings = rollout_sampling(config.rollout, student)
    groups = complete(student, config, mesh, student.params, records, settings=settings,
                      completions=4)  # fmt: skip
    assert {(one.text, one.tokens, one.end) for group in groups for one in group} == {
        ("7", 2, End.EOS)
    }
    record = records[0]
    example = solution_encoder(
        student, make_config(tmp_path, "--stage=sft", "--batch.sequence-length=192")
    )(record, None)
    assert example["targets"][-1] == student.eos_id == turn_end
    ends = (student.eos_id, *student.stop_ids)
    tokens = np.array([[[5, ends[0], 0, 0]]])
    host = tokens, tokens > 0, tokens, tokens, np.array([[End.EOS]])
    assert guards.end_check(Rollout(*host), ends) == ()  # pyright: ignore[reportArgumentType]
