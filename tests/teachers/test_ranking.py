"""Whether teachers stand from weak to strong, as their answers to some problems say."""

import dataclasses

import pytest

from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.teachers import ranking
from cotjax.teachers.pool import TeacherPool
from cotjax.teachers.ranking import check_ranking, ranking_notes
from tests.tiny import TOKENIZER, make_config, with_section, write_teachers

PROBLEMS = [Record(f"r/{i}", f"{i}?", "7", ("7",), 1) for i in range(3)]


@pytest.mark.parametrize("accuracy", [[0.1], [0.1, 0.5], [0.3, 0.3, 0.3], [0.0, 0.0, 1.0]])
def test_teachers_that_do_not_fall_are_no_warning(accuracy):
    assert ranking_notes(["a", "b", "c"][: len(accuracy)], accuracy, 8) == ()


def test_a_stronger_one_before_a_weaker_one_is_named_with_both_numbers():
    (note,) = ranking_notes(["a", "b", "c"], [0.1, 0.9, 0.5], 8)
    assert "not in the order weak to strong: on 8 problems" in note
    assert note.endswith("a solves 10.0%, b solves 90.0%, c solves 50.0%.")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Config, teachers and how often each was measured, the later the worse."""
    write_teachers(tmp_path)
    names = [str(tmp_path / name) for name in ("weak", "strong")]
    config = make_config(tmp_path, "--stage=distill", "--teachers.paths", *names)
    seen = []

    def evaluate(student, config, mesh, params, records):
        seen.append((student, config.eval.samples, len(records)))
        return {"accuracy": 0.5 / len(seen)}, []

    monkeypatch.setattr(ranking, "evaluate", evaluate)
    return config, TeacherPool(config, make_mesh(1), TOKENIZER, slots=1), seen


def test_every_teacher_is_measured_once_and_none_stays_in_memory(asked):
    config, teachers, seen = asked
    (note,) = check_ranking(config, make_mesh(1), teachers, PROBLEMS)
    assert "solves 50.0%" in note and "solves 25.0%" in note
    assert [rest for _, *rest in seen] == [[0, 3], [0, 3]]
    assert seen[0][0].policy != seen[1][0].policy and teachers.resident == set()


def test_nothing_is_measured_without_problems_or_with_one_teacher_or_a_cache(asked):
    config, teachers, seen = asked
    cached = with_section(config, "teachers", cache="somewhere")
    teachers_one = dataclasses.replace(
        config, teachers=dataclasses.replace(config.teachers, paths=config.teachers.paths[:1])
    )
    one = TeacherPool(teachers_one, make_mesh(1), TOKENIZER, slots=1)
    for settings, pool, problems in (
        (config, teachers, []),
        (cached, teachers, PROBLEMS),
        (teachers_one, one, PROBLEMS),
    ):
        assert check_ranking(settings, make_mesh(1), pool, problems) == ()
    assert seen == []


# Teachers that are shown rationales.


@pytest.mark.parametrize(("logp", "sentences"), [([-0.9, -0.5, -0.1], 1), ([-0.9, -0.1, -0.5], 2)])
def test_how_likely_rationales_are_is_always_told_and_warned_about_if_it_falls(logp, sentences):
    told, *warned = ranking.likelihood_notes(["a@0", "a@0.5", "a@1"], logp, 8)
    assert "of 8 reference rationales: a@0 -0.900, a@0.5" in told
    assert len(warned) == sentences - 1
    assert all("not in the order weak to strong" in one and "has to rise" in one for one in warned)


def test_a_ladder_is_measured_by_likelihood_and_nobody_solves_anything(asked):
    config, _, seen = asked
    weak, strong = config.teachers.paths
    ladder = with_section(config, "teachers", paths=(weak, f"{strong}@0.5", f"{strong}@1"))
    pool, measured = TeacherPool(ladder, make_mesh(1), TOKENIZER, slots=1), []

    def likelihood(teacher):
        assert pool[teacher].params and pool.resident <= {teacher, 1, 2}
        measured.append(teacher)
        return -1.0 / (1 + teacher)

    (told,) = check_ranking(ladder, make_mesh(1), pool, PROBLEMS, likelihood)
    assert measured == [0, 1, 2] and seen == [] and pool.resident == set()
    assert told.endswith(f"{strong}@1 -0.333.")
