// The prompt as a strip of tokens. Data: tokens (visible text), shades (-1..1 or null), query, key.

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

// What is as it was is not written again: a thousand new texts are a thousand new layouts.
function fill(chip, token, position, data) {
  const title = describe(token, position, data);
  if (chip.title !== title) {
    // textContent, never markup: a token may hold anything
    if (chip.textContent !== token) chip.textContent = token;
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
}

function newChip() {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.setAttribute("role", "option");
  return chip;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  while (strip.children.length > data.tokens.length) strip.lastChild.remove();
  while (strip.children.length < data.tokens.length) strip.append(newChip());
  data.tokens.forEach((token, position) => fill(strip.children[position], token, position, data));
  strip.onclick = (event) => {
    const chip = event.target.closest("button");
    if (chip) setTriggerValue(event.shiftKey ? "key" : "query", Number(chip.dataset.position));
  };
  strip.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const chip = event.target.closest("button");
    if (step === undefined || !chip || event.ctrlKey || event.metaKey || event.altKey) return;
    const from = event.shiftKey ? data.key : data.query;
    const next = Math.min(Math.max(from + step, 0), data.tokens.length - 1);
    event.preventDefault();
    strip.children[next].focus();
    setTriggerValue(event.shiftKey ? "key" : "query", next);
  };
}
