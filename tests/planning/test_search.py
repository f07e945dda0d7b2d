"""The search: what fits before what is fast, and nothing that cannot be split."""

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.planning.search import search


def config(*flags):
    return load(["--stage=grpo", "--name=plan", *flags])


def run(measure, *flags, **more):
    said = []
    first, best = search(config(*flags), measure, devices=8, told=said.append, **more)
    return first, best, said


def test_it_finds_the_fastest_that_fits():
    def measure(own):
        memory = {"none": 40, "dots": 20, "full": 10}[own.model.remat] + 4 * own.policy.micro_batch
        seconds = {"none": 1.0, "dots": 1.2, "full": 1.5}[own.model.remat]
        seconds += 1 / own.policy.micro_batch + own.mesh.tensor
        return max(memory - 30, 0), seconds

    first, best, said = run(measure)
    assert first.short and not best.short and first.table == {}
    # dots leaves memory for 2 prompts, full for 4 (and 5 is none of the choices)
    assert best.config.mesh.tensor == 1
    assert (best.config.model.remat, best.config.policy.micro_batch) == ("dots", 2)
    assert any("fits" in one for one in said) and any("short of" in one for one in said)


def test_what_is_given_stays_where_nothing_is_better():
    first, best, _ = run(lambda own: (0, 1.0))
    assert best is first


def test_each_config_is_tried_once():
    seen = []

    def measure(own):
        key = (own.mesh, own.model.remat, own.policy.micro_batch, own.rollout.cache_dtype)
        key += (own.rollout.max_concurrent,)
        seen.append(key)
        return 0, 1.0

    run(measure)
    assert len(seen) - len(set(seen)) <= 5  # the given one, under its other names


def test_what_cannot_be_split_is_told_and_left_out():
    def measure(own):
        if own.mesh.tensor > 1:
            raise InputError("two heads are not shared by four.")
        return 0, 1 / own.mesh.fsdp

    _, best, said = run(measure)
    assert best.config.mesh.fsdp == 8 and any("two heads" in one for one in said)


def test_axes_are_those_within_a_slice():
    def measure(own):
        sizes = own.mesh
        assert sizes.data * sizes.fsdp * sizes.tensor in (4, -4, -1)
        return 0, 1.0

    run(measure, slices=2)


def test_a_list_gets_one_change_for_all_its_stages():
    own = load(["--stage=bridge", "--name=plan"])
    _, best = search(own, lambda own: (0, 1.0 if "full" in str(own.stages) else 2.0), devices=8)
    assert all(entry["model"]["remat"] == "full" for entry in best.config.stages)
