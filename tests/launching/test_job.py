"""What files are filled in from."""

import pytest

from cotjax.errors import InputError


@pytest.mark.parametrize(
    ("name", "slug"),
    [("My_run.1", "my-run-1"), ("2steps", "run-2steps"), ("___", "run"), ("a" * 99, "a" * 40)],
)
def test_a_name_that_kubernetes_takes(job, name, slug):
    assert job(name=name).slug == slug


def test_the_line_says_the_hosts(job):
    about = job("v5e:4x4*2").about
    assert about == (
        "run.toml as My_run.1 on v5e:4x4*2: 8 hosts (4 devices, 192 GB, ct5lp-hightpu-4t, each)"
    )
    assert job("h100:8").about.endswith("on h100:8: 1 host (8 devices, each)")
    assert job().about == "run.toml as My_run.1"


@pytest.mark.parametrize(
    ("name", "extra"), [("h100:8", "cuda"), ("v5e:2x2", "tpu"), ("cpu:2", "cpu")]
)
def test_the_extra_of_its_devices(job, name, extra):
    assert job(name).backend == extra


def test_a_config_outside_of_the_folder_that_is_sent_is_refused(job, tmp_path):
    assert job(config=str(tmp_path / "run.toml")).sent_config == "run.toml"
    with pytest.raises(InputError, match=r"--config \.\./run.toml: lies outside of this folder"):
        _ = job(config="../run.toml").sent_config
