"use strict";
// The browser of completions: held-out questions side by side, and groups of training steps.

const PAGE = 10; // cards that are shown at once
const browser = document.getElementById("browser");

const END_WORDS = { length: "cut off at the limit", stop: "ended by a stop string", nonfinite: "ended by a NaN" };

const state = {
  tab: DATA.questions.length ? "questions" : "groups",
  search: "", result: "all", truncated: false, part: "", sign: "1", order: "file",
  left: 0, right: Math.max(DATA.sides.length - 1, 0), diff: true, step: "", color: "logp",
  shown: PAGE,
};

function start() {
  if (!browser) return;
  const kept = memory.read().browser ?? {};
  for (const [name, value] of Object.entries(kept)) {
    if (name in state && typeof value === typeof state[name]) state[name] = value;
  }
  if (DATA.runs.length > 1 && !("left" in kept)) {
    const last = (run) => DATA.sides.findLastIndex((side) => side.run === run);
    state.left = Math.max(last(0), 0);
    state.right = Math.max(last(1), 0);
  }
  state.left = Math.min(state.left, DATA.sides.length - 1);
  state.right = Math.min(state.right, DATA.sides.length - 1);
  if (!DATA[state.tab].length) state.tab = state.tab === "groups" ? "questions" : "groups";
  draw();
}

function set(changes) {
  Object.assign(state, { shown: PAGE }, changes);
  const { shown, ...chosen } = state;
  memory.write({ browser: chosen });
  list();
}

// Controls.

function option(value, label, chosen) {
  return make("option", { value, selected: String(value) === String(chosen) }, label);
}

function choice(label, name, options, changed) {
  const select = make("select", { name }, options.map(([value, text]) => option(value, text, state[name])));
  const number = typeof state[name] === "number";
  select.addEventListener("change", () => {
    set({ [name]: number ? Number(select.value) : select.value });
    changed?.();
  });
  return make("label", {}, label, " ", select);
}

function check(label, name) {
  const box = make("input", { type: "checkbox", name });
  box.checked = state[name];
  box.addEventListener("change", () => set({ [name]: box.checked }));
  return make("label", { class: "check" }, box, " ", label);
}

function tabs() {
  const names = [
    ["questions", `Held-out questions (${DATA.questions.length})`],
    ["groups", `While training (${DATA.groups.length} groups)`],
  ].filter(([name]) => DATA[name].length);
  const choose = (name, focus) => {
    set({ tab: name, result: "all", order: "file" });
    draw();
    if (focus) browser.querySelector("[role=tab][aria-selected=true]").focus();
  };
  const buttons = names.map(([name, label]) =>
    make("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "cards",
      "aria-selected": String(state.tab === name), tabindex: state.tab === name ? 0 : -1,
      on: {
        click: () => choose(name),
        keydown: (event) => {
          const other = names.find(([one]) => one !== name);
          if (other && /^Arrow(Left|Right)$/.test(event.key)) choose(other[0], true);
        },
      },
    }, label));
  return make("div", { role: "tablist", class: "tabs", "aria-label": "Which completions" }, buttons);
}

function controls() {
  const search = make("input", {
    type: "search", name: "search", placeholder: "words of a question, an answer, an id",
    value: state.search, "aria-keyshortcuts": "/",
  });
  let waiting;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => set({ search: search.value }), 120);
  });
  const parts = DATA.parts.map((name, number) => [String(number), name]);
  const sides = DATA.sides.map((side, number) => [number, side.label]);
  const results = [["all", "all"], ["right", "right"], ["wrong", "wrong"]];
  const own = state.tab === "questions"
    ? [
        DATA.sides.length > 1 && choice("Left", "left", sides, draw),
        DATA.sides.length > 1 && choice("Right", "right", sides, draw),
        choice("Result", "result", [
          ...results, ["gained", "gained: wrong, then right"], ["lost", "lost: right, then wrong"],
          ["changed", "changed: gained or lost"],
        ]),
        choice("Order", "order", [
          ["file", "as in the file"], ["longest", "longest first"], ["shorter", "most shortened first"],
          ["longer", "most lengthened first"], ["reward", "lowest reward first"],
        ]),
      ]
    : [
        choice("Step", "step", [["", "all"], ...steps().map((one) => [one, one])]),
        choice("Result", "result", [...results, ["mixed", "both in one group"]]),
        choice("Order", "order", [
          ["file", "by step"], ["newest", "newest first"], ["longest", "longest first"],
          ["reward", "lowest reward first"],
        ]),
        hasTokens() && choice("Colour tokens by", "color", [
          ["logp", "log-probability"], ["advantage", "advantage"], ["", "nothing"],
        ], draw),
      ];
  return make("div", { class: "controls", role: "search" },
    make("label", { class: "search" }, "Search ", search), own,
    parts.length && [
      choice("Reward part", "part", [["", "any"], ...parts]),
      choice("which is", "sign", [["1", "above 0"], ["0", "0"], ["-1", "below 0"]]),
    ],
    check("cut off", "truncated"),
    state.tab === "questions" && DATA.sides.length > 1 && check("mark changed words", "diff"));
}

