// Three coordinate systems: cells of the full map, entries of the grid that was sent (it covers `map.extent`, with one
// entry for a block of cells when the map was reduced), and pixels of a plot (it shows the window `view`).
// A window is {r0, r1, c0, c1} in cells of the full map, ends exclusive.

function windowFromPairs([[r0, r1], [c0, c1]]) {
  return { r0, r1, c0, c1 };
}

function windowToPairs({ r0, r1, c0, c1 }) {
  return [[r0, r1], [c0, c1]];
}

function fullWindow(map) {
  return { r0: 0, r1: map.size[0], c0: 0, c1: map.size[1] };
}

function sameWindow(a, b) {
  return a.r0 === b.r0 && a.r1 === b.r1 && a.c0 === b.c0 && a.c1 === b.c1;
}

function windowHolds({ r0, r1, c0, c1 }, [row, col]) {
  return row >= r0 && row < r1 && col >= c0 && col < c1;
}

function clamp(value, lowest, highest) {
  return Math.min(Math.max(value, lowest), highest);
}

// The cell under a point of a plot; points outside belong to the nearest cell.
function cellAt(view, { x, y, width, height }) {
  const along = (share, start, end) => clamp(Math.floor(start + share * (end - start)), start, end - 1);
  return [along(y / height, view.r0, view.r1), along(x / width, view.c0, view.c1)];
}

// For each of `pixels` pixels along one axis: the first and end grid entry it shows (equal: it shows nothing sent).
// Every entry of the view belongs to one pixel at least, so no line of a map disappears.
function pixelSpans(pixels, [viewStart, viewEnd], [sentStart, sentEnd], entries) {
  const spans = { start: new Int32Array(pixels), end: new Int32Array(pixels) };
  const entriesPerCell = entries / (sentEnd - sentStart);
  const entryAt = (pixel) => (viewStart + (pixel / pixels) * (viewEnd - viewStart) - sentStart) * entriesPerCell;
  const entriesPerPixel = entryAt(1) - entryAt(0);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    const [start, end] = entriesPerPixel <= 1
      ? [Math.floor(entryAt(pixel + 0.5)), Math.floor(entryAt(pixel + 0.5)) + 1]
      : [Math.floor(entryAt(pixel)), Math.floor(entryAt(pixel + 1))];
    spans.start[pixel] = clamp(start, 0, entries);
    spans.end[pixel] = clamp(end, spans.start[pixel], entries);
  }
  return spans;
}

function viewSpans(map, view, width, height) {
  const { extent, grid } = map;
  return {
    rows: pixelSpans(height, [view.r0, view.r1], [extent.r0, extent.r1], grid[0]),
    cols: pixelSpans(width, [view.c0, view.c1], [extent.c0, extent.c1], grid[1]),
  };
}

// The rectangle of grid entries that one pixel shows.
function blockAtPixel({ rows, cols }, x, y) {
  return { rowStart: rows.start[y], rowEnd: rows.end[y], colStart: cols.start[x], colEnd: cols.end[x] };
}

// The rectangle holding the one grid entry that stands for a cell; empty when the cell was not sent.
function blockOfCell(map, [row, col]) {
  const entry = (index, start, end, entries) =>
    index < start || index >= end ? null : Math.ceil(((index - start + 1) * entries) / (end - start)) - 1;
  const atRow = entry(row, map.extent.r0, map.extent.r1, map.grid[0]);
  const atCol = entry(col, map.extent.c0, map.extent.c1, map.grid[1]);
  if (atRow === null || atCol === null) return { rowStart: 0, rowEnd: 0, colStart: 0, colEnd: 0 };
  return { rowStart: atRow, rowEnd: atRow + 1, colStart: atCol, colEnd: atCol + 1 };
}

// The cells of the full map that a rectangle of grid entries stands for.
function cellsOfBlock(map, block) {
  const { extent, grid } = map;
  const cell = (entry, start, end, entries) => start + Math.floor((entry * (end - start)) / entries);
  return {
    r0: cell(block.rowStart, extent.r0, extent.r1, grid[0]),
    r1: cell(block.rowEnd, extent.r0, extent.r1, grid[0]),
    c0: cell(block.colStart, extent.c0, extent.c1, grid[1]),
    c1: cell(block.colEnd, extent.c0, extent.c1, grid[1]),
  };
}

// The smallest window over two cells that is at least `least` cells long each way (less on a smaller map).
function windowOver(map, a, b, least = 2) {
  const [r0, r1] = stretch(Math.min(a[0], b[0]), Math.max(a[0], b[0]) + 1, least, map.size[0]);
  const [c0, c1] = stretch(Math.min(a[1], b[1]), Math.max(a[1], b[1]) + 1, least, map.size[1]);
  return { r0, r1, c0, c1 };
}

function stretch(start, end, least, length) {
  const wanted = Math.min(Math.max(end - start, least), length);
  const first = clamp(start, 0, length - wanted);
  return [first, first + wanted];
}

// Zoom by `factor` (< 1 is closer) around a cell that keeps its place on the screen.
function zoomWindow(map, view, [row, col], factor) {
  const axis = (start, end, at, length) => {
    const wanted = Math.round((end - start) * factor);
    const share = (at + 0.5 - start) / (end - start);
    const first = Math.round(at + 0.5 - share * wanted);
    return stretch(first, first + wanted, 4, length);
  };
  const [r0, r1] = axis(view.r0, view.r1, row, map.size[0]);
  const [c0, c1] = axis(view.c0, view.c1, col, map.size[1]);
  return { r0, r1, c0, c1 };
}
