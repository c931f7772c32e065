// The prompt as a strip of tokens. Data: tokens (visible text), shades (-1..1 or null), query, key.

const GROUP = 100;
const PENDING_MS = 3000; // after this a choice that was not taken up counts no more
const REVEAL_FRAMES = 3; // groups have a guessed height until they come into sight

function shade(value) {
  if (value === null || value === 0) return "transparent";
  const colour = value > 0 ? "178, 24, 43" : "33, 102, 172";
  return `rgba(${colour}, ${(0.75 * Math.min(1, Math.abs(value))).toFixed(3)})`;
}

function describe(token, position, data) {
  const roles = [];
  if (position === data.query) roles.push("query");
  if (position === data.key) roles.push("key");
  return `${position}: ${token}${roles.length ? ` (${roles.join(", ")})` : ""}`;
}

// What is as it was is not written again: a thousand new texts are a thousand new layouts. Returns whether the token is
// another one.
function fill(chip, token, position, data) {
  const title = describe(token, position, data);
  // textContent, never markup: a token may hold anything
  const changed = chip.textContent !== token;
  if (changed) chip.textContent = token;
  if (chip.title !== title) {
    chip.title = title;
    chip.dataset.position = String(position);
    chip.setAttribute("aria-selected", String(position === data.query));
    chip.classList.toggle("query", position === data.query);
    chip.classList.toggle("key", position === data.key);
  }
  const colour = shade(data.shades[position]);
  if (chip.dataset.shade !== colour) {
    chip.dataset.shade = colour;
    chip.style.backgroundColor = colour;
  }
  return changed;
}

function newChip() {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.setAttribute("role", "option");
  return chip;
}

function newGroup(start) {
  const group = document.createElement("div");
  group.className = "group";
  group.dataset.start = String(start);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", `from token ${start}`);
  return group;
}

// As many chips as there are tokens, in groups that the browser need not style while they are scrolled away.
function fit(strip, tokens) {
  const groups = strip.children;
  while (groups.length > Math.max(1, Math.ceil(tokens / GROUP))) strip.lastChild.remove();
  while (groups.length * GROUP < tokens) strip.append(newGroup(groups.length * GROUP));
  for (const group of groups) {
    const wanted = Math.min(GROUP, tokens - Number(group.dataset.start));
    while (group.children.length > wanted) group.lastChild.remove();
    while (group.children.length < wanted) group.append(newChip());
  }
  strip.classList.toggle("long", groups.length > 1);
  return [...strip.querySelectorAll("button")];
}

// Scrolls the strip, never the page, to a chip.
function reveal(strip, chip, frames = REVEAL_FRAMES) {
  const box = strip.getBoundingClientRect();
  const at = chip.getBoundingClientRect();
  if (at.top < box.top) strip.scrollTop -= box.top - at.top;
  if (at.bottom > box.bottom) strip.scrollTop += at.bottom - box.bottom;
  if (frames) requestAnimationFrame(() => reveal(strip, chip, frames - 1));
}

// Where arrows go on from: what was chosen last, whether or not it has been answered; an answer to an earlier choice does
// not take it back.
function lastChosen(strip, role, data) {
  const pending = strip.pending?.[role];
  const open = pending && pending.position !== data[role] && Date.now() - pending.since < PENDING_MS;
  return open ? pending.position : data[role];
}

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const chips = fit(strip, data.tokens.length);
  const changed = data.tokens.map((token, position) => fill(chips[position], token, position, data)).some(Boolean);
  if (changed) strip.pending = {};
  if ((changed || strip.dataset.query !== String(data.query)) && chips[data.query]) reveal(strip, chips[data.query]);
  strip.dataset.query = String(data.query);
  const choose = (role, position) => {
    strip.pending = { ...strip.pending, [role]: { position, since: Date.now() } };
    setTriggerValue(role, position);
  };
  strip.onclick = (event) => {
    const chip = event.target.closest("button");
    if (chip) choose(event.shiftKey ? "key" : "query", Number(chip.dataset.position));
  };
  strip.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const chip = event.target.closest("button");
    if (step === undefined || !chip || event.ctrlKey || event.metaKey || event.altKey) return;
    const role = event.shiftKey ? "key" : "query";
    const next = Math.min(Math.max(lastChosen(strip, role, data) + step, 0), data.tokens.length - 1);
    event.preventDefault();
    chips[next].focus();
    choose(role, next);
  };
}
