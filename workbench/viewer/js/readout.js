// The line below the panels, and the notes that say what one pixel stands for.

// `block` is the rectangle of grid entries that is read: one pixel under the pointer, or the selected cell.
function drawReadout(viewer) {
  const { map, hover, selected, parts } = viewer;
  const cell = hover?.cell ?? selected;
  if (!cell) {
    parts.readout.replaceChildren(textSpan("where", "Point at a cell to read its value."));
    return;
  }
  const block = hover?.block ?? blockOfCell(map, cell);
  const where = textSpan("where", `${hover ? "" : "selected: "}${whereText(map, cell, block)}`);
  const values = map.panels.map((panel, index) => valueChip(map, panel, index, block));
  parts.readout.replaceChildren(where, ...values);
}

function whereText(map, cell, block) {
  if (block.rowEnd === block.rowStart || block.colEnd === block.colStart) block = null;
  const cells = block ? cellsOfBlock(map, block) : { r0: cell[0], r1: cell[0] + 1, c0: cell[1], c1: cell[1] + 1 };
  const single = cells.r1 - cells.r0 === 1 && cells.c1 - cells.c0 === 1;
  const where = `${axisText(map.rows, cells.r0, cells.r1)}, ${axisText(map.cols, cells.c0, cells.c1)}`;
  return single ? where : `${where} (largest of the block)`;
}

function axisText(labels, start, end) {
  if (end - start > 1) return `${labels.title} ${start}–${end - 1}`;
  const name = axisName(labels, start);
  return name === String(start) ? `${labels.title} ${start}` : `${labels.title} ${start} “${name}”`;
}

function valueChip(map, panel, index, block) {
  const { rowStart, rowEnd, colStart, colEnd } = block;
  const empty = rowEnd === rowStart || colEnd === colStart;
  const code = empty ? 0 : peakCode(panel.codes, map.grid[1], rowStart, rowEnd, colStart, colEnd);
  const single = rowEnd - rowStart === 1 && colEnd - colStart === 1;
  const exact = code !== 0 && single && panel.values ? panel.values[rowStart * map.grid[1] + colStart] : null;
  const chip = element("span", "value", { "data-testid": "map-value", "data-panel": index });
  if (code !== 0) chip.dataset.value = exact ?? codeValue(panel, code);
  const read = () => (exact === null ? codeText(map, panel, code) : withUnit(exact, panel.unit, 4));
  const text = empty ? "outside the loaded window" : read();
  chip.append(textSpan("name", panel.title), textSpan("", text));
  return chip;
}

function drawNotes(viewer) {
  const { map, view, parts } = viewer;
  const whole = sameWindow(view, fullWindow(map));
  parts.reset.hidden = whole;
  parts.note.textContent = [whole ? "" : windowText(map, view), reductionText(map)].filter(Boolean).join(" · ");
  const absent = map.panels.some((panel) => panel.codes.includes(0));
  parts.legend.replaceChildren(...(absent ? [element("span", "swatch"), document.createTextNode(map.absent)] : []));
}

function windowText(map, view) {
  return `${map.rows.title} ${view.r0}–${view.r1 - 1}, ${map.cols.title} ${view.c0}–${view.c1 - 1}`;
}

function reductionText(map) {
  const { extent, grid } = map;
  const [rows, cols] = [extent.r1 - extent.r0, extent.c1 - extent.c0];
  if (rows === grid[0] && cols === grid[1]) return "";
  const shapes = `${rows} × ${cols} cells reduced to ${grid[0]} × ${grid[1]}`;
  return `${shapes}: each block shows its value of largest magnitude`;
}
