"""Buckets by their names."""

import pytest

from cotjax.errors import InputError
from cotjax.launching.bucket import Bucket, parse_bucket


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://my-runs", Bucket("gs", "my-runs")),
        ("gs://my-runs/", Bucket("gs", "my-runs")),
        ("s3://a.b_c/d/e=1/", Bucket("s3", "a.b_c", "d/e=1")),
    ],
)
def test_a_bucket_or_a_folder_of_one(text, expected):
    assert parse_bucket(text) == expected
    assert expected.compiled("/b") == expected.runs("/b").removesuffix("runs") + "xla"
    assert expected.source == f"{expected.scheme}://{expected.name}"


def test_runs_lie_in_a_folder_of_their_own():
    assert Bucket("gs", "abc").runs("/bucket") == "/bucket/runs"
    assert Bucket("gs", "abc", "d").runs("bucket") == "bucket/d/runs"


@pytest.mark.parametrize(
    "text",
    [
        *("my-runs", "runs/x", "http://my-runs", "gs:/my-runs", "gs://", "gs:///x", "gs://My-Runs"),
        *("gs://ab", "gs://-ab", "gs://a..b", "gs://my runs", "gs://x'; rm -rf /", "gs://abc/../d"),
        *("gs://abc//d", "gs://abc/d e", "gs://abc/$(x)", "gs://abc\n", "", "gs://" + "a" * 64),
    ],
)
def test_what_is_no_bucket_is_one_sentence(text):
    with pytest.raises(InputError, match="^--bucket ['\"].*(Give gs://NAME|Use letters)"):
        parse_bucket(text)
