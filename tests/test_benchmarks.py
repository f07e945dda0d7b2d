"""The tables beside other systems, and how tiny teachers begin."""

import json
import pathlib
import re
import runpy
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax import load_records
from cotjax.config import load
from cotjax.data.packing import pack_in_order
from cotjax.data.prompts import prompts_of
from cotjax.models.formats.load import load_model, load_tokenizer
from cotjax.models.formats.locate import resolve
from cotjax.models.policy import Policy
from cotjax.teachers import pool

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "peers.py"))


def test_table_has_medians_and_the_ratio_to_the_best_peer(peers):
    def runs(system, speeds, seconds):
        return [
            {"shape": "tiny", "system": system, "rollout_tok_s": speed, "step_s": second}
            for speed, second in zip(speeds, seconds, strict=True)
        ]

    records = (
        runs("ours", [500, 600, 9000], [1, 2, 3])
        + runs("trl", [100, 200, 150], [8, 9, 7])
        + runs("tunix", [300, 300, 1], [4, 5, 6])
    )
    lines = peers["table"](records).splitlines()
    assert lines[0] == "| shape | | cotjax | TRL | Tunix | ratio |"
    assert lines[2:] == [
        "| tiny | rollout, tokens/s | 600 | 150 | 300 | 2.00× |",
        "| tiny | whole step, s | 2 | 8 | 5 | 2.50× |",
    ]


def test_ragged_sizes_differ_from_the_shape_only_in_prompts_and_length(peers):
    static = peers["sizes"]("tiny", steps=3, ragged=False)
    ragged = peers["sizes"]("tiny", steps=3, ragged=True)
    changed = {key: ragged[key] for key in static if static[key] != ragged[key]}
    assert changed == {"prompts": 64, "new_tokens": 256, "ragged": True}


def test_our_update_is_the_step_without_its_rollout(peers):
    size = {"prompts": 2, "group": 3, "prompt_tokens": 4, "new_tokens": 6}
    numbers = {"step_s": 5.0, "rollout_s": 2.0, "update_tok_s": 99.0}
    assert peers["same_update"](numbers, size) == {**numbers, "update_tok_s": 2 * 3 * (4 + 6) / 3}


def test_a_grown_student_says_what_the_student_says(tmp_path):
    runpy.run_path(str(BENCHMARKS / "tiny_teachers.py"))["grow"](4, tmp_path / "grown")
    ids = np.arange(20, 60, dtype=np.int32)
    row = {"tokens": ids, "targets": ids, "weight": np.ones(40, np.float32)}
    batch, _ = pack_in_order([(0, row)], 1, 64)
    spoken = []
    for path, layers in (("tiny", 2), (str(tmp_path / "grown"), 4)):
        loaded = load_model(
            path, init="pretrained", param_dtype=jnp.float32, compute_dtype=jnp.float32, seed=0
        )
        assert loaded.model.shape.num_layers == layers
        policy, params = Policy.split(loaded.model)
        spoken.append(policy.rows(params, batch) @ policy.unembed(params).T)
    np.testing.assert_array_equal(spoken[1][:, :40], spoken[0][:, :40])


def test_questions_of_the_styles_are_as_many_and_none_is_held_out(tmp_path):
    runpy.run_path(str(BENCHMARKS / "tiny_teachers.py"))["write_questions"](tmp_path)
    trained, held_out = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("questions", "held_out")
    )
    assert (len(trained), len(held_out)) == (1024, 704)
    assert not {row["question"] for row in trained} & {row["question"] for row in held_out}
    assert all(re.search(r"\n#### \d+$", row["answer"]) for row in trained + held_out)


def test_a_reader_learns_the_prompts_that_a_run_shows_it(tmp_path):
    """To the last newline, without which it reads other numbers."""
    module = runpy.run_path(str(BENCHMARKS / "tiny_teachers.py"))
    keys = module["shown_records"](module["Recipe"](4, 1, 6, reads=64), tmp_path)
    flags = ["--stage=sft", "--name=reader", "--eval.problems=2", "--rollout.max-prompt-tokens=448"]
    config = load([*flags, *(f"{key}={value}" for key, value in keys.items())])
    records, _ = load_records(config)
    tokenizer = load_tokenizer(resolve("tiny"))
    own, theirs = prompts_of(config, tokenizer), prompts_of(load(flags), tokenizer)
    plain = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    shares = set()
    for record, row in zip((records[index] for index in range(len(records))), plain, strict=False):
        steps = tuple(row["answer"].splitlines()[:-1])
        shown = [theirs.hint(row["question"], steps[:n]) for n in range(len(steps) + 1)]
        asked = own.solve(record.question)
        assert asked in shown
        shares.add(shown.index(asked) / len(steps))
    assert {0.0, 1.0} < shares


