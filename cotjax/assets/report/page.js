"use strict";
// What the page's other scripts share: data, elements, text that is only shown, and the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);

// As cotjax.errors.visible: what is not seen, or turns text around, as an escape.
const UNSEEN =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function visible(text) {
  return text.replace(UNSEEN, (one) => {
    const code = one.codePointAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}

// An element; texts become text nodes, so nothing of a model is ever read as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    } else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child != null && child !== false && child !== "") {
      element.append(child instanceof Node ? child : visible(String(child)));
    }
  }
  return element;
}

const minus = (text) => text.replaceAll("-", "−");
const signed = (value, digits = 2) => minus((value < 0 ? "" : "+") + value.toFixed(digits));

// What a reader chose, kept when a page that is watched loads itself again.
const memory = {
  key: `cotjax:${location.pathname}`,
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key)) ?? {};
    } catch {
      return {};
    }
  },
  write(changes) {
    try {
      sessionStorage.setItem(this.key, JSON.stringify({ ...this.read(), ...changes }));
    } catch {
      // a browser that keeps nothing for files
    }
  },
};

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it by hand";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const from = document.getElementById(button.dataset.copy);
  button.addEventListener("click", () => copy(from.textContent, button));
}

// The command that takes a step again.
const replay = document.getElementById("replay-form");
if (replay) {
  const run = document.getElementById("replay-run");
  const step = document.getElementById("replay-step");
  const command = document.getElementById("replay-command");
  const write = () => {
    const chosen = run.selectedOptions[0].dataset;
    step.max = chosen.last;
    const wanted = Math.min(Math.max(1, Math.round(Number(step.value)) || 1), Number(chosen.last));
    command.textContent = visible(replayCommand(Number(chosen.run), chosen.stage, wanted));
  };
  replay.addEventListener("input", write);
  write();
}

function replayCommand(run, stage, step) {
  return (DATA.runs[run].replay[stage] ?? "").replace(/N$/, String(step));
}

// A page of a run that goes on looks again, unless its reader is at work on it.
if (DATA.refresh > 0) {
  const told = document.getElementById("watching");
  let busy = 0;
  for (const event of ["keydown", "pointerdown", "scroll"]) {
    addEventListener(event, () => (busy = Date.now()), { passive: true });
  }
  const paused = make("input", { type: "checkbox" });
  paused.checked = Boolean(memory.read().paused);
  paused.addEventListener("change", () => memory.write({ paused: paused.checked }));
  if (told) {
    told.hidden = false;
    told.append(
      `Training goes on; this page looks again every ${DATA.refresh} s. `,
      make("label", {}, paused, " stay"),
    );
  }
  setInterval(() => {
    const typing = document.activeElement?.matches("input:not([type=checkbox]), select");
    if (!paused.checked && !typing && Date.now() - busy > 1000 * DATA.refresh) location.reload();
  }, 1000 * DATA.refresh);
}

// What is folded is printed too.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
