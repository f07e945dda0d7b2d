"""Students that compile in a second: random ones, and one that already half knows its answer."""

import atexit
import dataclasses
import functools
import json
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cotjax.config import load
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.policy import Policy
from cotjax.models.transformer import Architecture, Transformer

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


def write_student(folder, **changes):
    """Saves a student that answers 7 to about half of all questions; returns the folder's name.

    The embeddings hold a table of which token follows which: anything -> Answer -> : -> 7 or 3
    -> the end (or a new line and again). So a group of completions has right and wrong ones of
    several lengths, and a policy gradient has something to learn within a few steps.
    """
    tokenizer = load_tokenizer(resolve("tiny"))
    answer, colon, seven, three, line = (
        tokenizer.convert_tokens_to_ids(token) for token in ("Answer", ":", "7", "3", "Ċ")
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


def write_sevens(path, count=24):
    """A file of questions of several lengths whose answer is 7; returns its name."""
    texts = [f"Mia has 7 pens. {'She buys 2 more. ' * (i % 3)}Tom has {i}." for i in range(count)]
    rows = [{"question": text, "answer": "7*1=7\n#### 7"} for text in texts]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def flags(student, data, output, name, *more):
    """Command-line flags of a run that takes seconds, on one device."""
    return [
        *(f"--model.path={student}", "--data.source=jsonl", f"--data.path={data}"),
        *(f"--output={output}", f"--name={name}", "--mesh.data=1", "--seed=3"),
        *("--rollout.prompts=4", "--rollout.group-size=4", "--rollout.max-prompt-tokens=32"),
        *("--rollout.max-new-tokens=8", "--optimizer.learning-rate=0.01"),
        # RolloutGroups evaluation and rollout are one shape, so they share a compiled program.
        *("--eval.problems=4", "--eval.samples=4", "--eval.batch-size=16"),
        "--eval.max-new-tokens=8",
        *("--batch.size=2", "--batch.sequence-length=48", "--checkpoint.every=1"),
        *more,
    ]


@functools.cache
def keep_compiled_programs():
    """Compiles every program once a session, also for runs that build their stage anew.

    Returns the environment in which another process does the same.
    """
    folder = tempfile.TemporaryDirectory(prefix="cotjax-compiled-")
    atexit.register(folder.cleanup)
    settings = {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    return os.environ | {name.upper(): str(value) for name, value in settings.items()}


def make_config(folder, *more):
    """The config of a small run on `write_student` and `write_sevens`, made in a folder."""
    student, data = folder / "student", folder / "sevens.jsonl"
    if not data.exists():
        write_student(student)
        write_sevens(data)
    return load(flags(student, data, folder / "runs", "run", *more))
