// Where we are, and what is shown there. `memjax.report_viewer` says what the
// records are. The place is kept in the address, which makes a link to it:
// report.html#example=2&rollout=1&turn=3&color=push

const root = document.getElementById("viewer");
const source = document.getElementById("rollouts").textContent;
const examples = JSON.parse(source).examples;

let place = { example: 0, rollout: 0, turn: 0, color: "logp" };

const clamp = (x, count) =>
  Math.min(Math.max(Number.isInteger(x) ? x : 0, 0), count - 1);

// The nearest place there is.
function valid(wanted) {
  const example = clamp(wanted.example, examples.length);
  const rollouts = examples[example].rollouts;
  const rollout = clamp(wanted.rollout, rollouts.length);
  const turn = clamp(wanted.turn, rollouts[rollout].steps.length);
  const color = wanted.color in COLORS ? wanted.color : "logp";
  return { example, rollout, turn, color };
}

function fromAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name) => Number.parseInt(found.get(name) || "1", 10) - 1;
  return valid({
    example: number("example"),
    rollout: number("rollout"),
    turn: number("turn"),
    color: found.get("color"),
  });
}

const address = (at) =>
  `#example=${at.example + 1}&rollout=${at.rollout + 1}` +
  `&turn=${at.turn + 1}&color=${at.color}`;

function go(changes) {
  if ("example" in changes && !("rollout" in changes)) {
    changes = { rollout: 0, turn: 0, ...changes };
  }
  const next = valid({ ...place, ...changes });
  if (address(next) === address(place)) return;
  place = next;
  location.hash = address(place);
  render();
}

// ---- what is shown

// One button for each example, under the heading of its kind.
function exampleList() {
  const items = [];
  examples.forEach((example, i) => {
    if (!i || examples[i - 1].kind !== example.kind) {
      items.push(make("h3", {}, example.kind));
    }
    const marks = example.right
      ? [`${example.right} right`]
      : example.rollouts.map(({ label, mark }) =>
          make("span", { title: `${label}: ${mark}` }, markOf(mark)),
        );
    items.push(
      make(
        "button",
        {
          type: "button",
          class: "example",
          "data-key": `example-${i}`,
          "aria-current": i === place.example ? "true" : null,
          onclick: () => go({ example: i }),
        },
        make("span", { class: "id" }, example.title),
        make("span", { class: "asks" }, example.question),
        make("span", { class: "marks" }, marks),
      ),
    );
  });
  return make("nav", { class: "examples", "aria-label": "examples" }, items);
}

function rolloutChoice(example) {
  const button = ({ label, mark }, i) =>
    make(
      "button",
      {
        type: "button",
        "data-key": `rollout-${i}`,
        "aria-pressed": String(i === place.rollout),
        onclick: () => go({ rollout: i }),
      },
      label,
      " ",
      markOf(mark),
    );
  return make(
    "div",
    { class: "switches" },
    make("span", { class: "muted" }, "Rollout"),
    make(
      "span",
      { class: "segmented", role: "group" },
      example.rollouts.map(button),
    ),
  );
}

function stepChoice(steps) {
  const arrow = (text, name, by) =>
    make(
      "button",
      {
        type: "button",
        class: "arrow",
        "data-key": name,
        "aria-label": name,
        disabled: steps[place.turn + by] ? null : "",
        onclick: () => go({ turn: place.turn + by }),
      },
      text,
    );
  const buttons = steps.flatMap((step, i) => [
    step.skipped
      ? make("span", { class: "muted" }, `… ${step.skipped} left out …`)
      : null,
    make(
      "button",
      {
        type: "button",
        class: "step",
        "data-key": `step-${i}`,
        "aria-current": i === place.turn ? "step" : null,
        onclick: () => go({ turn: i }),
      },
      step.label,
    ),
  ]);
  return make(
    "div",
    { class: "steps", role: "group", "aria-label": "turns" },
    arrow("←", "previous turn", -1),
    buttons,
    arrow("→", "next turn", 1),
  );
}

function stage() {
  const example = examples[place.example];
  const steps = example.rollouts[place.rollout].steps;
  const step = steps[place.turn];
  const rated = step.calls.some((call) => call.adv !== null);
  const colors = rated ? Object.keys(COLORS) : ["logp"];
  // Held-out rollouts have no advantage: what is asked for later is kept.
  const color = colors.includes(place.color) ? place.color : "logp";
  const scale = scaleOf(example);
  return make(
    "div",
    { class: "stage" },
    make("p", { class: "kicker" }, `${example.kind} · ${example.title}`),
    make("p", { class: "asked" }, example.question),
    example.gold.length
      ? make(
          "p",
          { class: "gold" },
          "Gold answer: ",
          make("b", {}, example.gold.join(" or ")),
        )
      : null,
    rolloutChoice(example),
    stepChoice(steps),
    make(
      "h3",
      { class: "title" },
      step.title,
      make("span", { class: "badges" }, step.flags.map(badge)),
    ),
    step.answer ? answer(step.answer) : null,
    step.chunk ? make("h5", {}, "Text") : null,
    step.chunk ? cut(step.chunk) : null,
    step.calls.length ? switches(colors, color, scale) : null,
    step.calls.map((call) => callOf(call, color, scale)),
    memory(step.memory, Boolean(step.answer)),
    make(
      "div",
      { class: "tables" },
      step.tables.map((i) => rewardTable(example.tables[i], place.rollout)),
    ),
    make(
      "p",
      { class: "muted keys" },
      "Keys: ← → turns, h l rollouts, j k examples. The address names this place.",
    ),
  );
}

function render() {
  const key = root.contains(document.activeElement)
    ? document.activeElement.dataset.key
    : null;
  const list = root.querySelector(".examples");
  const scrolled = list ? list.scrollTop : 0;
  const shown = exampleList();
  root.replaceChildren(shown, stage());
  shown.scrollTop = scrolled;
  const chosen = shown.querySelector("[aria-current]").getBoundingClientRect();
  const frame = shown.getBoundingClientRect();
  shown.scrollTop += Math.max(chosen.bottom - frame.bottom, 0);
  shown.scrollTop -= Math.max(frame.top - chosen.top, 0);
  const again = [...root.querySelectorAll("[data-key]")].find(
    (element) => element.dataset.key === key,
  );
  if (again) again.focus({ preventScroll: true });
}

const KEYS = {
  ArrowLeft: () => go({ turn: place.turn - 1 }),
  ArrowRight: () => go({ turn: place.turn + 1 }),
  h: () => go({ rollout: place.rollout - 1 }),
  l: () => go({ rollout: place.rollout + 1 }),
  k: () => place.example && go({ example: place.example - 1 }),
  j: () => examples[place.example + 1] && go({ example: place.example + 1 }),
};

document.addEventListener("keydown", (event) => {
  const { target } = event;
  const here = target === document.body || root.contains(target);
  const held = event.ctrlKey || event.metaKey || event.altKey;
  if (!here || held || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

window.addEventListener("hashchange", () => {
  if (location.hash === address(place)) return;
  place = fromAddress();
  render();
});

place = fromAddress();
render();
if (location.hash.includes("example=")) root.scrollIntoView();
