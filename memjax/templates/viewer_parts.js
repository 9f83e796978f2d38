"use strict";
// The parts of a step as elements. Texts become text nodes, never HTML.

// From here on a token counts as surprising, in nats: p below 1 %.
const SURPRISING = 4.6;
const COLORS = {
  logp: "log-probability",
  advantage: "advantage A",
  push: "push A(1 − p)",
};
const MARKS = { right: "✓", wrong: "✗" };

// An element; properties that are not the DOM's become attributes.
function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat().filter((x) => x !== null));
  return element;
}

const badge = ([kind, text]) =>
  make("span", { class: `badge ${kind}` }, text);
const markOf = (mark) =>
  make(
    "span",
    { class: `mark-${mark in MARKS ? mark : "some"}`, "aria-label": mark },
    MARKS[mark] || mark.replace(" of ", "/"),
  );
const signed = (x, digits = 2) =>
  x === null ? "–" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const plain = (x, digits = 2) =>
  x === null ? "–" : (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);
const segments = (parts, without) =>
  parts
    .filter(([kind]) => kind !== without)
    .map(([kind, text]) => (kind ? make(kind, {}, text) : text));

// ---- tokens

const scaleOf = (example) =>
  Math.max(
    1e-6,
    ...example.rollouts
      .flatMap((rollout) => rollout.steps)
      .flatMap((step) => step.calls)
      .map((call) => Math.abs(call.adv || 0)),
  );

// The value that colours a token, between -1 and 1.
function strength(call, i, color, scale) {
  const logp = call.logp[i] === null ? -SURPRISING : call.logp[i];
  if (color === "logp") return Math.min(-logp / SURPRISING, 1);
  if (color === "advantage") return call.adv / scale;
  return (call.adv * (1 - Math.exp(logp))) / scale;
}

function paint(element, value, color) {
  const name = color === "logp" ? "surprise" : value < 0 ? "minus" : "plus";
  const percent = Math.round(Math.abs(value) * 100);
  element.style.setProperty("--share", `${percent * 0.62}%`);
  element.classList.add(`tint-${name}`);
}

function describe(call, i) {
  const logp = call.logp[i];
  const p = logp === null ? null : Math.exp(logp);
  let text =
    `token ${i + 1} of ${call.tokens.length} ` +
    `${JSON.stringify(call.tokens[i])}: log-prob ${plain(logp)}` +
    `, p ${plain(p)}`;
  if (call.adv !== null) {
    text += `, A ${signed(call.adv)}`;
    text += `, push ${signed(p === null ? null : call.adv * (1 - p))}`;
  }
  return text;
}

function response(call, color, scale) {
  const hint = "Point at a token, or walk through them with ← and →.";
  const shown = make("p", { class: "readout", "aria-live": "polite" }, hint);
  const box = make("div", { class: "text tokens" });
  call.tokens.forEach((token, i) => {
    const text = token.replaceAll("\n", "↵\n") || "▫";
    const say = () => shown.replaceChildren(describe(call, i));
    const span = make(
      "span",
      {
        class: "token",
        title: describe(call, i),
        tabindex: i ? "-1" : "0",
        onmouseenter: say,
        onfocus: say,
      },
      text,
    );
    paint(span, strength(call, i, color, scale), color);
    box.append(span);
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const spans = [...box.children];
    const next = spans[spans.indexOf(event.target) + step];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    if (next) next.focus();
  });
  if (!call.tokens.length) {
    return [make("p", { class: "muted" }, "Nothing was written.")];
  }
  return [box, shown];
}

function legend(color, scale) {
  const ends =
    color === "logp"
      ? ["certain: 0", `−${SURPRISING} nats or less`]
      : [`−${scale.toFixed(2)}: less likely`, `+${scale.toFixed(2)}: more`];
  return make(
    "span",
    { class: "scale" },
    ends[0],
    make("i", { class: `ramp ramp-${color === "logp" ? "one" : "two"}` }),
    ends[1],
  );
}

function switches(colors, color, scale) {
  const button = (name) =>
    make(
      "button",
      {
        type: "button",
        "data-key": `color-${name}`,
        "aria-pressed": String(name === color),
        onclick: () => go({ color: name }),
      },
      COLORS[name],
    );
  return make(
    "div",
    { class: "switches" },
    make("span", { class: "muted" }, "Tokens by"),
    make("span", { class: "segmented", role: "group" }, colors.map(button)),
    legend(color, scale),
  );
}

