"""Distillation's wiring: which teacher speaks when, what it costs, and that a run resumes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.core import divergence, mix_teachers
from cotjax.core.curriculum import HandOver
from cotjax.curriculum.cache_logits import cache_logits
from cotjax.errors import InputError
from cotjax.models.transformer import Architecture
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.distill_logits import DistillLogitsStage
from tests.tiny import make_config, write_teachers

TOKENS = 421  # of the tokenizer; the models' unembeddings have more rows
GEMMA = {"scale_embeddings": True, "offset_norms": True, "post_norms": True}
CAPPED = Architecture(
    *("gemma2", 432, 16, 1, 2, 1, 8, 16),
    **GEMMA,
    activation="gelu_pytorch_tanh",
    attention_softcap=5.0,
    logit_softcap=2.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    write_teachers(folder, capped=CAPPED)
    return folder


def teachers(folder, *names):
    return ["--teachers.paths", *(str(folder / name) for name in names)]


def open_stage(folder, *more, steps=8, names=("weak", "strong")):
    flags = ["--stage=distill", f"--steps={steps}", "--curriculum.buckets=2"]
    flags += ["--curriculum.num-monitor=4", "--curriculum.ranking-problems=0"]
    config = make_config(folder, *flags, *teachers(folder, *names), *more)
    return DistillLogitsStage(config, make_mesh(1))


def run(stage, start=0, stop=8, state=None):
    """The state and the metrics of some steps."""
    state, rows = stage.state if state is None else state, []
    for step in range(start, stop):
        work = stage.next_step(state.params, step)
        state, pairs = stage.update(state, work.batch)
        learned = {name: float(total / count) for name, (total, count) in pairs.items()}
        rows.append(work.metrics | learned)
    return state, rows


def values(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


# The loss.


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("mixing", ["probability", "logit"])
@pytest.mark.parametrize("second", ["strong", "capped"])
def test_the_loss_is_the_dense_divergence_from_the_mixture(folder, kind, mixing, second):
    flags = f"--distill.divergence={kind}", f"--curriculum.mixing={mixing}"
    flags += "--curriculum.schedule=linear", "--distill.temperature=2"
    stage = open_stage(folder, *flags, steps=4, names=("weak", second))
    (work,) = stage.next_step(stage.state.params, 0).batch
    (work,) = stage.next_step(stage.state.params, 1).batch  # two thirds the weak teacher's
    policy, params, batch = stage.student.policy, stage.state.params, work.batch
    student = (policy.rows(params, batch) @ policy.unembed(params).T)[..., :TOKENS]
    spoken = []
    for index in range(2):
        teacher = stage.teachers[index]
        own = teacher.student.policy
        spoken.append(own.head(teacher.params)(own.rows(teacher.params, batch)))
    mixed = mix_teachers(
        jnp.stack([logits[..., :TOKENS] for logits in spoken]),
        jnp.array([2 / 3, 1 / 3]),
        space=mixing,
        temperature=2.0,
    )
    dense = divergence(kind, mixed, student, temperature=2.0, teacher_temperature=1.0)
    _, metrics = stage.update(stage.state, [work])
    total, count = metrics["loss"]
    counted = np.asarray(batch.weight) > 0
    assert count == counted.sum()
    np.testing.assert_allclose(total, np.asarray(dense)[counted].sum(), rtol=2e-5)


def test_alpha_blends_the_data_in(folder):
    losses = {}
    for alpha in (0.0, 0.25, 1.0):
        stage = open_stage(folder, f"--distill.alpha={alpha}", names=("strong",))
        _, (row,) = run(stage, stop=1)
        losses[alpha] = row["loss"]
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-5)


@pytest.mark.parametrize("name", ["student", "capped"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(folder, name):
    stage = open_stage(folder, f"--model.path={folder / name}", names=(name,))
    _, (row,) = run(stage, stop=1)
    assert abs(row["loss"]) < 1e-6 and row["grad_norm"] < 1e-5


# Teachers.


def test_each_bucket_has_its_teacher_and_the_other_costs_nothing(folder):
    stage = open_stage(folder)
    _, rows = run(stage)
    assert values(rows, "teacher_1", "teacher_2") == [(1, 0)] * 4 + [(0, 1)] * 4
    assert values(rows, "bucket") == [(1,)] * 4 + [(2,)] * 4
    assert stage.teachers.calls == [4, 4]


def test_a_hand_over_compiles_nothing_and_only_teachers_in_use_stay(folder):
    stage = open_stage(folder, "--curriculum.schedule=linear", steps=20, names=("weak", "strong"))
    state, _ = run(stage, stop=2)
    assert stage.teachers.resident == {0, 1} and stage.teachers.calls == [2, 1]
    with count_compilations() as compiled:
        run(stage, 2, 20, state)
    assert compiled == [] and stage.teachers.resident == {1}
    assert stage.teachers.calls == [19, 19]


class count_compilations:
    """Names of the programs that are compiled inside."""

    def __enter__(self):
        self.names = []
        self._listening = True
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self.names

    def _listen(self, event, duration, **more):
        if self._listening and event == "/jax/core/compile/backend_compile_duration":
            self.names.append(more)

    def __exit__(self, *error):
        self._listening = False


# The student's own texts.


def test_prompts_that_devices_cannot_share_are_refused(folder):
    flags = ["--stage=distill", "--distill.on-policy=0.5", "--batch.size=8"]
    config = make_config(folder, *flags, "--rollout.prompts=4", *teachers(folder, "weak"))
    with pytest.raises(InputError, match="rollout.prompts = 4: 8 devices cannot share"):
        DistillLogitsStage(config, make_mesh(8))


@pytest.mark.parametrize("loss", ["divergence", "policy_gradient"])
def test_a_share_of_steps_is_on_the_students_own_text(folder, loss):
    flags = "--distill.on-policy=0.5", f"--distill.on-policy-loss={loss}"
    stage = open_stage(folder, *flags, steps=4)
    told = [note.partition(":")[0] for note in stage.notes if "keys and values take" in note]
    assert told == ["evaluation", "rollout"], "its own texts are sampled too"
    _, rows = run(stage, stop=4)
    assert values(rows, "own_text") == [(0,), (1,), (0,), (1,)]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_a_question_that_comes_twice_in_a_step_is_answered_anew(folder):
    flags = "--distill.on-policy=1", "--curriculum.examples=2", "--curriculum.buckets=1"
    stage = open_stage(folder, *flags, steps=2)
    batch = stage.next_step(stage.state.params, 0).batch[0].batch
    tokens, segment = np.asarray(batch.tokens), np.asarray(batch.segment)
    texts = [
        tuple(row[own == number].tolist())
        for row, own in zip(tokens, segment, strict=True)
        for number in set(own[own > 0].tolist())
    ]
    assert len(texts) == 4 and len(set(texts)) == 4, "two questions, twice each"


@pytest.mark.parametrize("name", ["strong", "capped"])
def test_the_policy_gradient_is_the_gap_times_the_score(folder, name):
    flags = "--distill.on-policy=1", "--distill.on-policy-loss=policy_gradient"
    stage = open_stage(folder, *flags, steps=2, names=(name,))
    (work,) = stage.next_step(stage.state.params, 0).batch
    batch, mask = work.batch, np.asarray(work.batch.weight) > 0
    policy, teacher = stage.student.policy, stage.teachers[0]

    def chosen(policy, params):
        logits = policy.head(params)(policy.rows(params, batch))[..., :TOKENS]
        logp = jax.nn.log_softmax(logits)
        return np.asarray(jnp.take_along_axis(logp, batch.targets[..., None], axis=-1)[..., 0])

    ours = chosen(policy, stage.state.params)
    theirs = chosen(teacher.student.policy, teacher.params)
    _, metrics = stage.update(stage.state, [work])
    expected = -((theirs - ours) * ours)[mask].sum()
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=2e-5)


def test_a_mixture_of_capped_logits_has_no_policy_gradient(folder):
    flags = "--distill.on-policy=1", "--distill.on-policy-loss=policy_gradient"
    stage = open_stage(folder, *flags, "--curriculum.mixing=logit", names=("capped",))
    with pytest.raises(InputError, match='curriculum.mixing = "logit".*"probability"'):
        run(stage, stop=1)


# The adaptive schedule, and resuming.

ADAPTIVE = (
    *("--curriculum.schedule=adaptive", "--curriculum.check-every=2", "--curriculum.patience=1"),
    *("--curriculum.min-progress=0.9", "--curriculum.handover=3"),
)


def test_the_adaptive_schedule_hands_over_and_says_why(folder):
    stage = open_stage(folder, *ADAPTIVE, steps=12)
    state, said = stage.state, []
    for step in range(10):
        work = stage.next_step(state.params, step)
        state, _ = stage.update(state, work.batch)
        said += [(step, work.alarm, work.metrics)] if work.alarm else []
    ((step, sentence, metrics),) = said
    assert step == 4 and metrics["handover_by_plateau"] == 1  # once to set the best, once without
    assert "weak hands over to" in sentence and "no longer falls" in sentence
    assert metrics["teacher_2"] == pytest.approx(1 / 3)
    assert stage.data.schedule.handover == HandOver(teacher=1, began=4)


@pytest.mark.parametrize("flags", [ADAPTIVE, ("--curriculum.replay=0.3", "--curriculum.rescore")])
def test_a_run_resumes_in_mid_hand_over_bit_for_bit(folder, flags):
    flags = (*flags, "--curriculum.difficulty=student_loss")
    whole = open_stage(folder, *flags)
    _, expected = run(whole)
    first = open_stage(folder, *flags)
    state, _ = run(first, stop=5)
    position = json.loads(json.dumps(first.data.get_state()))
    again = open_stage(folder, *flags)
    again.data.set_state(position)
    _, rows = run(again, 5, 8, state)
    for row in expected + rows:
        row.pop("data_wait_s")
    assert rows == expected[5:]


def test_pass_rate_and_rank_fusion_order_examples(folder):
    fused = "--curriculum.difficulty=rank_fusion", "--curriculum.signals", "pass_rate", "cot_tokens"
    stage = open_stage(folder, *fused, "--curriculum.samples=4")
    stage.data.prepare(stage.state.params, 0)
    assert sorted(stage.data.bucket.tolist()) == [0] * 8 + [1] * 8


# What teachers said, from a cache.


def test_a_cache_of_all_logits_gives_the_live_loss(folder):
    store = folder / "whole"
    config = open_stage(folder, "--teachers.top-k=421").config
    assert cache_logits(config, make_mesh(1), store).shards == 2
    assert {path.stem[:5] for path in store.glob("*.json")} - {"manif"} == {"t0-b0", "t1-b1"}
    live, stored = (
        run(open_stage(folder, "--teachers.top-k=421", *more), stop=5)[1]
        for more in ((), (f"--teachers.cache={store}",))
    )
    for one, other in zip(live, stored, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=3e-3)
        assert other["teacher_2"] == one["teacher_2"]
    with pytest.raises(InputError, match="was made with top_k = 421, this run has 16"):
        run(open_stage(folder, f"--teachers.cache={store}"), stop=1)
