"""Sequence-level distillation: texts cross from one tokenizer to another, live or from a file."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cotjax.errors import InputError
from cotjax.models.formats import huggingface
from cotjax.models.transformer import Architecture, Transformer
from cotjax.parallel.mesh import make_mesh
from cotjax.rationales import main as write_rationales
from cotjax.stages.distill import Distill
from tests.tiny import flags as run_flags
from tests.tiny import make_config

RIGHT, WRONG = "Step 1: 7*1=7\nAnswer: 7", "Answer: 3"


def bytes_tokenizer():
    """One id per byte, none of them the tiny student's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0, "<pad>": 1} | {letter: i for i, letter in enumerate(alphabet, 2)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")


def write_speller(folder, text):
    """A model that answers a text whose letters differ, whatever it is asked, byte by byte.

    After any letter that is not of the text comes the first one; see `write_student`.
    """
    tokenizer = bytes_tokenizer()
    shape = Architecture("llama", 264, 64, 1, 2, 1, 32, 64, tie_embeddings=False)
    model = Transformer(shape, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    embed, unembed = rng.normal(0, 0.01, (2, shape.vocab_size, shape.hidden_size))
    letters = tokenizer.encode(text, add_special_tokens=False)
    assert len(set(letters)) == len(letters) < shape.hidden_size
    embed[:, 0] += 1
    unembed[letters[0], 0] = 4
    following = [*letters[1:], tokenizer.eos_token_id]
    for place, (letter, after) in enumerate(zip(letters, following, strict=True), 1):
        embed[letter, 0], embed[letter, place], unembed[after, place] = 0, 1, 4
    model.embed.embedding[...] = jnp.asarray(embed, jnp.float32)
    model.unembed_weight[...] = jnp.asarray(unembed, jnp.float32)
    huggingface.save(model, folder, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_speller(folder / "right", "Answer: 7")
    write_speller(folder / "wrong", "Answer: 3")
    return folder


def open_stage(folder, *more, names=("wrong", "right"), steps=8):
    flags = ["--stage=distill", "--distill.target=text", f"--steps={steps}"]
    flags += ["--curriculum.num-monitor=4", "--curriculum.buckets=2"]
    if not any("distribution" in flag for flag in more):  # for which nobody writes
        flags += ["--rollout.max-new-tokens=16", "--rollout.temperature=0.2"]
    flags += ["--rollout.max-prompt-tokens=100"]
    flags += ["--batch.size=4"]  # room for all that is written
    flags += ["--teachers.paths", *(str(folder / name) for name in names)]
    return Distill.from_config(make_config(folder, *flags, *more), make_mesh(1))


def targets(stage, step=0):
    """The texts that a step's rows teach, and its metrics."""
    work = stage.next_step(stage.state.params, step)
    ((batch, _),) = work.batch
    texts = []
    for row in range(len(batch.tokens)):
        for segment in range(1, int(batch.segment[row].max()) + 1):
            inside = (batch.segment[row] == segment) & (batch.weight[row] > 0)
            texts.append(stage.student.tokenizer.decode(np.asarray(batch.targets[row][inside])))
    return texts, work.metrics


def test_a_text_is_written_in_one_tokenizer_and_learned_in_another(folder):
    stage = open_stage(folder)
    assert any(note.startswith("evaluation: keys and values take") for note in stage.notes)
    end = stage.student.tokenizer.eos_token
    model = stage.teachers.models[1]
    assert model.student.tokenizer.get_vocab() != stage.student.tokenizer.get_vocab()
    for step in (4, 7):  # the second bucket, whose teacher is right
        texts, metrics = targets(stage, step)
        assert texts == ["Answer: 7" + end] * 4
        assert metrics["kept_texts"] == 1 and metrics["teacher_2"] == 1


def test_wrong_texts_are_left_out_unless_one_wants_them(folder):
    texts, metrics = targets(open_stage(folder))
    assert texts == [] and metrics["kept_texts"] == 0 and metrics["teacher_1"] == 1
    stage = open_stage(folder, "--distill.no-filter-texts")
    texts, metrics = targets(stage)
    assert texts == ["Answer: 3" + stage.student.tokenizer.eos_token] * 4


def test_alpha_is_the_share_of_the_datas_own_texts(folder):
    stage = open_stage(folder, "--distill.alpha=0.5", names=("right",))
    texts = [text for step in range(6) for text in targets(stage, step)[0]]
    own = np.mean([text.startswith("Step 1") for text in texts])
    assert len(texts) == 24 and 0.2 < own < 0.8


def test_a_student_learns_from_a_teacher_of_another_tokenizer(folder):
    stage = open_stage(folder, "--optimizer.learning-rate=0.01", names=("right",), steps=40)
    state, losses = stage.state, []
    for step in range(40):
        work = stage.next_step(state.params, step)
        state, metrics = stage.update(state, work.batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[-1] < losses[0] / 3
    _, rows = stage.evaluate(state.params)
    assert {row["completion"] for row in rows} == {"Answer: 7"}


def test_a_step_without_any_text_changes_nothing(folder):
    stage = open_stage(folder, "--optimizer.weight-decay=0")
    before = np.array(stage.state.params["embed"]["embedding"])
    state, metrics = stage.update(stage.state, stage.next_step(stage.state.params, 0).batch)
    assert metrics["loss"] == (0, 0)
    np.testing.assert_array_equal(state.params["embed"]["embedding"], before)


def test_texts_of_a_file_are_the_targets_of_its_questions(folder):
    make_config(folder)
    out = folder / "rationales.jsonl"
    argv = run_flags(folder / "student", folder / "sevens.jsonl", folder, "rationales")
    assert write_rationales(["--out", str(out), *argv]) == 0
    stage = open_stage(folder, names=("wrong", "rationales.jsonl"))
    end = stage.student.tokenizer.eos_token
    texts, metrics = targets(stage, 7)
    assert texts == [RIGHT + end] * 4 and metrics["kept_texts"] == 1
    rows = [json.loads(line) | {"question": "What else?"} for line in out.read_text().splitlines()]
    (folder / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="solves none of the 16 questions"):
        open_stage(folder, names=("others.jsonl",))


def test_the_adaptive_schedule_follows_the_texts_loss(folder):
    flags = "--curriculum.schedule=adaptive", "--curriculum.check-every=2"
    flags += "--curriculum.patience=1", "--curriculum.min-progress=0.9", "--curriculum.handover=1"
    stage = open_stage(folder, *flags, "--distill.no-filter-texts", steps=8)
    said = [stage.next_step(stage.state.params, step) for step in range(6)]
    alarms = [(step, work.alarm) for step, work in enumerate(said) if work.alarm]
    ((step, sentence),) = alarms
    assert step == 4 and "wrong hands over to" in sentence
    assert said[3].metrics["teacher_1"] == 1 and said[5].metrics["teacher_2"] == 1


@pytest.mark.parametrize("flag", ["--distill.on-policy=0.5", "--teachers.cache=somewhere"])
def test_what_texts_cannot_be_combined_with(folder, flag):
    with pytest.raises(InputError, match="texts of teachers are learned as they stand"):
        open_stage(folder, flag)


def test_texts_need_a_teacher(folder):
    with pytest.raises(InputError, match="there is no teacher"):
        open_stage(folder, names=())


def test_a_file_has_no_distribution_and_tokenizers_must_agree_for_one(folder):
    with pytest.raises(InputError, match="holds texts, which have no distribution"):
        open_stage(folder, "--distill.target=distribution", names=("rationales.jsonl",))
    with pytest.raises(InputError, match='different tokenizers.*distill.target = "text"') as said:
        open_stage(folder, "--distill.target=distribution", names=("right",))
    assert str(folder / "right") in str(said.value) and str(folder / "student") in str(said.value)


# Questions that a teacher lacks.


def write_some(folder, name, count):
    """A file of texts about the first `count` of the questions."""
    make_config(folder)
    lines = (folder / "sevens.jsonl").read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(lines[:count]))
    return name


def test_a_place_whose_teacher_has_no_text_goes_to_another_question(folder):
    some = write_some(folder, "some.jsonl", 8)
    stage = open_stage(folder, names=(some,))
    (note,) = [note for note in stage.notes if "has no right text" in note]
    assert "some.jsonl has no right text for 8 of the 16 questions of this run" in note
    end, shares = stage.student.tokenizer.eos_token, []
    for step in range(8):
        texts, metrics = targets(stage, step)
        pool = [stage.dataset.records[index] for index in stage.data.pool(step)]
        there = len(pool) - stage.teachers.lacks(0, pool)
        assert texts == [RIGHT + end] * len(texts) and min(4, there) <= len(texts) <= 4
        assert metrics["kept_texts"] == len(texts) / 4
        shares.append(metrics["refilled"])
    assert 0 < np.mean(shares) < 1 and set(shares) <= {0, 0.25, 0.5, 0.75, 1}


def test_a_teacher_that_has_all_is_asked_for_the_step_s_questions_alone(folder):
    stage = open_stage(folder, names=(write_some(folder, "all.jsonl", 24),))
    assert not any("has no right text" in note for note in stage.notes)
    assert targets(stage)[1]["refilled"] == 0
    assert stage.data.get_state()["rows"]["place"] == 4


def test_a_batch_stays_short_where_the_bucket_has_no_further_texts(folder):
    stage = open_stage(folder, names=(write_some(folder, "one.jsonl", 1),))
    stage.data.prepare(stage.state.params, 0)
    bucket, texts = int(stage.data.bucket[0]), {}
    for step in (0, 4):  # the first of each bucket
        texts[step], metrics = targets(stage, step)
        assert metrics["kept_texts"] == len(texts[step]) / 4 < 1
    there, nowhere = (0, 4) if bucket == 0 else (4, 0)
    assert texts[there] and not texts[nowhere]


def test_refilled_batches_resume_where_they_stopped(folder):
    some = write_some(folder, "some.jsonl", 8)

    def batches(stage, steps):
        return [np.asarray(stage.next_step(stage.state.params, step).batch[0][0].tokens)
                for step in steps]  # fmt: skip

    whole = batches(open_stage(folder, names=(some, "right")), range(6))
    first, again = (open_stage(folder, names=(some, "right")) for _ in range(2))
    batches(first, range(3))
    again.data.set_state(json.loads(json.dumps(first.data.get_state())))
    for one, other in zip(whole[3:], batches(again, range(3, 6)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_never_writes_what_counts_is_not_asked_without_end(folder, monkeypatch):
    stage = open_stage(folder, names=("wrong",))
    asked, write = [], stage.teachers.write

    def counted(teacher, records, **more):
        asked.append((len(records), more["first"]))
        return write(teacher, records, **more)

    monkeypatch.setattr(stage.teachers, "write", counted)
    texts, metrics = targets(stage)
    assert texts == [] and metrics["refilled"] == 0
    assert asked == [(4, 0), (4, 4)], "its own questions, and others once"
