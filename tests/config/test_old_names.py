"""A key of an earlier version is refused with the name that it has now."""

import pytest

from cotjax.config import load
from cotjax.config.old_names import _MOVED, new_name
from cotjax.config.whole import KEYS, SECTIONS
from cotjax.errors import InputError

OLD = [key for key in _MOVED if key not in ("bridge", "sft", "levels", "teacher")]


@pytest.mark.parametrize("key", OLD)
def test_a_new_name_is_a_key_and_the_old_one_is_none(key):
    assert key not in KEYS
    new = new_name(key).partition(" ")[0]
    assert new in KEYS, new


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("teacher.url", "rationales.url"),
        ("reconstruct.token", "mask.token"),
        ("reconstruct.keep_last", "mask.keep_last"),
        ("levels.count", "curriculum.buckets"),
    ],
)
def test_whole_sections_have_moved(key, new):
    assert new_name(key) == new and new in KEYS


@pytest.mark.parametrize("key", ["rollout.group_size", "reconstruct.mask_count", "nothing", ""])
def test_other_keys_were_never_another(key):
    assert new_name(key) == ""


def test_an_error_says_the_new_name_in_a_file_and_as_a_flag(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text("[sft]\nbatch_size = 3\n")
    for argv in (["--config", str(path)], ["--sft.batch-size=3"]):
        with pytest.raises(InputError) as error:
            load(argv)
        said = str(error.value)
        assert "it is now" in said and "[batch]" in said or "batch.size" in said
    assert {"batch", "curriculum", "rationales"} <= set(SECTIONS)
