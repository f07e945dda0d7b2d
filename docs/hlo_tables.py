"""What a 3B model's programs do on TPU slices beside the least possible, into docs/hlo.md.

    python docs/hlo_tables.py --texts DIR                       # all of TOPOLOGIES
    python docs/hlo_tables.py --texts DIR --topology v5e:4x4    # one of them
    python docs/hlo_tables.py --page                            # only write the page

Needs the extra [plan]; no TPU. The update and the sampler of `RUN` are compiled for the slice,
the sampler with 2 and with 4 layers (see `cotjax.planning.depth`): some minutes of a CPU. DIR keeps
the compiled texts, so that none is compiled twice; what is counted in them goes to
docs/results/hlo.jsonl. `least_update` and `least_turn` say what the least possible is.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "results" / "hlo.jsonl", ROOT / "docs" / "hlo.md"
MODEL = ROOT / "configs" / "shapes" / "qwen2.5-3b"
# GSM8K's file need not be there: the built-in problems stand for it.
RUN = (
    *("--config", str(ROOT / "configs" / "qwen2.5-3b_gsm8k_grpo.toml"), f"--model.path={MODEL}"),
    "--data.path=train.jsonl",
)
TOPOLOGIES = ("v5e:4x4", "v6e:8x8")
DEPTHS = (2, 4)  # of the samplers that are compiled
NARROW, WIDE = 2, 4  # bytes of bfloat16 and of float32
LARGE = 1.3  # a ratio that needs a reason
OPERATIONS, MEMORY, SENT = "GFLOP a token", "memory traffic, MB a token", "sent, MB a layer"
_ACTIVATIONS = (
    "{mlp} of it are arrays [4352, 11008] of 96 MB in bfloat16 (gate, up, their product and the "
    "gradients of these), and {hidden} those [4352, 2048], which products write and others read; "
    "{gradients} are gradients of a layer's matrices in float32 before they are rounded. The least "
    "has none of them, as if a whole layer were one kernel. They cost no time as long as they take "
    "less than products do: {memory} s beside {products}."
)
_REDUCED = (
    "gradients are summed by an all-reduce and then cut, which sends each twice where a "
    "reduce-scatter would send it once"
)
# Of each ratio above `LARGE`, as the compiled program's instructions show it.
REASONS: dict[tuple[str, str, str], str] = {
    ("v5e:4x4", "update", MEMORY): _ACTIVATIONS.format(
        mlp="43%", hidden="13%", gradients="12%", memory="0.79", products="2.57"
    ),
    ("v6e:8x8", "update", MEMORY): _ACTIVATIONS.format(
        mlp="34%", hidden="12%", gradients="11%", memory="0.10", products="0.14"
    ),
    ("v6e:8x8", "update", SENT): (
        f"{_REDUCED} (304 MB a layer for 152); and the matrices of attention, of which each device "
        "has 32 rows, are gathered by an all-reduce of zeros beside each device's own part (132 MB "
        "for 66)."
    ),
}
HEADER = """\
# Programs beside the least possible

