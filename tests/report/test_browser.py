"""The page in a headless Chromium: no error, filters that work, model text that does nothing."""

import json
import shutil

import pytest

from cotjax.report.page import write_comparison, write_report
from tests.report.pages import completion, json_lines, make_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, in [test]")
CHROMES = ("chromium", "chromium-headless-shell", "google-chrome", "chromium-browser")
IMAGE = "<img src=x onerror=window.taken=1>"
ATTACK = f"</script><script>window.taken=1</script>{IMAGE}\u202e\u2028\x1b"


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, CHROMES)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(CHROMES)} on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a page; whatever its console says fails the test."""
    said, contexts = [], []

    def opened(path, **settings):
        context = chromium.new_context(**settings)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append("a dialog"))
        page.on("request", lambda request: said.append(request.url) if "http" in request.url else 0)
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def run(tmp_path):
    """Ten questions, of which 2 are gained and 1 is lost; one answer is cut off."""
    folder = make_run(tmp_path / "demo")
    rows = []
    for n in range(10):
        for kind, right in (("before", n < 5), ("after", n < 4 or n in (8, 9))):
            text = f"Step 1: {kind} the {'sum' if n % 2 else 'product'} is {n}"
            parts = {"correct": float(right), "outcome": 1.0 if right else -2.0}
            end = "length" if (n, kind) == (7, "after") else "eos"
            rows.append(completion(kind, f"q{n}", text, parts=parts, end=end, tokens=20 - n))
    tokens = {"letters": [4, 2, 4, 0], "logp": [-0.01, -1.5, -3.0, -0.1], "advantage": -0.5}
    shown = {"prompt": "Question q? Step 1: [MASK]\nStep 2: 2+2=4"}
    rows.append(completion("train", "t0", "Step 1: is", step=3, **tokens, **shown))
    rows.append(completion("train", "t0", "Step 1: no", step=3, parts={"correct": 0.0}))
    rows.append(completion("train", "t1", ATTACK, step=4, question=ATTACK, gold=ATTACK))
    json_lines(folder / "completions.jsonl", rows)
    return folder


def count(page):
    return page.locator("#count").inner_text()


def test_every_chart_is_drawn_with_its_values_under_the_pointer(opened, run):
    page = opened(write_report(run))
    for element in page.locator("details").all():
        element.evaluate("one => { one.open = true }")
    for place in page.locator("[data-chart]").all():
        place.scroll_into_view_if_needed()
        place.locator("svg").wait_for()
    told = page.locator("#vg-tooltip-element")
    for chart, says in (("Reward by step", "mean"), ("Accuracy by step", "95% from")):
        place = page.locator(f'[aria-label^="{chart}"]')
        place.scroll_into_view_if_needed()
        place.hover()
        page.locator("#vg-tooltip-element.visible").wait_for()
        assert "step" in told.inner_text() and says in told.inner_text()
        page.mouse.move(0, 0)


def test_filters_leave_what_they_say(opened, run):
    page = opened(write_report(run))
    assert count(page) == "10 of 10 questions." and page.locator("article").count() == 10
    for chosen, left in (("right", 6), ("wrong", 4), ("gained", 2), ("lost", 1), ("changed", 3)):
        page.select_option("[name=result]", chosen)
        assert count(page) == f"{left} of 10 questions.", chosen
    page.select_option("[name=result]", "all")
    page.check("[name=truncated]")
    assert count(page).startswith("1 of 10") and "cut off" in page.locator("article").inner_text()
    page.uncheck("[name=truncated]")
    page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("/")
    page.keyboard.type("PRODUCT q4")
    page.locator("text=1 of 10 questions").wait_for()
    page.fill("[name=search]", "nothing like it")
    page.locator("text=Nothing is like that").wait_for()


def test_reward_parts_sides_and_order(opened, run):
    page = opened(write_report(run))
    page.select_option("[name=part]", label="outcome")
    assert count(page).startswith("7 of 10")
    page.select_option("[name=sign]", "-1")
    assert count(page).startswith("6 of 10")
    page.select_option("[name=left]", label="after, step 20")
    assert count(page).startswith("4 of 10") and page.locator(".side").count() == 4
    page.select_option("[name=part]", "")
    page.select_option("[name=order]", "longest")
    assert "q0" in page.locator("article").first.inner_text()


def test_words_that_changed_are_marked_and_can_be_unmarked(opened, run):
    page = opened(write_report(run))
    first = page.locator("article").first
    assert first.locator("del").all_inner_texts() == ["before"]
    assert first.locator("ins").all_inner_texts() == ["after"]
    page.uncheck("[name=diff]")
    assert page.locator("ins, del").count() == 0


def test_training_groups_show_tokens_masks_and_a_command(opened, run):
    page = opened(write_report(run))
    page.get_by_role("tab", name="While training").click()
    card = page.locator("article").first
    assert card.locator(".tok").all_inner_texts() == [" 1", ": is"]
    assert "log-probability −1.50" in card.locator(".tok").first.get_attribute("title")
    card.locator("summary").click()
    assert card.locator("mark").all_inner_texts() == ["[MASK]"]
    assert card.locator("footer code").inner_text() == f"cotjax replay {run} --step 3"
    page.select_option("[name=color]", "advantage")
    assert card.locator(".lowered").inner_text() == "Step 1: is"
    page.select_option("[name=result]", "mixed")
    assert count(page) == "1 of 2 groups."
    page.get_by_role("tab", name="While training").press("ArrowLeft")
    assert page.get_by_role("tab", selected=True).inner_text().startswith("Held-out")


def test_model_text_is_shown_and_does_nothing(opened, run):
    page = opened(write_report(run))
    page.get_by_role("tab", name="While training").click()
    text = page.locator("article").nth(1).inner_text()
    assert IMAGE + r"\u202e\u2028\x1b" in text
    assert page.evaluate("window.taken") is None and page.locator("img").count() == 0


def test_the_page_may_not_reach_a_network(chromium, run):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(write_report(run).absolute().as_uri())
    reached = "fetch('http://127.0.0.1:9/').then(() => 'reached', (error) => `${error}`)"
    said = []
    page.on("console", lambda message: said.append(message.text))
    assert "Failed to fetch" in page.evaluate(reached)
    assert any("Content Security Policy" in one for one in said)
    context.close()


def test_a_page_of_5000_completions_answers_at_once(opened, run):
    text = "Step 1: 2+2=4. Check: 4-2=2.\n" * 8
    rows = [completion(kind, f"q{n}", f"{text}{kind} {n}") for n in range(2500)
            for kind in ("before", "after")]  # fmt: skip
    json_lines(run / "completions.jsonl", rows)
    page = opened(write_report(run))
    took = page.evaluate("(() => { const began = performance.now(); set({ search: 'before 77' });"
                         " return performance.now() - began; })()")  # fmt: skip
    assert "of 2,500 questions, evenly spaced" in count(page) or "of 2,500 questions." in count(
        page
    )
    assert took < 2000


def test_a_step_s_command_is_written_for_any_step(opened, run):
    page = opened(write_report(run))
    page.fill("#replay-step", "7")
    assert page.locator("#replay-command").inner_text() == f"cotjax replay {run} --step 7"
    page.fill("#replay-step", "9999")
    assert page.locator("#replay-command").inner_text().endswith("--step 20")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_its_text_has_the_contrast_of_aa(opened, run, width, scheme):
    page = opened(write_report(run), viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    weak = page.evaluate(CONTRAST)
    assert weak == []


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (parts) => {
    const [r, g, b] = parts.map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      layers.unshift(getComputedStyle(one).backgroundColor);
    }
    return layers.reduce((under, layer) => `rgb(${rgb(layer, under).join(",")})`, "white");
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, script, option")) continue;
    const under = behind(element);
    const [a, b] = [light(rgb(getComputedStyle(element).color, under)), light(rgb(under, under))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
  return weak;
}"""


def test_several_runs_and_a_page_that_is_watched(opened, run, tmp_path):
    other = make_run(tmp_path / "other")
    page = opened(write_comparison([run, other], tmp_path / "both.html"))
    assert page.locator("[name=left]").input_value() != page.locator("[name=right]").input_value()
    (run / "result.json").unlink()
    page = opened(write_report(run, refresh=10))
    assert "looks again every 10 s" in page.locator("#watching").inner_text()
    page.select_option("[name=result]", "wrong")
    page.reload()
    assert page.locator("[name=result]").input_value() == "wrong"


def test_a_damaged_run_has_a_page_without_an_error(opened, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "train", "loss": 2.0}))
    (folder / "config.toml").write_text("stage = ")
    page = opened(write_report(folder))
    page.locator("[data-chart] svg").wait_for()
    assert "is damaged" in " ".join(page.locator(".note").all_inner_texts())
