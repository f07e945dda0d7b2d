"""Tables of a run: facts that a damaged file cannot break, numbers before and after, stages."""

from cotjax.report.run_folder import RunFiles
from cotjax.report.tables import comparison, facts, stages


def run(config=(), result=(), **more):
    return RunFiles("x", "", dict(config), [], [], dict(result), more.pop("facts", []), [], **more)


def test_facts_of_a_config_that_lacks_what_they_name_are_left_out():
    assert dict(facts(run({"seed": 3}))) == {"Steps": "0", "Seed": "3"}
    assert dict(facts(run({"steps": 9}, facts=[("A", "{nothing}"), ("B", "{steps:>99999}")]))) == {
        "Steps": "0 of 9"
    }


def test_changes_say_which_way_is_better():
    before, after = {"accuracy": 0.5, "tokens": 100}, {"accuracy": 0.4, "tokens": 50}
    page = comparison(run(result={"before": before, "after": after}))
    assert 'class="number bad">−10.0 points' in page and 'class="number good">−50.0%' in page
    assert comparison(run(result={"before": before})) == ""


def test_names_of_stages_lead_to_their_pages():
    rows = [{"name": "base", "accuracy": 0.5}, {"name": "1-<b>", "accuracy": 0.6}]
    page = stages(run(result={"stages": rows}))
    assert 'href="1-%3Cb%3E/report.html"' in page and "<b>" not in page and "60.0%" in page
    assert stages(run()) == ""
