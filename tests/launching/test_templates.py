"""Files whose values are replaced, and nothing else of them."""

import pytest
import yaml

from cotjax.launching import templates
from cotjax.launching.templates import assigned, dumped, header, template, told


def test_a_value_is_replaced_once_and_its_comment_stays():
    text = "A=1 # one\nAB=2\n  A=3\n"
    assert assigned(text, {"A": r"'\1 x'"}) == "A='\\1 x' # one\nAB=2\n  A=3\n"
    assert assigned("#SBATCH --n=2\n", {"n": "3"}, before="#SBATCH --") == "#SBATCH --n=3\n"
    assert assigned('A = "b"  # c', {"A": '""'}, equals=" = ") == 'A = ""  # c'


@pytest.mark.parametrize("text", ["B=1", "A=1\nA=2"])
def test_a_template_that_lost_a_value_is_found(text):
    with pytest.raises(KeyError):
        assigned(text, {"A": "2"})


def test_the_line_of_what_was_filled_in_stands_behind_the_shell():
    assert told("#!/bin/sh\n# x\n", "a\nb") == "#!/bin/sh\n# Filled in: a b\n#\n# x\n"
    assert told("# x\n", "a") == "# Filled in: a\n#\n# x\n"


def test_yaml_keeps_its_header_and_reads_back():
    comments = header("# a\n# b\nc: 1 # d\n")
    assert comments == "# a\n# b\n"
    documents = [{"c": "one\ntwo\n"}, {"d": ["1", 2, "yes"]}]
    text = dumped(documents, comments)
    assert text.startswith(comments) and "c: |\n" in text
    assert list(yaml.safe_load_all(text)) == documents


def test_an_installed_package_has_its_own(tmp_path, monkeypatch):
    (tmp_path / "assets" / "launch").mkdir(parents=True)
    (tmp_path / "assets" / "launch" / "gke.yaml").write_text("packed")
    assert template("gke.yaml").startswith("# A run on GKE")
    monkeypatch.setattr(templates, "_PACKAGE", tmp_path)
    assert template("gke.yaml") == "packed"
