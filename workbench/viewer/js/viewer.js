// A viewer: its state, what it does with new data, and the two ways in (Streamlit, and a page of its own).

const viewers = new WeakMap(); // parent element -> viewer: Streamlit calls again with the same parent at every rerun

const WIDE_PX = 900;
const MIN_PANEL_PX = { wide: 220, narrow: 320 };
const GAP_PX = 20;
const AXIS_TITLE_PX = 18;
const MAX_CELL_PX = 40;
const MAX_PLOT_PX = { width: 1024, height: 640 };
const MIN_PLOT_PX = 28;

// Streamlit's entry point.
export default function mapViewer({ data, parentElement, setTriggerValue }) {
  const viewer = viewers.get(parentElement) ?? createViewer(parentElement);
  viewer.send = setTriggerValue;
  viewer.generation += 1;
  const { generation } = viewer;
  const current = () => viewer.generation === generation;
  decodePayload(data).then((map) => current() && show(viewer, map), (error) => current() && fail(viewer, error));
  // the cleanup of a call that was overtaken runs after its successor has started
  return () => current() && dispose(viewer);
}

// The entry point of a page of its own: draws every <div data-map-viewer="base64 payload"> not drawn yet.
function mountFragments(css) {
  for (const host of document.querySelectorAll("[data-map-viewer]:not([data-mounted])")) {
    host.setAttribute("data-mounted", "");
    const shadow = host.attachShadow({ mode: "open" });
    const style = element("style", "");
    style.textContent = css;
    shadow.append(style);
    const data = Uint8Array.from(atob(host.dataset.mapViewer), (letter) => letter.charCodeAt(0));
    mapViewer({ data, parentElement: shadow, setTriggerValue: () => {} });
  }
}

function createViewer(parent) {
  const { root, parts } = buildRoot();
  const viewer = {
    parent, root, parts, generation: 0, map: null, view: null, selected: null, hover: null, drag: null, timers: {},
  };
  parent.append(root);
  fillSave(viewer);
  parts.reset.addEventListener("click", () => setView(viewer, fullWindow(viewer.map)));
  const isResized = () => viewer.map && root.clientWidth !== viewer.layout?.available;
  viewer.resizes = new ResizeObserver(() => isResized() && refresh(viewer));
  viewer.resizes.observe(root);
  viewer.scheme = matchMedia("(prefers-color-scheme: dark)");
  viewer.onScheme = () => viewer.map && refresh(viewer);
  viewer.scheme.addEventListener("change", viewer.onScheme);
  viewers.set(parent, viewer);
  return viewer;
}

function dispose(viewer) {
  viewer.resizes.disconnect();
  viewer.scheme.removeEventListener("change", viewer.onScheme);
  for (const name of Object.keys(viewer.timers)) stopTimer(viewer, name);
  cancelAnimationFrame(viewer.frame);
  viewer.root.remove();
  viewers.delete(viewer.parent);
}

// New data. A window other than the last one given is adopted; the same one again (another widget caused the rerun)
// leaves the person's own zoom alone. A pick that is still to be sent is not overwritten.
function show(viewer, map) {
  const before = viewer.map;
  const sameSize = before !== null && before.size[0] === map.size[0] && before.size[1] === map.size[1];
  if (!sameSize || !sameWindow(before.extent, map.extent)) viewer.view = map.extent;
  if (!sameSize || !viewer.timers.pick) viewer.selected = map.selected;
  viewer.map = map;
  viewer.hover = null;
  matchPanels(viewer, map.panels.length);
  refresh(viewer);
  viewer.root.dataset.state = "ready";
}

function fail(viewer, error) {
  viewer.root.dataset.state = "failed";
  viewer.parts.readout.replaceChildren(textSpan("where", `This map cannot be drawn: ${error.message}`));
}

// Lays out and paints everything.
function refresh(viewer) {
  const { map, parts } = viewer;
  // out of the document there are no styles to read; coming back into it is a resize, which refreshes
  if (!viewer.root.isConnected) return;
  viewer.colours = readColours(viewer.root);
  viewer.root.dataset.theme = viewer.colours.theme;
  viewer.layout = computeLayout(viewer);
  parts.grid.style.gridTemplateColumns = `repeat(${viewer.layout.columns}, max-content)`;
  map.panels.forEach((panel, index) => refreshPanel(viewer, parts.panels[index], panel, index));
  drawNotes(viewer);
  refreshHover(viewer);
}

