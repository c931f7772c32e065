// PNG and SVG of a plotly figure on the page. Plotly lays several SVGs over each other; one document with the content of
// all of them is the figure. A PNG is this SVG, drawn.

const SVG = "http://www.w3.org/2000/svg";

function figureSvg(plot) {
  const layers = [...plot.querySelectorAll(".main-svg")];
  const { width, height } = layers[0].getBoundingClientRect();
  const picture = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` })) {
    picture.setAttribute(name, value);
  }
  const ground = document.createElementNS(SVG, "rect");
  ground.setAttribute("width", width);
  ground.setAttribute("height", height);
  ground.setAttribute("fill", getComputedStyle(document.querySelector(".stApp")).backgroundColor);
  picture.append(ground);
  for (const layer of layers) picture.append(...copyOf(layer).childNodes);
  return new XMLSerializer().serializeToString(picture);
}

function copyOf(layer) {
  const copy = layer.cloneNode(true);
  copy.querySelectorAll(".hoverlayer, .zoomlayer").forEach((part) => part.remove());
  return copy;
}

async function save(kind, { figure, name }) {
  const plot = document.querySelector(`.st-key-${CSS.escape(figure)} .js-plotly-plot`);
  const picture = new Blob([figureSvg(plot)], { type: "image/svg+xml" });
  if (kind === "svg") saveBlob(picture, `${name}.svg`);
  else saveBlob(await drawnPng(picture), `${name}.png`);
}

export default function ({ data, parentElement }) {
  for (const button of parentElement.querySelectorAll("button")) {
    button.onclick = () => save(button.dataset.kind, data);
  }
}
