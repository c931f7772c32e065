// Painting one panel: the cells into an off-screen canvas when map, window, size or theme change; the cross-hair,
// selection and rubber band over a copy of it at every pointer move.

const MAX_DEVICE_PX = 1024;
const GRID_LINE_CELL_PX = 11;
const OUTLINE_CELL_PX = 6;
const WRITTEN_PX = { letter: 6, height: 16 };

function sizeCanvas(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, MAX_DEVICE_PX / Math.max(width, height));
  const device = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== device[0]) canvas.width = device[0];
  if (canvas.height !== device[1]) canvas.height = device[1];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
}

// Absent cells stay transparent: the hatching behind them is the canvas's CSS background.
function paintCells(target, map, panel, spans, colours) {
  const context = target.getContext("2d");
  const image = context.createImageData(target.width, target.height);
  const pixels = new Uint32Array(image.data.buffer);
  const table = packedColours(colours, panel);
  for (let y = 0; y < target.height; y += 1) {
    paintRow(pixels.subarray(y * target.width, (y + 1) * target.width), y, spans, panel.codes, map.grid[1], table);
  }
  context.putImageData(image, 0, 0);
}

function paintRow(pixels, y, { rows, cols }, codes, stride, { byCode, notSent }) {
  const [rowStart, rowEnd] = [rows.start[y], rows.end[y]];
  for (let x = 0; x < pixels.length; x += 1) {
    const [colStart, colEnd] = [cols.start[x], cols.end[x]];
    if (rowEnd === rowStart || colEnd === colStart) pixels[x] = notSent;
    else pixels[x] = byCode[peakCode(codes, stride, rowStart, rowEnd, colStart, colEnd)];
  }
}

// Writes the values into cells that are large enough, where the values themselves were sent; nothing for exactly 0.
function writeValues(target, map, panel, view, layout, colours) {
  const cell = cellBox(view, [view.r0, view.c0], layout);
  const decimals = clamp(1 - Math.floor(Math.log10(panel.scale / 2)), 0, 6);
  const fits = cell.width >= (decimals + 3) * WRITTEN_PX.letter && cell.height >= WRITTEN_PX.height;
  if (!map.written || !panel.values || !fits) return;
  const context = target.getContext("2d");
  const table = panelColours(colours, panel);
  context.save();
  context.scale(target.width / layout.width, target.height / layout.height);
  Object.assign(context, { font: "10px ui-monospace, monospace", textAlign: "center", textBaseline: "middle" });
  for (let row = view.r0; row < view.r1; row += 1) {
    for (let col = view.c0; col < view.c1; col += 1) {
      const { rowStart, rowEnd, colStart } = blockOfCell(map, [row, col]);
      const at = rowStart * map.grid[1] + colStart;
      if (rowEnd === rowStart || panel.codes[at] === 0 || panel.values[at] === 0) continue;
      const box = cellBox(view, [row, col], layout);
      context.fillStyle = isDark(table[panel.codes[at]]) ? "#fff" : "#222";
      context.fillText(written(panel.values[at], decimals), box.x + box.width / 2, box.y + box.height / 2);
    }
  }
  context.restore();
}

function written(value, decimals) {
  const text = Math.abs(value).toFixed(decimals);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

function isDark([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}

// Colours as the little-endian words of an image's data.
function packedColours(colours, panel) {
  const pack = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const byCode = Uint32Array.from(panelColours(colours, panel), pack);
  byCode[0] = 0;
  return { byCode, notSent: pack(mix(colours.background, colours.text, 0.06)) };
}

// Pixels of a plot, in CSS units, that a cell covers.
function cellBox(view, [row, col], { width, height }) {
  const cellWidth = width / (view.c1 - view.c0);
  const cellHeight = height / (view.r1 - view.r0);
  return { x: (col - view.c0) * cellWidth, y: (row - view.r0) * cellHeight, width: cellWidth, height: cellHeight };
}

function paintPanel(viewer, part) {
  const { canvas, base } = part;
  const { layout, view, colours } = viewer;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(base, 0, 0);
  context.scale(canvas.width / layout.width, canvas.height / layout.height);
  paintGridLines(context, view, layout, colours);
  if (viewer.map.column !== null) paintColumn(context, viewer.map.column, view, layout, colours);
  if (viewer.hover) paintCrossHair(context, cellBox(view, viewer.hover.cell, layout), layout, colours);
  if (viewer.selected && windowHolds(view, viewer.selected)) {
    paintSelection(context, cellBox(view, viewer.selected, layout), layout, colours);
  }
  if (viewer.drag?.moved) paintBand(context, viewer.drag, colours);
}

function paintGridLines(context, view, layout, colours) {
  const cell = cellBox(view, [view.r0, view.c0], layout);
  if (Math.min(cell.width, cell.height) < GRID_LINE_CELL_PX) return;
  context.beginPath();
  for (let x = cell.width; x < layout.width - 1; x += cell.width) addLine(context, x, 0, x, layout.height);
  for (let y = cell.height; y < layout.height - 1; y += cell.height) addLine(context, 0, y, layout.width, y);
  stroke(context, cssColour(colours.text, 0.1), 1);
}

function addLine(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}

function stroke(context, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

// One line through small cells, the two edges of the row and the column of large ones.
function paintCrossHair(context, box, layout, colours) {
  const small = Math.min(box.width, box.height) < OUTLINE_CELL_PX;
  const shares = small ? [0.5] : [0, 1];
  context.beginPath();
  for (const share of shares) {
    addLine(context, box.x + share * box.width, 0, box.x + share * box.width, layout.height);
    addLine(context, 0, box.y + share * box.height, layout.width, box.y + share * box.height);
  }
  stroke(context, cssColour(colours.text, 0.55), 1);
}

function paintColumn(context, column, view, layout, colours) {
  if (column < view.c0 || column >= view.c1) return;
  const { x, width } = cellBox(view, [view.r0, column], layout);
  context.beginPath();
  context.rect(x + 1, 1, width - 2, layout.height - 2);
  stroke(context, cssColour(colours.background, 0.9), 4);
  stroke(context, cssColour(colours.text), 2);
}

// A frame around the selected cell, never smaller than can be seen, in the text's colour (no value has it)
// with a halo against the colours of its neighbours.
function paintSelection(context, box, layout, colours) {
  const frame = selectionFrame(box, layout);
  context.beginPath();
  context.rect(frame.x, frame.y, frame.width, frame.height);
  stroke(context, cssColour(colours.background, 0.9), 5);
  stroke(context, cssColour(colours.text), 2);
}

// The frame lies inside a large cell and around a small one, and inside the plot for cells at its edge.
function selectionFrame(box, layout) {
  const side = (cell) => Math.max(cell - 3, OUTLINE_CELL_PX + 3);
  const width = side(box.width);
  const height = side(box.height);
  return {
    x: clamp(box.x + (box.width - width) / 2, 1.5, layout.width - width - 1.5),
    y: clamp(box.y + (box.height - height) / 2, 1.5, layout.height - height - 1.5),
    width,
    height,
  };
}

function paintBand(context, { start, end }, colours) {
  context.beginPath();
  context.rect(start.x, start.y, end.x - start.x, end.y - start.y);
  context.fillStyle = cssColour(colours.text, 0.12);
  context.fill();
  stroke(context, cssColour(colours.text, 0.9), 1.5);
}
