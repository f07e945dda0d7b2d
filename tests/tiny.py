"""Students that compile in a second: random ones, and one that already half knows its answer."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cotjax.config import load, stage_class, stage_configs
from cotjax.config.flags import key_of
from cotjax.config.loading import unchecked
from cotjax.config.stages import idle_settings
from cotjax.data.prompts import make_prompts
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.policy import Policy
from cotjax.models.transformer import Architecture, Transformer
from cotjax.student.load import LoadedPolicy

TOKENIZER = load_tokenizer(resolve("tiny"))
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
# Whoever asks for no more than its tokenizer and its prompts needs no model.
STUDENT = LoadedPolicy(
    policy=None,  # pyright: ignore[reportArgumentType]
    sampler=None,  # pyright: ignore[reportArgumentType]
    shapes={},
    base_shapes={},
    tokenizer=TOKENIZER,
    eos_id=END,
    pad_id=PAD,
    prompts=make_prompts(TOKENIZER, "plain"),
    notes=(),
    read=lambda: ({}, {}),
)

# Two query heads share a key head, so that everything here is also about grouped queries.
SHAPE = Architecture("llama", 432, 16, 2, 4, 2, 8, 32, tie_embeddings=False)


def make_model(shape=SHAPE, seed=0):
    """A decoder whose every parameter is so far from zero that context changes each logit."""
    definition, params = nnx.split(Transformer(shape, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype), params)
    return nnx.merge(definition, noisy)


@functools.cache
def make_policy(shape=SHAPE, seed=0):
    """(policy, parameters) of `make_model`."""
    return Policy.split(make_model(shape, seed))


def write_student(folder, answers=("7", "3"), **changes):
    """Saves a student that answers 7 to about half of all questions; returns the folder's name.

    The embeddings hold a table of which token follows which: anything -> Answer -> : -> 7 or 3
    -> the end (or a new line and again). So a group of completions has right and wrong ones of
    several lengths, and a policy gradient has something to learn within a few steps.
    """
    tokenizer = TOKENIZER
    answer, colon, seven, three, line = (
        tokenizer.convert_tokens_to_ids(token) for token in ("Answer", ":", *answers, "Ċ")
    )
    model = Transformer(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    embed, unembed = rng.normal(0, 0.05, (2, SHAPE.vocab_size, SHAPE.hidden_size))
    begin, after_answer, after_colon, after_digit = range(4)
    embed[:, begin] += 1
    for places, tokens in ((after_answer, [answer]), (after_colon, [colon]),
                           (after_digit, [seven, three])):  # fmt: skip
        embed[tokens, begin], embed[tokens, places] = 0, 1
    unembed[answer, begin] = unembed[colon, after_answer] = 2.5
    unembed[[seven, three], after_colon] = 2.5
    unembed[[tokenizer.eos_token_id, line], after_digit] = 2.5, 2.2
    model.embed.embedding[...] = jnp.asarray(embed, jnp.float32)
    model.unembed_weight[...] = jnp.asarray(unembed, jnp.float32)
    huggingface.save(model, folder, tokenizer=tokenizer)
    return str(folder)


# Unlike the student and each other in depth, width and padding of the vocabulary.
TEACHERS = {
    "weak": Architecture("llama", 432, 8, 1, 2, 1, 8, 16),
    "strong": Architecture("llama", 440, 24, 2, 2, 1, 8, 32, tie_embeddings=False),
}


def write_teachers(folder, **more):
    """Saves `TEACHERS` and further shapes, each with weights of its own, under their names."""
    for seed, (name, shape) in enumerate((TEACHERS | more).items()):
        huggingface.save(make_model(shape, seed), folder / name, tokenizer=TOKENIZER)


def with_section(config, name, **changes):
    """A config with settings of one section replaced, unchecked."""
    section = dataclasses.replace(getattr(config, name), **changes)
    return dataclasses.replace(config, **{name: section})


def without_notes(said):
    """What was said on the standard error, but for notes, as the sevens are alike."""
    return "".join(line for line in said.splitlines(True) if not line.startswith("note: "))


def write_sevens(path, count=24):
    """A file of questions of several lengths whose answer is 7; returns its name."""
    texts = [f"Mia has 7 pens. {'She buys 2 more. ' * (i % 3)}Tom has {i}." for i in range(count)]
    rows = [{"question": text, "answer": "7*1=7\n#### 7"} for text in texts]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def flags(student, data, output, name, *more):
    """Command-line flags of a run that takes seconds, on one device; `more` names its stage."""
    small = [
        *(f"--model.path={student}", "--data.source=jsonl", f"--data.path={data}"),
        *(f"--output={output}", f"--name={name}", "--mesh.data=1", "--seed=3"),
        *("--rollout.prompts=4", "--rollout.group-size=4", "--rollout.max-prompt-tokens=32"),
        *("--rollout.max-new-tokens=8", "--optimizer.learning-rate=0.01"),
        # Evaluation and rollout are one shape, so they share a compiled program.
        *("--eval.problems=4", "--eval.samples=4", "--eval.batch-size=16"),
        "--eval.max-new-tokens=8",
        *("--batch.size=2", "--batch.sequence-length=48", "--checkpoint.every=1"),
    ]
    stages = [flag.removeprefix("--stage=") for flag in more if flag.startswith("--stage=")]
    own = stage_class(stages[0] if stages else "grpo")
    if not (own.entries or any(flag.startswith("--config") for flag in more)):
        small = [flag for flag in small if own.reads_key(key_of(flag.partition("=")[0])[0])]
    return [*in_use(small, more), *more]  # each stage of a list takes what it reads


def in_use(small, more):
    """The flags of `small` that do something beside the others."""
    config = unchecked([*small, *more])
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    idle = [(stage_class(own.stage), idle_settings(own)) for own in stages]

    def used(key):
        return any(own.reads_key(key) and key not in found for own, found in idle)

    return [flag for flag in small if used(key_of(flag.partition("=")[0])[0])]


def make_config(folder, *more, tool=""):
    """The config of a small run on `write_student` and `write_sevens`, made in a folder."""
    student, data = folder / "student", folder / "sevens.jsonl"
    if not data.exists():
        write_student(student)
        write_sevens(data)
    return load(flags(student, data, folder / "runs", "run", *more), tool=tool)