What the TPU's compiler makes of an update and of a turn of decoding, and the least that they could
do. Qwen2.5-3B, `configs/qwen2.5-3b_gsm8k_grpo.toml`: all parameters learn, bfloat16 products,
`model.remat = "full"`, 64 prompts of 256 tokens with 8 completions of 512, everything split by
`fsdp`. A device of `v5e:4x4` takes four micro-batches of one prompt, one of `v6e:8x8` a single one.
Nothing ran on a TPU; the numbers are counted in the compiled programs, as
[a plan](planning.md#what-the-numbers-are) counts them.

```text
pip install -e ".[plan]"
python docs/hlo_tables.py --texts compiled    # writes this page
```

"""
BELOW = """
**The least, of an update**, by token of the row (a prompt once, and its completions):

- operations: 2 for each number of a matrix and each token forward, 4 backward, 2 for the reference;
  of the unembedding for tokens of completions alone. `remat` and losses in chunks do a forward pass
  again, which is what is above the least. Attention's kernel does not say its own: left out on both
  sides.
- memory traffic: in each of three passes (the reference's, forward, backward) a matrix is written
  once as it is gathered, in bfloat16, and read once; its gradient is written and read; a layer's
  input is kept and read again; optimizer and sums of gradients are read and written.
- sent, in a layer for a micro-batch: three gathers and one reduce-scatter, in bfloat16, of
  n − 1 of n parts.

**The least, of a turn of decoding**, by completion: 2 operations for each number of a matrix, 4 for
each place of the cache and each number of a head; all matrices and full caches are read once.
Nothing is sent, as each device holds all parameters. Below 1 is what stays on the chip.

**Above 1.3 times the least:**

"""
FOOTER = """
## What was closed

A TPU's compiler by itself multiplies with gathered parameters part by part, while the next part is
on its way (a "windowed einsum"). Where `fsdp` splits the axis that a product sums over, each part
gives a whole result, and these are added up in float32 in main memory: for a layer's gate alone 191
MB, read and written again for every two of 16 parts. The update moved 207 MB a token, 16 times the
least, which takes 4.4 s of a step beside 2.6 of products. cotjax sets
`--xla_jf_spmd_threshold_for_windowed_einsum_mib` in `LIBTPU_INIT_ARGS` so high that none is made;
gathers are then started ahead and run beside other products. The variable stays as it is where it
is set, also to nothing, which is the way out if a libtpu lacks the flag:

```python
>>> import os
>>> os.environ["LIBTPU_INIT_ARGS"] = ""
>>> from cotjax.startup import gather_whole
>>> gather_whole()
>>> os.environ.pop("LIBTPU_INIT_ARGS")
''

```

| update on `v5e:4x4`, of a device | by itself | as cotjax runs it |
|---|---:|---:|
| memory traffic of a step, GB | 3,605 | 648 |
| sent in a step, GB | 124 | 112 |
| seconds at least: products, memory, links | 2.57, 4.40, 1.24 | 2.57, 0.79, 1.12 |

Gradients then cross devices in bfloat16, as they do on `v6e:8x8` either way; part by part they did
so in float32.
"""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the least possible depends on; of one device where nothing else is said.

    Attributes:
      layers: L.
      hidden: D.
      heads: all heads' numbers together.
      keys: all key heads' numbers together.
      mlp: M.
      vocabulary: V.
      devices: n, over which parameters are split (fsdp).
      prompts: of a micro-batch, or those that are sampled for.
      group: completions of each.
      prompt_tokens: P.
      new_tokens: T.
      micros: micro-batches of a step.
      references: frozen models that the update scores.
    """

    layers: int
    hidden: int
    heads: int
    keys: int
    mlp: int
    vocabulary: int
    devices: int
    prompts: int
    group: int
    prompt_tokens: int
    new_tokens: int
    micros: int = 1
    references: int = 0

    @property
    def layer(self) -> int:
        """Numbers of a layer's matrices."""
        attention = 2 * self.hidden * (self.heads + self.keys)
        return attention + 3 * self.hidden * self.mlp

    @property
    def head(self) -> int:
        """Numbers of the embedding, which is the unembedding too."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Numbers of all matrices."""
        return self.layers * self.layer + self.head

    @property
    def rows(self) -> int:
        """Completions."""
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch: each prompt once, and its completions."""
        return self.prompts * self.prompt_tokens + self.rows * self.new_tokens


def least_update(of: Sizes) -> dict[str, float]:
    """The least that an update does of each quantity; see the page for the words."""
    scored = of.rows * of.new_tokens
    passes = of.references + 2  # each reads every matrix: the reference's, forward, backward
    products = (2 * of.references + 6) * (of.layers * of.layer * of.tokens + of.head * scored)
    weights = passes * of.matrices * (2 * NARROW + WIDE / of.devices)
    kept = 2 * NARROW * of.layers * of.tokens * of.hidden
    state = 6 * WIDE * of.matrices / of.devices
    summed = (2 * of.micros if of.micros > 1 else 0) * WIDE * of.matrices / of.devices
    gradient = 2 * NARROW * of.matrices  # whole, before devices sum it
    memory = of.micros * (weights + kept + gradient) + state + summed
    sent = (passes + 1) * NARROW * of.layer * (of.devices - 1) / of.devices
    tokens = of.micros * of.tokens
    return {
        OPERATIONS: of.micros * products / tokens / 1e9,
        MEMORY: memory / tokens / 1e6,
        SENT: sent / 1e6,
    }


def least_turn(of: Sizes) -> dict[str, float]:
    """The least that a turn of decoding does, with full caches."""
    places = of.rows * (of.prompt_tokens + of.new_tokens)
    products = 2 * of.matrices * of.rows + 4 * of.layers * of.heads * places
    cached = of.prompts * of.prompt_tokens + of.rows * of.new_tokens
    memory = NARROW * (of.matrices + 2 * of.layers * of.keys * cached)
    return {
        OPERATIONS: products / of.rows / 1e9,
        MEMORY: memory / of.rows / 1e6,
        SENT: 0.0,
    }


# Programs.


def measure(name: str, texts: Path) -> list[dict[str, Any]]:
    """The quantities of both programs on a topology; sets what JAX reads from the environment."""
    from cotjax import config as configs
    from cotjax.planning.topologies import mesh_of, parse_topology, set_up

    topology = parse_topology(name)
    set_up(topology)  # JAX is imported below
    from cotjax.planning.collectives import MeshShape
    from cotjax.planning.opening import stages_of, with_builtin_data

    (config,) = map(with_builtin_data, stages_of(configs.load(list(RUN))))
    mesh = mesh_of(topology, config.mesh)
    shape = MeshShape({axis: int(size) for axis, size in mesh.shape.items()}, topology.island)
    programs = _texts(config, mesh, texts, f"{topology.chip}-{topology.shape}")
    sizes = _sizes(config, topology.size)
    turn = dataclasses.replace(sizes, prompts=sizes.prompts * sizes.micros)
    pairs = (
        ("update", update_numbers(programs["update"][0], shape, sizes), least_update(sizes)),
        ("decoding", turn_numbers(programs["rollout"], shape, turn), least_turn(turn)),
    )
    return [
        {"topology": name, "program": program, "quantity": quantity}
        | {"compiled": found[quantity], "least": least[quantity]}
        for program, found, least in pairs
        for quantity in least
    ]


def _sizes(config: Any, devices: int) -> Sizes:
    from cotjax.models.formats.huggingface import read_architecture

    model, rollout = read_architecture(MODEL), config.rollout
    micro = config.policy.micro_batch or rollout.prompts // devices
    return Sizes(
        layers=model.num_layers,
        hidden=model.hidden_size,
        heads=model.num_heads * model.head_dim,
        keys=model.num_kv_heads * model.head_dim,
        mlp=model.mlp_size,
        vocabulary=model.vocab_size,
        devices=devices,
        prompts=micro,
        group=rollout.group_size,
        prompt_tokens=rollout.max_prompt_tokens,
        new_tokens=rollout.max_new_tokens,
        micros=rollout.prompts // (devices * micro),
        references=int(config.policy.kl_coefficient not in ("auto", 0)),
    )


def _texts(config: Any, mesh: Any, folder: Path, label: str) -> dict[str, list[str]]:
    """XLA's texts by the program's name, compiled where they are not in the folder."""
    from cotjax.planning import steps
    from cotjax.planning.compiling import compiled_text
    from cotjax.planning.opening import opened

    found: dict[str, list[str]] = {}
    for name, layers in (*(("rollout", depth) for depth in DEPTHS), ("update", 0)):
        path = folder / f"{label}-{name}-{layers}.txt"
        if not path.exists():
            print(f"compiling {path.stem}", file=sys.stderr, flush=True)
            with opened(config, mesh, layers=layers) as stage:
                last = {one.name: one for one in steps.usual_programs(list(stage.programs()))}
                own = last[name]
                lowered = own.function.lower(*own.args, **own.kwargs)
            path.write_text(compiled_text(lowered, dumped=True)[1], encoding="utf-8")
        found.setdefault(name, []).append(path.read_text("utf-8"))
    return found


def update_numbers(text: str, mesh: Any, of: Sizes) -> dict[str, float]:
    """What a compiled update does of each quantity."""
    from cotjax.planning.cost import count, count_loops
    from cotjax.planning.hlo import HloModule

    module = HloModule.parse(text)
    cost, layers = count(module, mesh), count_loops(module, mesh, of.layers)
    tokens = of.micros * of.tokens
    return {
        OPERATIONS: cost.flops / tokens / 1e9,
        MEMORY: cost.hbm / tokens / 1e6,
        SENT: layers.sent / (of.layers * of.micros) / 1e6,
    }


def turn_numbers(texts: list[str], mesh: Any, of: Sizes) -> dict[str, float]:
    """What a turn of decoding does, from the texts of two depths."""
    from cotjax.planning.cost import count
    from cotjax.planning.hlo import HloModule

    one, other = (count(HloModule.parse(text), mesh).longest for text in texts)
    steps = (of.layers - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0])

    def whole(a: float, b: float) -> float:
        return b + steps * (b - a)

    return {
        OPERATIONS: whole(one.flops, other.flops) / of.rows / 1e9,
        MEMORY: whole(one.hbm, other.hbm) / of.rows / 1e6,
        SENT: (other.sent - one.sent) / (DEPTHS[1] - DEPTHS[0]) / 1e6,
    }


# The page.


def read() -> list[dict[str, Any]]:
    """What was counted."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Which number it is."""
    return row["topology"], row["program"], row["quantity"]


def ratio(row: dict[str, Any]) -> float:
    """Compiled over the least; 1 where both are nothing."""
    if not row["least"]:
        return 1.0 if row["compiled"] < 1e-3 else float("inf")
    return row["compiled"] / row["least"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each quantity of each program."""
    yield "| slice | program | of a device | compiled | least | ratio |\n"
    yield "|---|---|---|---:|---:|---:|\n"
    for row in rows:
        cells = (f"`{row['topology']}`", row["program"], row["quantity"])
        numbers = f"{row['compiled']:,.3g} | {row['least']:,.3g} | {ratio(row):.2f}"
        yield f"| {' | '.join(cells)} | {numbers} |\n"


def page(rows: list[dict[str, Any]]) -> str:
    """The page."""
    large = [row for row in rows if key(row) in REASONS]
    told = (f"- `{row['topology']}`, {row['quantity']}: {REASONS[key(row)]}\n" for row in large)
    return "".join([HEADER, *table(rows), BELOW, *told, FOOTER])


def main() -> None:
    """Counts what is asked for, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", choices=TOPOLOGIES)
    parser.add_argument("--texts", type=Path, metavar="DIR", help="where compiled texts are kept")
    parser.add_argument("--page", action="store_true", help="count nothing")
    args = parser.parse_args()
    if not args.page and args.texts is None:
        parser.error("--texts DIR: says where the compiled texts are kept.")
    if args.topology:
        rows = measure(args.topology, args.texts)
        others = [row for row in read() if row["topology"] != args.topology]
        rows = sorted([*others, *rows], key=lambda row: TOPOLOGIES.index(row["topology"]))
        RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif not args.page:
        args.texts.mkdir(parents=True, exist_ok=True)
        for name in TOPOLOGIES:  # in a process each, since JAX is set up for one
            own = [sys.executable, __file__, "--topology", name, "--texts", str(args.texts)]
            subprocess.run(own, check=True)
    PAGE.write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
