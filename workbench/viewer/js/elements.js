// The elements of a viewer. Text that comes from data is only ever set as textContent.

function element(tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function buildRoot() {
  const root = element("div", "map-viewer", { "data-testid": "map-viewer", "data-state": "loading" });
  const parts = {
    panels: [],
    grid: element("div", "panels"),
    readout: element("div", "readout", { "data-testid": "map-readout", role: "status" }),
    legend: element("span", "legend"),
    note: element("span", "note", { "data-testid": "map-note" }),
    reset: element("button", "reset", { type: "button", "data-testid": "map-reset-zoom" }),
    help: element("span", "help"),
    save: element("span", "save"),
  };
  parts.reset.textContent = "Reset zoom";
  parts.reset.hidden = true;
  parts.help.textContent = "Click or arrow keys: select. Drag or Ctrl + scroll: zoom. Double-click or Esc: whole map.";
  const footer = element("div", "footer");
  footer.append(parts.reset, parts.legend, parts.note, parts.help, parts.save);
  root.append(parts.grid, parts.readout, footer);
  return { root, parts };
}

// The pictures of what is shown; files with the numbers come from Python.
function fillSave(viewer) {
  for (const kind of ["png", "svg"]) {
    const button = element("button", "link", { type: "button", "data-testid": `map-save-${kind}` });
    button.textContent = kind.toUpperCase();
    button.title = `Save the panels as ${kind.toUpperCase()}`;
    button.addEventListener("click", () => viewer.map && savePicture(viewer, kind));
    viewer.parts.save.append(button);
  }
}

// One panel: heading, row names and plot side by side, column names and colour bar below the plot.
function buildPanel(index) {
  const part = {
    figure: element("figure", "panel"),
    title: element("figcaption", "title"),
    rowTitle: element("div", "row-title"),
    rowAxis: element("div", "row-axis", { "data-testid": "map-row-axis" }),
    canvas: element("canvas", "plot", {
      "data-testid": "map-canvas", "data-panel": index, tabindex: 0, role: "application",
    }),
    colAxis: element("div", "col-axis", { "data-testid": "map-col-axis" }),
    colTitle: element("div", "col-title"),
    bar: element("div", "bar", { "data-testid": "map-colour-bar" }),
    base: document.createElement("canvas"),
  };
  const { figure, title, rowTitle, rowAxis, canvas, colAxis, colTitle, bar } = part;
  figure.append(title, rowTitle, rowAxis, canvas, colAxis, colTitle, bar);
  return part;
}

// Keeps the canvases when the number of panels is unchanged, so that new data replaces old without a flicker.
function matchPanels(viewer, count) {
  const { panels, grid } = viewer.parts;
  while (panels.length > count) panels.pop().figure.remove();
  while (panels.length < count) {
    const part = buildPanel(panels.length);
    listenToCanvas(viewer, part.canvas);
    panels.push(part);
    grid.append(part.figure);
  }
}

function describePanel(part, map, panel, colours) {
  part.title.textContent = panel.title;
  part.canvas.setAttribute(
    "aria-label",
    `${panel.title}: map of ${map.size[0]} ${map.rows.title} by ${map.size[1]} ${map.cols.title} positions. ` +
      "Arrow keys move the selected cell, Escape shows the whole map.",
  );
  drawColourBar(part.bar, panel, colours);
}

function drawColourBar(bar, panel, colours) {
  const strip = element("div", "strip");
  strip.style.background = scaleGradient(colours, panel);
  const [low, high] = panel.saturates ? ["≤ ", "≥ "] : ["", ""];
  const ends = panel.signed
    ? [`${low}${withUnit(-panel.scale, "")}`, "0", `${high}${withUnit(panel.scale, "")}`]
    : ["0", `${high}${withUnit(panel.scale, "")}`];
  const ticks = element("div", "ends");
  for (const text of ends) ticks.append(textSpan("", text));
  bar.replaceChildren(strip, ticks);
  if (panel.unit) bar.append(textSpan("unit", panel.unit));
}

function textSpan(className, text, attributes = {}) {
  const span = element("span", className, attributes);
  span.textContent = text;
  return span;
}