function refreshPanel(viewer, part, panel, index) {
  const { map, layout, colours, view } = viewer;
  describePanel(part, map, panel, colours);
  drawAxes(viewer, part, index % layout.columns === 0);
  sizeCanvas(part.canvas, layout.width, layout.height);
  [part.base.width, part.base.height] = [part.canvas.width, part.canvas.height];
  if (index === 0) viewer.spans = viewSpans(map, view, part.base.width, part.base.height);
  paintCells(part.base, map, panel, viewer.spans, colours);
  writeValues(part.base, map, panel, view, layout, colours);
}

// What changes with the pointer and the selection: read-out now, canvases at the next frame.
function refreshHover(viewer) {
  drawReadout(viewer);
  exposeState(viewer);
  cancelAnimationFrame(viewer.frame);
  viewer.frame = requestAnimationFrame(() => viewer.parts.panels.forEach((part) => paintPanel(viewer, part)));
}

function exposeState({ root, view, selected, hover }) {
  root.dataset.window = windowToPairs(view).flat().join(",");
  setOrRemove(root, "selectedRow", selected?.[0]);
  setOrRemove(root, "selectedCol", selected?.[1]);
  setOrRemove(root, "hoverRow", hover?.cell[0]);
  setOrRemove(root, "hoverCol", hover?.cell[1]);
}

function setOrRemove(target, name, value) {
  if (value === undefined) delete target.dataset[name];
  else target.dataset[name] = value;
}

// Sizes in CSS pixels. They depend on the full map, not on the window, so that zooming moves nothing on the page.
function computeLayout(viewer) {
  const { map, root, parts } = viewer;
  const available = root.clientWidth;
  const count = map.panels.length;
  const least = available >= WIDE_PX ? MIN_PANEL_PX.wide : MIN_PANEL_PX.narrow;
  const columns = clamp(Math.floor(available / least), 1, Math.min(count, map.mostColumns ?? count));
  const labelElement = parts.panels[0].rowAxis;
  const widest = (labels, length, cellPx) => widestLabel(labels, length, cellPx, labelElement);
  const share = (rowLabels) => (available - rowLabels - AXIS_TITLE_PX - GAP_PX * (columns - 1)) / columns;
  const guess = plotSize(map, share(MAX_ROW_LABEL_PX));
  const rowLabels = Math.min(widest(map.rows, map.size[0], guess.height / map.size[0]), MAX_ROW_LABEL_PX);
  const plot = plotSize(map, share(rowLabels));
  const colCell = plot.width / map.size[1];
  const colWidest = widest(map.cols, map.size[1], colCell);
  const upright = colWidest + 4 > colCell;
  return {
    ...plot, available, columns, rowLabels, upright,
    colLabels: upright ? Math.min(colWidest, MAX_COL_LABEL_PX) : MIN_LABEL_PX + 4,
    colRoom: upright ? MIN_LABEL_PX : colWidest + 4,
  };
}

// Square cells, as large as the width and the height limit allow; or, stretched, the whole width and height.
function plotSize(map, available) {
  const [rows, cols] = map.size;
  const widest = Math.min(available, MAX_PLOT_PX.width);
  const highest = map.height ?? MAX_PLOT_PX.height;
  if (map.stretch) return { width: plotLength(widest, cols, map.maxPx), height: plotLength(highest, rows, map.maxPx) };
  const cell = Math.min(widest / cols, highest / rows, MAX_CELL_PX);
  return { width: plotLength(cell * cols, cols, map.maxPx), height: plotLength(cell * rows, rows, map.maxPx) };
}

// Whole pixels for each grid entry where that costs little: otherwise some entries look twice as wide as others.
function plotLength(pixels, cells, maxPx) {
  const entries = Math.min(cells, maxPx);
  const whole = Math.floor(pixels / entries) * entries;
  return Math.max(whole >= 0.8 * pixels ? whole : Math.round(pixels), MIN_PLOT_PX);
}
