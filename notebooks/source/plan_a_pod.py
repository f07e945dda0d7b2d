# %% [markdown]
# # Plan a pod before renting one
#
# `cotjax plan` compiles a run's own programs for devices that are not here, without weights, and says
# what lies in memory, what is sent between devices and how long a step takes at least. So a run
# that would not fit costs a minute on a laptop and not an hour of a slice.
# %%
import importlib.util
import json
import tempfile

import numpy as np

# %% [markdown]
# ## A model that is not here
#
# A folder with only a config.json is a model's shape. This one is small, so that the plans below
# take seconds. The run is GRPO; any config will do.
# %%
FOLDER = pathlib.Path(tempfile.mkdtemp())
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 500,
}


def model_of(shape, name):
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    return str(folder)


def plan(topology, *flags):
    """What `cotjax plan --json` says; a process of its own, since it wants other devices."""
    command = [sys.executable, "-m", "cotjax.plan", "--json", f"--topology={topology}", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: it does not fit
    return json.loads(done.stdout)


RUN = [
    f"--model.path={model_of(SHAPE, 'small')}",
    "--stage=grpo",
    "--rollout.prompts=8",
    "--rollout.group-size=4",
    "--rollout.max-new-tokens=64",
    "--policy.micro-batch=0",
    "--eval.problems=8",
    "--eval.samples=0",
    "--eval.max-new-tokens=64",
]
# %% [markdown]
# ## Eight devices, two ways to use them
#
# `cpu:8` is this machine split into eight devices, whose rates are measured, so this works
# anywhere. With `data = 8` every device holds all parameters and an eighth of the batch; with
# `fsdp = 8` it holds an eighth of the parameters too, and gathers each layer when it needs it.
# %%
meshes = {"data = 8": ["--mesh.data=8"], "fsdp = 8": ["--mesh.data=1", "--mesh.fsdp=8"]}
plans = {name: plan("cpu:8", *RUN, *flags) for name, flags in meshes.items()}
for name, told in plans.items():
    print(f"{name}: {told['verdict']}")
# %%
PARTS = {
    "parameters": BLUE,
    "optimizer": "#90cdf4",
    "reference": "#4a5568",
    "gradients": ORANGE,
    "activations": "#f6ad55",
    "sampling weights": "#9ae6b4",
    "KV cache": GREEN,
    "batch": PURPLE,
    "temporaries": "#e2e8f0",
}


def draw_memory(plans, unit=2**20, name="MiB", capacity=False):
    stages = {label: told["stages"][0] for label, told in plans.items()}
    programs = list(next(iter(stages.values()))["memory"])
    figure, axes = plt.subplots(
        1, len(stages), figsize=(11, 0.5 * len(programs) + 1.6), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    shown = {}
    for axis, (label, stage) in zip(axes[0], stages.items(), strict=True):
        for row, program in enumerate(programs):
            left = 0.0
            for part, size in stage["memory"][program]["parts"].items():
                colour = PARTS.get(part, GREY)
                bar = axis.barh(row, size / unit, left=left, color=colour)
                shown.setdefault(part, bar)
                left += size / unit
        if capacity:
            axis.axvline(plans[label]["hbm"] / unit, color="black", linestyle=":")
        axis.set(title=label, xlabel=f"{name} of a device")
        axis.set_yticks(range(len(programs)), programs)
    axes[0][0].invert_yaxis()
    used = {part: bar for part, bar in shown.items() if any(
        stage["memory"][one]["parts"].get(part, 0) for stage in stages.values() for one in programs
    )}  # fmt: skip
    figure.legend(used.values(), used.keys(), loc="outside lower center", ncols=5)
    plt.show()


draw_memory(plans)


# %% [markdown]
# ## Where a step's time goes
#
# A roofline: what compute, memory and links take at least. The slowest of them bounds a phase, and
# the grey word says which it is. Splitting parameters saves memory and pays with collectives: bytes
# that devices send to each other. (This machine's rates are measured anew for each plan, and are low
# and uneven while it is busy, as here: trust the bytes, which are counted, and not these
# milliseconds.)
# %%
def draw_time(plans, unit=1e3, name="ms"):
    stages = {label: told["stages"][0] for label, told in plans.items()}
    phases = list(next(iter(stages.values()))["phases"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3))
    height = 0.8 / len(stages)
    for number, (label, stage) in enumerate(stages.items()):
        colour = (BLUE, ORANGE, GREEN)[number % 3]
        found = [stage["phases"][one] for one in phases]
        where = np.arange(len(phases)) + (number - (len(stages) - 1) / 2) * height
        seconds = [one["seconds"] * unit for one in found]
        left.barh(where, seconds, height, color=colour, label=label)
        for at, one, value in zip(where, found, seconds, strict=True):
            left.annotate(one["bound"], (value, at), (4, 0), textcoords="offset points",
                          va="center", color=GREY, fontsize=8)  # fmt: skip
        sent = [sum(one["sent"] for one in phase["collectives"]) / 2**20 for phase in found]
        right.barh(where, sent, height, color=colour)
    for axis in (left, right):
        axis.set_yticks(range(len(phases)), phases)
        axis.invert_yaxis()
    left.margins(x=0.25)
    left.set(title=f"{name} a step, at least")
    left.legend()
    right.set(title="MiB that a device sends in a step")
    plt.show()


draw_time(plans)
# %% [markdown]
# ## TPU slices
#
# The same for chips. The compiler for TPUs needs no TPU: where it is installed (`pip install libtpu`,
# on Linux) and `COMPILE` is true, the next cell plans the fine-tuning of a model of Qwen2.5-0.5B's
# shape on eight TPU v5e, in some minutes.
# %%
COMPILE = False
QWEN = SHAPE | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "eos_token_id": 151643,
}
FLAGS = """
    --stage=sft --mesh.data=1 --mesh.fsdp=8 --model.compute-dtype=bfloat16 --model.remat=full
    --batch.size=32 --batch.sequence-length=1024 --eval.samples=0
"""
if COMPILE and importlib.util.find_spec("libtpu"):
    told = plan("v5e:2x4", f"--model.path={model_of(QWEN, 'qwen2.5-0.5b')}", *FLAGS.split())
    print(told["verdict"])
    draw_memory({"v5e:2x4": told}, unit=2**30, name="GiB", capacity=True)
    draw_time({"v5e:2x4": told}, unit=1, name="seconds")
else:
    print("Not compiled for a TPU here: see below for slices that were.")
# %% [markdown]
# Compiled before, and kept in [RESULTS.md](../RESULTS.md): the update of Qwen2.5-3B with GRPO on three
# slices. It fits all of them with much to spare. What differs is what chips send each other.
#
# ```
# python -m cotjax.plan --topology v5e:4x4 --config configs/qwen2.5-3b_gsm8k_grpo.toml \
#   --model.path configs/shapes/qwen2.5-3b
# ```
# %%
# slice: GiB of a device in use and in all, MiB that a device sends by kind
BEFORE = {
    "v5e:4x4": (5.40, 16, {"all-gather": 4931, "all-reduce": 605, "collective-permute": 24136}),
    "v5p:2x2x2": (9.35, 95, {"all-gather": 4931, "all-reduce": 605, "collective-permute": 25556}),
    "v6e:4x4": (5.39, 32, {"all-gather": 4931, "all-reduce": 605, "collective-permute": 24136}),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.8))
for row, (used, capacity, sent) in enumerate(BEFORE.values()):
    left.barh(row, capacity, color="#e2e8f0")
    left.barh(row, used, color=BLUE)
    left.annotate(f"{used:.2f} of {capacity}", (capacity, row), (4, 0), textcoords="offset points",
                  va="center", fontsize=8)  # fmt: skip
    at = 0.0
    for (kind, size), colour in zip(sent.items(), (ORANGE, PURPLE, GREEN), strict=True):
        right.barh(row, size / 1024, left=at, color=colour, label=kind if row == 0 else None)
        at += size / 1024
for axis, title in ((left, "GiB of a device"), (right, "GiB that a device sends in an update")):
    axis.set_yticks(range(len(BEFORE)), BEFORE)
    axis.invert_yaxis()
    axis.set_title(title)
left.margins(x=0.25)
right.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
# %% [markdown]
# `--search` tries mesh, rematerialisation, micro-batch and cache format and keeps what is faster,
# `--price` turns hours into money, and `cotjax launch gke --config run.toml --topology v5e:4x4 …`
# starts the run that was planned. What the numbers are, and what could not be checked, is in
# [docs/planning.md](../docs/planning.md): no plan has been compared with a real TPU yet.
