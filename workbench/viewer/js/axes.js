// Names along the axes, as text in the page: all of them when there is room, otherwise every 2nd, 5th, 10th, ...
// with its position.

const MIN_LABEL_PX = 12;
const MIN_THINNED_PX = 26;
const MAX_ROW_LABEL_PX = 104;
const MAX_COL_LABEL_PX = 80;
const MEASURED_TEXTS = 10_000; // kept: each takes some fifty bytes

function axisName(labels, index) {
  return labels.names[index] ?? String(index);
}

// "5 ·fox", or "5" alone when the name says no more than the number.
function positionAndName(labels, index) {
  const name = axisName(labels, index);
  return name === String(index) ? name : `${index} ${name}`;
}

function tickStep(cellPx, room) {
  if (cellPx >= room) return 1;
  const least = Math.max(MIN_THINNED_PX, room) / cellPx;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((factor) => factor * power >= least) * power;
}

// Widths of texts that were measured before, in the font that they were measured in: every answer names the same tokens.
const measured = { font: "", widths: new Map() };

document.fonts?.addEventListener("loadingdone", () => measured.widths.clear()); // the same font's name, other letters

function textWidth(text, context) {
  let width = measured.widths.get(text);
  if (width === undefined) measured.widths.set(text, (width = context.measureText(text).width));
  return width;
}

// Width of the widest name in CSS pixels.
function widestLabel(labels, length, cellPx, element) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = getComputedStyle(element).font;
  if (measured.font !== context.font || measured.widths.size > MEASURED_TEXTS) {
    measured.font = context.font;
    measured.widths.clear();
  }
  const thinned = tickStep(cellPx, MIN_LABEL_PX) > 1;
  let widest = 0;
  for (let index = 0; index < length; index += 1) {
    const text = thinned ? positionAndName(labels, index) : axisName(labels, index);
    widest = Math.max(widest, textWidth(text, context));
  }
  return Math.ceil(widest) + 2;
}

// Fills `axis` with labels for the cells [start, end) laid along `pixels`; `room` is the least distance of two labels.
function drawAxis(axis, labels, [start, end], pixels, room, side) {
  const cellPx = pixels / (end - start);
  const step = tickStep(cellPx, room);
  const ticks = [];
  for (let index = Math.ceil(start / step) * step; index < end; index += step) {
    const tick = element("span", "tick");
    tick.textContent = step === 1 ? axisName(labels, index) : positionAndName(labels, index);
    tick.style[side] = `${(index + 0.5 - start) * cellPx}px`;
    ticks.push(tick);
  }
  axis.replaceChildren(...ticks);
}

function drawAxes(viewer, part, withRows) {
  const { map, view, layout } = viewer;
  part.rowAxis.hidden = !withRows;
  part.rowTitle.hidden = !withRows;
  part.rowTitle.textContent = map.rows.title;
  part.colTitle.textContent = map.cols.title;
  part.rowAxis.style.width = `${layout.rowLabels}px`;
  part.colAxis.style.height = `${layout.colLabels}px`;
  part.colAxis.classList.toggle("upright", layout.upright);
  if (withRows) drawAxis(part.rowAxis, map.rows, [view.r0, view.r1], layout.height, MIN_LABEL_PX, "top");
  drawAxis(part.colAxis, map.cols, [view.c0, view.c1], layout.width, layout.colRoom, "left");
}