const hasTokens = () => DATA.groups.some((group) => group.answers.some((one) => one.l || one.a != null));
const stepOf = (group) => [DATA.runs.length > 1 && DATA.runs[group.run].name, group.stage, `step ${group.step}`]
  .filter(Boolean).join(" · ");
const steps = () => [...new Set(DATA.groups.map(stepOf))];

function draw() {
  const focused = document.activeElement?.name;
  browser.replaceChildren(...[
    tabs(), controls(), state.tab === "groups" && hasTokens() && legend(),
    make("p", { class: "quiet", id: "count", role: "status" }), make("div", { id: "cards" }),
  ].filter(Boolean));
  if (focused) browser.querySelector(`[name=${focused}]`)?.focus();
  list();
}

// Which entries are shown.

function sidesOf(entry) {
  if (state.tab === "groups") return entry.answers;
  const numbers = state.left === state.right ? [state.right] : [state.left, state.right];
  return numbers.map((number) => entry.answers[number]).filter(Boolean);
}

function isShown(entry) {
  const answers = sidesOf(entry);
  const [first, last] = [answers[0], answers.at(-1)];
  const changed = state.tab === "questions" && answers.length === 2 && first.c != null && last.c != null;
  const gained = changed && !first.c && last.c;
  const lost = changed && first.c && !last.c;
  const correct = (value) => state.tab === "questions" ? last?.c === value : answers.some((one) => one.c === value);
  const fits = {
    all: () => true, right: () => correct(1), wrong: () => correct(0),
    gained: () => gained, lost: () => lost, changed: () => gained || lost,
    mixed: () => answers.some((one) => one.c === 1) && answers.some((one) => one.c === 0),
  };
  if (!(fits[state.result] ?? fits.all)()) return false;
  if (state.truncated && !answers.some((one) => one.e === "length")) return false;
  if (state.part !== "" && !answers.some((one) => signOf(one.p?.[Number(state.part)]) === Number(state.sign))) return false;
  if (state.tab === "groups" && state.step && stepOf(entry) !== state.step) return false;
  const wanted = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return true;
  const text = [entry.id, entry.question, entry.gold, ...answers.map((one) => one.t)].join("\n").toLowerCase();
  return wanted.every((word) => text.includes(word));
}

const signOf = (value) => (value == null ? NaN : Math.sign(value));

function sorted(entries) {
  const longest = (entry) => Math.max(...sidesOf(entry).map((one) => one.n), 0);
  const longer = (entry) => {
    const answers = sidesOf(entry);
    return answers.length === 2 ? answers[1].n - answers[0].n : 0;
  };
  const lowest = (entry) => Math.min(...sidesOf(entry).map((one) => one.r ?? Infinity));
  const by = {
    longest: (a, b) => longest(b) - longest(a), shorter: (a, b) => longer(a) - longer(b),
    longer: (a, b) => longer(b) - longer(a), newest: (a, b) => b.step - a.step,
    reward: (a, b) => lowest(a) - lowest(b),
  };
  return by[state.order] ? [...entries].sort(by[state.order]) : entries;
}

function list() {
  const all = DATA[state.tab];
  const found = sorted(all.filter(isShown));
  const of = state.tab === "questions" ? DATA.ofQuestions : DATA.ofGroups;
  const kind = state.tab === "questions" ? "questions" : "groups";
  const kept = of > all.length ? ` This page has ${all.length.toLocaleString("en")} of ${of.toLocaleString("en")} ${kind}, evenly spaced; the run folder has all.` : "";
  const sides = state.tab === "questions" && DATA.leftSides ? ` ${DATA.leftSides} evaluations in the middle are in the run folder.` : "";
  document.getElementById("count").textContent =
    `${found.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} ${kind}.${kept}${sides}`;
  const cards = document.getElementById("cards");
  cards.replaceChildren(...found.slice(0, state.shown).map(state.tab === "questions" ? questionCard : groupCard));
  if (found.length > state.shown) {
    cards.append(make("button", {
      type: "button", class: "more",
      on: { click: () => {
        const place = state.shown;
        state.shown += 2 * PAGE;
        list();
        cards.children[place]?.querySelector("h3")?.focus({ preventScroll: true });
      } },
    }, `Show ${Math.min(2 * PAGE, found.length - state.shown)} more`));
  } else if (!found.length) cards.append(make("p", { class: "empty" }, "Nothing is like that."));
}

// Cards.

function asked(entry, before) {
  return make("header", { class: "asked" },
    make("h3", { tabindex: -1 }, before && make("span", { class: "quiet" }, before, " "), entry.question),
    make("p", { class: "quiet" }, "Gold answer ", make("b", {}, entry.gold),
      entry.difficulty != null && ` · ${entry.difficulty} steps`, ` · ${entry.id}`));
}

