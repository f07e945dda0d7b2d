"""Memory of losses with and without whole logits, from XLA's own analysis of the compiled program.

    python benchmarks/memory_chunked.py [cpu|tpu] [--chunk-size 64]

Compiles value and gradient (student hidden states and unembedding) of every loss for one sequence
and prints the temporary bytes: what the program needs beyond its inputs and outputs. Nothing is
executed, so neither the memory nor a TPU is needed; `tpu` compiles ahead of time for one chip of a
v5e with libtpu.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it compiles beside another that does

import argparse  # noqa: E402
import functools  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from cotjax import core  # noqa: E402

KINDS = [
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]
KEPT = 32  # teacher logits of the top-k row


def logits(hidden, matrix):
    return jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32)


def token_logprobs(student, teacher, ids, logp, chunk_size):
    tokens = ids[..., 0]
    if chunk_size is None:
        return core.token_logprobs(logits(*student), tokens)
    return core.chunked_token_logprobs(*student, tokens, chunk_size=chunk_size)[0]


def with_entropy(student, teacher, ids, logp, chunk_size):
    """Both differentiated, as an entropy bonus does."""
    tokens = ids[..., 0]
    if chunk_size is None:
        dense = logits(*student)
        return core.token_logprobs(dense, tokens) + 0.1 * core.entropy(dense)
    chosen, spread = core.chunked_token_logprobs(*student, tokens, chunk_size=chunk_size)
    return chosen + 0.1 * spread


def topk_forward_kl(student, teacher, ids, logp, chunk_size):
    if chunk_size is None:
        return core.topk_forward_kl(logp, ids, logits(*student))
    return core.chunked_topk_forward_kl(logp, ids, *student, chunk_size=chunk_size)


def divergence(kind, student, teacher, ids, logp, chunk_size):
    if chunk_size is None:
        return core.divergence(kind, jax.lax.stop_gradient(logits(*teacher)), logits(*student))
    return core.chunked_divergence(kind, *teacher, *student, chunk_size=chunk_size)


def mixture(student, teacher, ids, logp, chunk_size):
    weight = jnp.array([0.5, 0.5])
    if chunk_size is None:
        scores = jnp.stack([logits(*teacher), logits(teacher[0][..., ::-1], teacher[1])])
        mixed = core.mix_teachers(jax.lax.stop_gradient(scores), weight)
        return core.forward_kl(mixed, logits(*student))
    hiddens, matrices = [teacher[0], teacher[0][..., ::-1]], [teacher[1]] * 2
    return core.chunked_divergence(
        "forward_kl", hiddens, matrices, *student, chunk_size=chunk_size, teacher_weight=weight
    )


LOSSES = {
    "token_logprobs": token_logprobs,
    "  and entropy": with_entropy,
    **{kind: functools.partial(divergence, kind) for kind in KINDS},
    "forward_kl, 2 teachers": mixture,
    f"topk_forward_kl, K={KEPT}": topk_forward_kl,
}


def temporary_bytes(loss, chunk_size, size, sharding):
    """Bytes that the compiled value and gradient of the mean loss needs beside its arguments."""

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    states, matrix = (1, size.tokens, size.width), (size.vocabulary, size.width)
    student = array(states, jnp.bfloat16), array(matrix, jnp.bfloat16)
    ids = array((1, size.tokens, KEPT), jnp.int32)
    logp = array(ids.shape, jnp.float32)

    def mean(student, teacher, ids, logp):
        return loss(student, teacher, ids, logp, chunk_size).mean()

    program = jax.jit(jax.value_and_grad(mean)).lower(student, student, ids, logp).compile()
    return program.memory_analysis().temp_size_in_bytes


def sharding_of(platform):
    if platform == "cpu":
        return SingleDeviceSharding(jax.devices("cpu")[0])
    return SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("platform", nargs="?", default="both", choices=["cpu", "tpu", "both"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--chunk-size", type=int, default=128)
    size = parser.parse_args()
    print(
        f"T {size.tokens}, V {size.vocabulary}, D {size.width}, bfloat16, one sequence, "
        f"chunk_size {size.chunk_size}; MiB of temporaries, forward and backward"
    )
    print(f"{'loss':26}{'platform':10}{'dense':>10}{'chunked':>10}{'ratio':>8}")
    for platform in ["cpu", "tpu"] if size.platform == "both" else [size.platform]:
        sharding = sharding_of(platform)
        for name, loss in LOSSES.items():
            dense, chunked = (
                temporary_bytes(loss, chunk, size, sharding) / 2**20
                for chunk in (None, size.chunk_size)
            )
            ratio = dense / chunked
            print(f"{name:26}{platform:10}{dense:10.0f}{chunked:10.0f}{ratio:8.1f}", flush=True)


if __name__ == "__main__":
    main()
