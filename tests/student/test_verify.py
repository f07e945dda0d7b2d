"""The verifier of a run: what a user's must give, and where it counts."""

import pathlib

import pytest

from cotjax.config import Config
from cotjax.cot import NUMERIC, VERIFIERS
from cotjax.errors import InputError, PluginError
from cotjax.interfaces import Record
from cotjax.student.guards import gold_check
from cotjax.student.records import record_reader
from cotjax.student.verify import open_verifier


class Word:
    """The word behind "Answer:"."""

    made = 0

    def __init__(self):
        type(self).made += 1

    def extract(self, text):
        return text.rpartition("Answer:")[2].strip() or None

    def equal(self, answer, gold):
        return answer == gold


def config(verifier):
    return Config.for_stage("sft", name="r", reward={"verifier": verifier})


def test_the_built_in_one_is_of_the_table():
    for name, kind in VERIFIERS.items():
        assert type(open_verifier(config(name))) is kind
    assert open_verifier(config("numeric")) == NUMERIC


def test_a_tolerance_is_the_numeric_verifiers():
    own = Config.for_stage("sft", name="r", reward={"tolerance": 0.5})
    assert open_verifier(own).equal("5.4", "5")
    with pytest.raises(InputError, match="reward.tolerance = 0.5: does nothing while reward.ver"):
        Config.for_stage("sft", name="r", reward={"tolerance": 0.5, "verifier": "choice"})


def test_an_evaluation_may_read_answers_otherwise():
    own = Config.for_stage("sft", name="r", eval={"verifier": "exact"})
    assert open_verifier(own) == NUMERIC
    assert open_verifier(own, "eval.verifier").extract("Answer: Paris") == "Paris"
    assert open_verifier(config("choice"), "eval.verifier").extract("Answer: B") == "B"
    plugged = Config.for_stage("sft", name="r", eval={"verifier": type("Other", (Word,), {})()})
    assert open_verifier(plugged, "eval.verifier").extract("Answer: Rome") == "Rome"


def test_a_class_is_made_an_object_once():
    for _ in range(3):
        one = open_verifier(config(Word))
        assert one.extract("Answer: Paris") == "Paris" and one.equal("Paris", "Paris")
    assert Word.made == 1


@pytest.mark.parametrize(
    ("method", "gives", "said"),
    [
        ("extract", 3, "returned 3: extract needs to give the answer as text, or None"),
        ("extract", b"3", "returned b'3': extract needs"),
        ("equal", None, "returned None: equal needs to give True or False"),
        ("equal", 0.7, "returned 0.7: equal needs"),
    ],
)
def test_what_it_must_not_give_is_refused(method, gives, said):
    own = type("Own", (Word,), {method: lambda self, *args: gives})
    verifier = open_verifier(config(own()))
    with pytest.raises(PluginError) as error:
        verifier.equal(verifier.extract("Answer: 7") or "", "7")
    assert said in str(error.value)


def test_the_gold_check_asks_it_and_names_the_record():
    records = [Record("r/1", "?", "Paris", ("France",), 1)]
    assert gold_check(records, open_verifier(config(Word))) == ()
    assert "misreads 1 of 1 golds, such as that of r/1" in gold_check(records)[0]
    broken = type("Broken", (Word,), {"equal": lambda self, a, b: {}[a]})
    with pytest.raises(PluginError, match=r"raised KeyError: 'Paris' on r/1 \(test_verify\.py"):
        gold_check(records, open_verifier(config(broken)))


def test_rows_of_a_file_have_golds_that_it_reads():
    reader = record_reader(open_verifier(config(Word)))
    row = {"question": "Capital of France?", "answer": "It is old.\n#### Paris"}
    assert reader.record(row, "f:1").answer == "Paris"
    target = {"input": "Capital?", "target": "Thinking…\nStep 1: France\nAnswer: Paris"}
    assert reader.record(target, "f:2").answer == "Paris"


def test_a_file_that_changed_is_another_verifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "def extract(text): return '{}'\ndef equal(a, b): return True\nclass V: pass\n"
    text += "V.extract, V.equal = staticmethod(extract), staticmethod(equal)\n"
    for answer in ("a", "bb"):
        pathlib.Path("own.py").write_text(text.format(answer))
        assert open_verifier(config("./own.py:V")).extract("") == answer