function questionCard(entry) {
  const pairs = (state.left === state.right ? [state.right] : [state.left, state.right])
    .map((number) => [DATA.sides[number].label, entry.answers[number]]);
  const both = pairs.length === 2 && pairs.every(([, one]) => one);
  const marked = both && state.diff ? wordDiff(pairs[0][1].t, pairs[1][1].t) : [];
  return make("article", { class: "pair" }, asked(entry), make("div", { class: "sides" },
    pairs.map(([label, one], side) => answer(label, one, one && (marked[side]
      ? marked[side].map(([text, differs]) => (differs ? make(side ? "ins" : "del", {}, text) : text))
      : one.t)))));
}

function groupCard(group) {
  const command = replayCommand(group.run, group.stage ?? "", group.step);
  const button = make("button", { type: "button", class: "plain" }, "Copy");
  button.addEventListener("click", () => copy(command, button));
  return make("article", { class: "pair" }, asked(group, `${stepOf(group)} ·`),
    group.prompt && make("details", { class: "prompt" }, make("summary", {}, "The prompt, as the student saw it"),
      make("div", { class: "text" }, masked(group.prompt))),
    make("div", { class: "sides" }, group.answers.map((one, number) => answer(
      `Completion ${number + 1}`, one, colored(one)))),
    command && make("footer", { class: "replay" }, make("code", {}, command), " ", button));
}

function answer(label, one, text) {
  if (!one) {
    return make("section", { class: "side" }, make("p", { class: "facts" }, make("b", {}, label), "not written yet"));
  }
  const summands = (one.p ?? []).map((value, n) => [DATA.parts[n], value]).filter(([, value]) => value);
  return make("section", { class: "side" },
    make("p", { class: "facts" }, make("b", {}, label),
      one.c != null && make("span", { class: one.c ? "good" : "bad" }, one.c ? "✓ right" : "✗ wrong"),
      make("span", {}, `${one.n.toLocaleString("en")} tokens`),
      one.e && make("span", { class: one.e === "length" ? "bad" : "" }, END_WORDS[one.e] ?? one.e),
      one.r != null && make("span", {}, `reward ${signed(one.r)}`, summands.length > 0 &&
        ` = ${summands.map(([name, value]) => `${name} ${signed(value)}`).join(", ")}`),
      one.a != null && make("span", {}, `advantage ${signed(one.a)}`),
      one.failed && make("span", { class: "bad" }, one.failed)),
    make("div", { class: "text" }, text),
    one.more && make("p", { class: "quiet" }, `… and ${one.more.toLocaleString("en")} letters more, which the run folder has.`));
}

// The prompt with its masked steps marked.
function masked(prompt) {
  const marks = [...DATA.mask, "[MASK]", "[MASKED]", "<MASK>"].filter(Boolean);
  const escaped = marks.map((one) => one.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return prompt.split(new RegExp(`(${escaped.join("|")})`)).map((piece) =>
    marks.includes(piece) ? make("mark", { title: "a masked step" }, piece) : piece);
}

// Tokens.

const BANDS = [ // of a probability, in nats
  [-0.1, "p ≥ 90%"], [-0.7, "≥ 50%"], [-2.3, "≥ 10%"], [-Infinity, "below 10%"],
];

function colored(one) {
  if (state.color === "advantage" && one.a != null) {
    const strength = Math.min(Math.abs(one.a) / 2, 1);
    const side = one.a > 0 ? "raised" : "lowered";
    return make("span", { class: `tok ${one.a ? side : ""}`, style: `--strength:${(100 * strength).toFixed(0)}%` }, one.t);
  }
  if (state.color !== "logp" || !one.l) return one.t;
  const letters = Array.from(one.t);
  const pieces = [];
  let at = 0;
  one.l.forEach((size, n) => {
    if (!size) return;
    const logp = one.lp[n];
    const text = letters.slice(at, at + size).join("");
    at += size;
    const band = logp == null ? 0 : BANDS.findIndex(([least]) => logp >= least);
    const says = logp == null ? "not finite" : `log-probability ${minus(logp.toFixed(2))}, p = ${(100 * Math.exp(logp)).toFixed(1)}%`;
    pieces.push(band ? make("span", { class: `tok band${band}`, title: says }, text) : text);
  });
  return [...pieces, letters.slice(at).join("")];
}

function legend() {
  if (!state.color) return null;
  const items = state.color === "logp"
    ? BANDS.map(([, label], n) => make("span", { class: `tok band${n}` }, label))
    : [make("span", { class: "tok raised", style: "--strength:100%" }, "made likelier (advantage above 0)"),
       make("span", { class: "tok lowered", style: "--strength:100%" }, "made less likely (below 0)")];
  return make("p", { class: "legend quiet" }, state.color === "logp" ? "Probability of each token when it was sampled: " : "What the update did with it: ", items);
}

addEventListener("keydown", (event) => {
  const typing = document.activeElement?.matches("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
  const search = browser?.querySelector("[name=search]");
  if (search) {
    event.preventDefault();
    search.focus();
  }
});

start();