// ---- parts of a step

function cut(text) {
  const gap = text.left_out
    ? make(
        "span",
        { class: "gap" },
        ` … ${text.left_out.toLocaleString("en")} ${text.unit} left out … `,
      )
    : null;
  const body = [...segments(text.text), gap, ...segments(text.end)];
  return make("div", { class: "text" }, body);
}

// null: short prompts are open; then as they were left.
let promptsOpen = null;

function promptOf(call) {
  const details = make(
    "details",
    { class: "prompt" },
    make(
      "summary",
      {},
      "Prompt ",
      make("span", { class: "muted" }, `${call.size.toLocaleString("en")} tokens`),
    ),
    cut(call.prompt),
  );
  details.open = promptsOpen === null ? call.size <= 400 : promptsOpen;
  details.addEventListener("click", (event) => {
    if (event.target.closest("summary")) promptsOpen = !details.open;
  });
  return details;
}

function callOf(call, color, scale) {
  return make(
    "div",
    { class: "call" },
    make(
      "h4",
      {},
      call.op,
      " ",
      call.adv === null
        ? null
        : make("span", { class: "muted" }, `A ${signed(call.adv)}`),
      " ",
      call.flags.map(badge),
    ),
    promptOf(call),
    make("h5", {}, "Response"),
    response(call, color, scale),
  );
}

function panel(title, children) {
  const body = children.length
    ? children
    : [make("i", { class: "muted" }, "(empty)")];
  return make(
    "div",
    { class: "panel" },
    make("h5", {}, title),
    make("div", { class: "text" }, body),
  );
}

const SIGNS = { added: "+", deleted: "−", changed: "~", kept: "" };

function entryRow([id, status, before, after], side) {
  const parts = side === "before" ? before : after;
  if (!parts.length) return null;
  return make(
    "div",
    { class: `entry entry-${status}` },
    make("span", { class: "number", title: status }, `${SIGNS[status]} ${id}`),
    make("span", {}, segments(parts)),
  );
}

function memory(held, isAnswer) {
  const rows = (side) =>
    held.entries
      ? held.entries.map((row) => entryRow(row, side)).filter(Boolean)
      : segments(held[side]);
  const name = held.entries ? "Bank" : "Memory";
  if (held.same) {
    const title = isAnswer ? `${name} in the end` : `${name}, unchanged`;
    return make("div", { class: "panels" }, panel(title, rows("after")));
  }
  return make(
    "div",
    { class: "panels two" },
    panel(`${name} before`, rows("before")),
    panel(`${name} after`, rows("after")),
  );
}

function answer(found) {
  const line = (name, ...value) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
  const none = make("i", { class: "muted" }, "(none)");
  const items = found.listed.map((text) => make("li", {}, segments(text)));
  return make(
    "dl",
    { class: `final ${found.mark}` },
    line("Question", found.question),
    line("Gold answer", found.gold.join(" or ") || "(none)"),
    line("Answer", found.text.trim() ? make("b", {}, found.text) : none),
    line("Verdict", markOf(found.mark), ` ${found.mark}, reward ${plain(found.reward)}`),
    items.length ? line("Entries shown", make("ol", {}, items)) : null,
  );
}

function rewardTable(table, current) {
  const cells = (row) =>
    row.map((x, i) => {
      const last = i === row.length - 1;
      const cell = make("td", {}, last ? signed(x) : plain(x));
      const top = Math.max(...table.rows.map((y) => Math.abs(y[i] || 0)));
      if (last && top && x) {
        cell.className = "tinted";
        paint(cell, x / top, "advantage");
      }
      return cell;
    });
  const rows = table.rows.map((row, i) =>
    make(
      "tr",
      { "aria-current": i === current ? "true" : null },
      make(
        "th",
        { scope: "row" },
        make(
          "button",
          {
            type: "button",
            "data-key": `row-${table.title}-${i}`,
            onclick: () => go({ rollout: i }),
          },
          String(i + 1),
        ),
      ),
      cells(row),
    ),
  );
  const heads = table.columns.map((x) => make("th", { scope: "col" }, x));
  return make(
    "div",
    { class: "rewards" },
    make("h5", {}, `Rewards of the group: ${table.title}`),
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, make("th", {}, "rollout"), heads)),
        make("tbody", {}, rows),
      ),
    ),
  );
}