def test_the_table_of_distillation_has_ratios_above_1_where_ours_is_better(peers, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    table = runpy.run_path(str(BENCHMARKS / "distill_peers.py"))["table"]
    speeds = {"ours": (300, 2.0), "dense": (100, 5.0), "trl": (200, 1.0)}
    records = [
        {"shape": "s", "system": system, "step_tok_s": speed, "peak_rss_gib": memory}
        | {"start_to_first_step_s": 1.0}
        for system, (speed, memory) in speeds.items()
    ]
    lines = table(records).splitlines()
    assert lines[2] == "| s | whole step, tokens/s | 300 | 100 | 200 | 3.00× | 1.50× |"
    assert lines[4] == "| s | peak RSS, GiB | 2 | 5 | 1 | 2.50× | 0.50× |"


def test_a_plan_is_compared_by_what_the_larger_run_needs_more():
    module = runpy.run_path(str(BENCHMARKS / "plan_truth.py"))
    gib = 2**30
    plans = [{"bytes": gib, "seconds": 1.0}, {"bytes": 3 * gib, "seconds": 2.0}]
    runs = [{"bytes": 2 * gib, "seconds": 9.0}, {"bytes": 4.5 * gib, "seconds": 3.0}]
    assert list(module["memory"](plans, runs).values()) == [2.0, 2.5, 0.8]
    assert list(module["time"](plans[1], runs[1]).values()) == [2.0, 3.0, 1.5]
    for name, (shared, *each) in module["SHAPES"].items():
        assert len(each) == (1 if name in module["TIMED"] else 2)
        for sizes in each:
            assert load([*shared, *module["EVALUATION"], *sizes, "--name=truth"])


def test_the_overlap_is_the_time_of_rollouts_in_which_an_update_ran_too(tmp_path):
    module = runpy.run_path(str(BENCHMARKS / "overlap.py"))
    span = module["Span"]
    lagged = [
        *(span("rollout", 0, 0.0, 2.0), span("rollout", 1, 2.0, 4.0), span("rollout", 2, 4.0, 8.0)),
        *(span("update", 0, 2.0, 3.0), span("update", 1, 4.0, 5.0), span("update", 2, 8.0, 9.0)),
    ]
    after = [
        span(name, step, 3 * step + begin, 3 * step + end)
        for step in range(4)
        for name, begin, end in (("rollout", 0, 2), ("update", 2, 3))
    ]
    assert module["overlapped"](lagged) == 1.0 + 1.0 and module["overlapped"](after) == 0.0
    assert module["row"]("after", after) == "| after | 2.00 | 1.00 | 3.00 | 0% |"
    assert module["row"]("lagged", lagged) == "| lagged | 4.00 | 1.00 | 4.00 | 25% |"
    found = {"after": after, "lagged": lagged}
    events = module["as_trace"](found)["traceEvents"]
    assert {one["name"] for one in events if one["ph"] == "M"} == {"process_name"}
    last = [one for one in events if one["name"] == "update 3"]
    assert [(one["ts"], one["dur"], one["tid"]) for one in last] == [(11e6, 1e6, "update")]
    module["draw"](found, tmp_path / "spans.svg")
    assert "<svg" in (tmp_path / "spans.svg").read_text()
    for own in module["RUNS"].values():
        assert load([*module["SHARED"], *own, "--name=overlap"])


# They are run by hand, so that what they call may change under them: here they run at their least.


def run_script(monkeypatch, capsys, name, *flags, **changes):
    """What a benchmark prints, with some of its globals changed."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "argv", [name, *flags])
    own = runpy.run_path(str(BENCHMARKS / name))
    own["main"].__globals__.update(changes)
    own["main"]()
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_step_is_measured(monkeypatch, capsys):
    own = runpy.run_path(str(BENCHMARKS / "grpo_step.py"))
    shape = own["Shape"](own["Architecture"]("llama", 432, 16, 1, 2, 1, 8, 16), 8, 2, 8, 4)
    out = run_script(
        monkeypatch, capsys, "grpo_step.py", "--repeats=1", "--json", SHAPES={"tiny": shape}
    )
    numbers = json.loads(out)
    assert numbers["rollout_tok_s"] > 0 and numbers["update_tok_s"] > 0
    assert 0 < numbers["update_roofline"] < 2


@pytest.mark.slow
def test_the_pipeline_is_measured(monkeypatch, capsys, tmp_path):
    lines = [
        {"question": f"What is {n} + 2?", "answer": f"{n}+2={n + 2}\n#### {n + 2}"}
        for n in range(60)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = run_script(monkeypatch, capsys, "pipeline.py", f"--data={data}", "--epochs=1", ROWS=2)
    assert out.startswith("cold: ") and "examples/s/core" in out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ours", "dense", "store"])
def test_a_distillation_step_is_measured(monkeypatch, capsys, mode):
    size = {"vocab": 432, "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8}
    size |= {"mlp": 16, "rows": 8, "length": 256, "steps": 1, "examples": 16, "mode": mode}
    monkeypatch.setattr(pool, "common_size", pool.common_size)  # which it changes: put back behind
    out = run_script(monkeypatch, capsys, "distill_step.py", json.dumps(size))
    numbers = json.loads(out.splitlines()[-1])
    assert all(value > 0 for value in numbers.values())


def test_a_device_is_compared_with_a_cpu():
    own = runpy.run_path(str(BENCHMARKS / "accelerator.py"))
    step = {"tokens": [[1, 2], [3, 4]], "logp": [-1.0, -2.0], "loss": [0.5], "grad_norm": [2.0]}
    near = own["differences"](step, step | {"logp": [-1.0005, -2.0]})
    assert near["logp"] == pytest.approx(0.00025) and own["agrees"](near)
    assert not own["agrees"](own["differences"](step, step | {"loss": [0.51]}))
    other = own["differences"](step, step | {"tokens": [[1, 2], [3, 5]]})
    assert other["tokens"] == 0.25 and not own["agrees"](other)
    assert own["run"]([sys.executable, "-c", "raise SystemExit('no memory')"]) == {
        "failed": "no memory"
    }


@pytest.fixture(scope="module")
def growth():
    return runpy.run_path(str(BENCHMARKS / "growth.py"))


@pytest.mark.parametrize(("power", "constant"), [(1.0, 50.0), (2.0, 3.0), (0.5, 10.0), (1.0, 0.0)])
def test_the_exponent_of_what_grows_is_told_without_the_constant_part(growth, power, constant):
    sizes = [4, 8, 16, 32, 64]
    found = growth["fit"](sizes, [constant + 2 * size**power for size in sizes])
    assert found.grows == pytest.approx(power, abs=0.011)
    assert found.constant == pytest.approx(constant, abs=0.2)
    assert 0 < found.upper <= power + 1e-9
    flat = growth["fit"](sizes, [7.0, 7.2, 7.1, 6.9, 7.3])
    assert (flat.grows, flat.constant) == (0.0, 7.1)
    assert growth["fit"](sizes, [300, 310, 330, 370, 450], "memory").grows == pytest.approx(
        1, abs=0.03
    )


def test_points_that_are_there_are_not_measured_again(growth, tmp_path):
    path, point = tmp_path / "growth.jsonl", {"axis": "records", "value": 100, "quick": True}
    assert [*growth["missing"]([], ["records"], quick=True)] == [point, point | {"value": 1000}]
    growth["append"](path, point | {"peak_mib": 1.0})
    with path.open("a") as file:
        file.write('{"axis": "records", "va')  # a kill
    assert growth["read"](path) == [point | {"peak_mib": 1.0}]
    growth["append"](path, point | {"value": 1000, "peak_mib": 2.0})
    assert not [*growth["missing"](growth["read"](path), ["records"], quick=True)]
    assert len([*growth["missing"](growth["read"](path), ["records"], quick=False)]) == 5


def test_the_table_of_growth_has_a_line_for_each_quantity_of_each_axis(growth, tmp_path):
    def row(value, seconds):
        step = {"cpu_s": 2 * seconds, "wall_s": seconds}
        return {"axis": "group", "value": value, "quick": False, "step": step, "peak_mib": 300.0}

    rows = [row(8, 2.0), row(4, 1.0), row(16, 4.0)]
    assert growth["table"](rows).splitlines()[2:] == [
        "| **completions of a prompt, 4 to 16** | | | | | | | |",
        "| step, s of the CPU | 2 | 8 | 0 | 1.00 | 1.00 | 4 | 1.00 |",
        "| peak memory, MiB | 300 | 300 | 300 | 0.00 | 0.00 |  |  |",
    ]
    growth["draw"](rows, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["length", "teachers", "file"])
def test_growth_is_measured(monkeypatch, capsys, tmp_path, axis):
    out = run_script(monkeypatch, capsys, "growth.py", str(tmp_path), f"--only={axis}", "--quick")
    rows = [json.loads(line) for line in (tmp_path / "growth.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["peak_mib"] > row["before_mib"] > 50 for row in rows)
    quantity = "open" if axis == "file" else "step"
    assert f"| {quantity}, s of the CPU |" in out and (tmp_path / "growth.svg").exists()


def test_a_kernel_is_measured_beside_matrix_products(monkeypatch, capsys):
    """On a CPU, JAX's own formula stands in for cuDNN's kernel."""
    case = runpy.run_path(str(BENCHMARKS / "attention.py"))["Case"]
    cases = [case("packed", 2, 12, heads=(2, 1, 8)), case("shared", 2, 6, 2, 4, heads=(2, 1, 8))]
    flags = "--kind=cudnn", "--repeats=1", "--json"
    found = json.loads(run_script(monkeypatch, capsys, "attention.py", *flags, CASES=cases))
    assert [row["agrees"] for row in found["rows"]] == [True, True]
    assert found["table"].count("| cudnn |") == 2 and found["rows"][0]["cudnn"]["ms"] > 0
