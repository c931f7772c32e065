// Mouse, wheel and keyboard. Everything is drawn at once from what the browser has; Python hears of a pick or a new
// window through viewer.send and answers with new data.

const DRAG_PX = 4;
const PICK_DELAY_MS = 140;
const DOUBLE_CLICK_MS = 260;
const WHEEL_DELAY_MS = 220;
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Canvases are removed with their listeners; only the viewer's own observers need taking down.
function listenToCanvas(viewer, canvas) {
  const listen = (type, handler, options) =>
    canvas.addEventListener(type, (event) => viewer.map && handler(viewer, event), options);
  listen("pointerdown", startDrag);
  listen("pointermove", movePointer);
  listen("pointerup", endDrag);
  listen("pointercancel", cancelDrag);
  listen("pointerleave", clearHover);
  listen("dblclick", resetByDoubleClick);
  listen("wheel", zoomByWheel, { passive: false });
  listen("keydown", pressKey);
}

// The event's place on the plot, in the CSS pixels of the layout.
function plotPoint(viewer, event) {
  const box = event.currentTarget.getBoundingClientRect();
  const { width, height } = viewer.layout;
  return {
    x: clamp(((event.clientX - box.left) / box.width) * width, 0, width),
    y: clamp(((event.clientY - box.top) / box.height) * height, 0, height),
    width,
    height,
  };
}

function startDrag(viewer, event) {
  if (event.button !== 0) return;
  const start = plotPoint(viewer, event);
  viewer.drag = { start, end: start, moved: false };
  event.currentTarget.setPointerCapture(event.pointerId);
}

function movePointer(viewer, event) {
  const point = plotPoint(viewer, event);
  const { drag } = viewer;
  if (drag) {
    drag.end = point;
    drag.moved ||= Math.hypot(point.x - drag.start.x, point.y - drag.start.y) > DRAG_PX;
  }
  viewer.hover = hoverAt(viewer, point, event.currentTarget);
  refreshHover(viewer);
}

function hoverAt(viewer, point, canvas) {
  const devicePixel = (at, length, pixels) => Math.min(Math.floor((at / length) * pixels), pixels - 1);
  const x = devicePixel(point.x, point.width, canvas.width);
  const y = devicePixel(point.y, point.height, canvas.height);
  return { cell: cellAt(viewer.view, point), block: blockAtPixel(viewer.spans, x, y) };
}

function endDrag(viewer, event) {
  const { drag } = viewer;
  viewer.drag = null;
  if (!drag) return;
  const [from, to] = [cellAt(viewer.view, drag.start), cellAt(viewer.view, plotPoint(viewer, event))];
  if (drag.moved) setView(viewer, windowOver(viewer.map, from, to));
  else pickByClick(viewer, to);
}

function cancelDrag(viewer) {
  viewer.drag = null;
  clearHover(viewer);
}

function clearHover(viewer) {
  if (viewer.drag) return;
  viewer.hover = null;
  refreshHover(viewer);
}

// On a zoomed map a click may be the first half of a double-click, which must not move the selection.
function pickByClick(viewer, cell) {
  const whole = sameWindow(viewer.view, fullWindow(viewer.map));
  pick(viewer, cell, whole ? 0 : DOUBLE_CLICK_MS);
}

function pick(viewer, cell, delay) {
  viewer.pickedFrom = viewer.timers.pick ? viewer.pickedFrom : viewer.selected;
  viewer.selected = cell;
  refreshHover(viewer);
  sendLater(viewer, "pick", cell, delay);
}

function resetByDoubleClick(viewer) {
  if (viewer.timers.pick) {
    stopTimer(viewer, "pick");
    viewer.selected = viewer.pickedFrom;
  }
  setView(viewer, fullWindow(viewer.map));
}

function zoomByWheel(viewer, event) {
  if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
  event.preventDefault();
  const cell = cellAt(viewer.view, plotPoint(viewer, event));
  const factor = Math.exp(clamp(event.deltaY, -100, 100) / 250);
  setView(viewer, zoomWindow(viewer.map, viewer.view, cell, factor), WHEEL_DELAY_MS);
}

function pressKey(viewer, event) {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (event.key === "Escape") pressEscape(viewer);
  else if (event.key in ARROWS && !modified) moveSelection(viewer, ARROWS[event.key]);
  else return;
  event.preventDefault();
}

function pressEscape(viewer) {
  if (viewer.drag) cancelDrag(viewer);
  else setView(viewer, fullWindow(viewer.map));
}

function moveSelection(viewer, [down, right]) {
  const { view, selected } = viewer;
  const [row, col] = selected ?? [view.r0 - down, view.c0 - right];
  viewer.hover = null;
  pick(viewer, [clamp(row + down, view.r0, view.r1 - 1), clamp(col + right, view.c0, view.c1 - 1)], PICK_DELAY_MS);
}

function setView(viewer, view, delay = 0) {
  if (sameWindow(view, viewer.view)) {
    refreshHover(viewer);
    return;
  }
  viewer.view = view;
  viewer.hover = null;
  refresh(viewer);
  sendLater(viewer, "window", windowToPairs(view), delay);
}

// Tells Python, once the person has paused for `delay` ms.
function sendLater(viewer, name, value, delay) {
  stopTimer(viewer, name);
  if (delay === 0) viewer.send(name, value);
  else viewer.timers[name] = setTimeout(() => { stopTimer(viewer, name); viewer.send(name, value); }, delay);
}

function stopTimer(viewer, name) {
  clearTimeout(viewer.timers[name]);
  delete viewer.timers[name];
}
