// A viewer as one SVG document: what stands on the page, at the places where it stands. The cells are pictures of the
// canvases without cross-hair or hover; all text is text. A PNG is this SVG, drawn.

const SVG = "http://www.w3.org/2000/svg";

function pictureSvg(viewer) {
  const frame = viewer.parts.grid.getBoundingClientRect();
  const { width, height } = frame;
  const picture = svgElement("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` });
  const style = getComputedStyle(viewer.root);
  picture.append(svgElement("rect", { width, height, fill: style.backgroundColor }));
  viewer.parts.panels.forEach((part, index) => picture.append(...panelPicture(viewer, part, index, frame)));
  return new XMLSerializer().serializeToString(picture);
}

function svgElement(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function placeIn(frame, thing) {
  const box = thing.getBoundingClientRect();
  return { x: box.left - frame.left, y: box.top - frame.top, width: box.width, height: box.height };
}

function panelPicture(viewer, part, index, frame) {
  const canvas = placeIn(frame, part.canvas);
  const cells = svgElement("image", { ...canvas, href: part.base.toDataURL("image/png"), preserveAspectRatio: "none" });
  cells.setAttribute("style", "image-rendering: pixelated");
  const absent = svgElement("rect", { ...canvas, fill: cssColour(viewer.colours.text, 0.12) });
  const edge = svgElement("rect", { ...canvas, fill: "none", stroke: cssColour(viewer.colours.text, 0.3) });
  const marks = [...columnPicture(viewer, canvas), ...selectionPicture(viewer, canvas)];
  const drawn = [absent, cells, edge, ...marks, ...barPicture(viewer, part, index, frame)];
  const texts = [part.title, part.colTitle, ...part.colAxis.children, ...part.bar.querySelectorAll("span")];
  if (!part.rowTitle.hidden) texts.push(part.rowTitle, ...part.rowAxis.children);
  return [...drawn, ...texts.map((text) => textPicture(frame, text))];
}

function columnPicture({ map, view, colours }, canvas) {
  if (map.column === null || map.column < view.c0 || map.column >= view.c1) return [];
  const width = canvas.width / (view.c1 - view.c0);
  const x = canvas.x + (map.column - view.c0) * width;
  const { y, height } = canvas;
  return [svgElement("rect", { x, y, width, height, fill: "none", stroke: cssColour(colours.text), "stroke-width": 1.5 })];
}

function selectionPicture({ view, selected, colours }, canvas) {
  if (!selected || !windowHolds(view, selected)) return [];
  const width = canvas.width / (view.c1 - view.c0);
  const height = canvas.height / (view.r1 - view.r0);
  const x = canvas.x + (selected[1] - view.c0) * width;
  const y = canvas.y + (selected[0] - view.r0) * height;
  return [svgElement("rect", { x, y, width, height, fill: "none", stroke: cssColour(colours.text), "stroke-width": 1.5 })];
}

function barPicture(viewer, part, index, frame) {
  const strip = placeIn(frame, part.bar.querySelector(".strip"));
  const panel = viewer.map.panels[index];
  const table = panelColours(viewer.colours, panel);
  const lowest = panel.signed ? 1 : ZERO_CODE;
  const width = strip.width / 64;
  const pieces = Array.from({ length: 64 }, (_, piece) => {
    const colour = table[Math.round(lowest + ((255 - lowest) * piece) / 63)];
    return svgElement("rect", { ...strip, x: strip.x + piece * width, width: width + 0.5, fill: cssColour(colour) });
  });
  return [...pieces, svgElement("rect", { ...strip, fill: "none", stroke: cssColour(viewer.colours.text, 0.3) })];
}

// One line of text, turned where the page turns it.
function textPicture(frame, place) {
  const box = placeIn(frame, place);
  const style = getComputedStyle(place);
  const upright = style.writingMode.startsWith("vertical");
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const text = svgElement("text", {
    x, y, fill: style.color, "font-size": style.fontSize, "font-weight": style.fontWeight, "text-anchor": "middle",
    "dominant-baseline": "central", "font-family": style.fontFamily.replace(/"/g, "'"), "xml:space": "preserve",
  });
  if (upright) text.setAttribute("transform", `rotate(-90 ${x} ${y})`);
  text.textContent = place.textContent;
  return text;
}

function savePicture(viewer, kind) {
  const picture = new Blob([pictureSvg(viewer)], { type: "image/svg+xml" });
  const name = (viewer.map.name || "maps").replace(/[^\p{L}\p{N}_-]+/gu, "_");
  if (kind === "svg") return saveBlob(picture, `${name}.svg`);
  return drawnPng(picture).then((blob) => saveBlob(blob, `${name}.png`));
}
