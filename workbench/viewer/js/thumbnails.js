// Many small maps at once, one a head: a click, or the arrow keys, choose one. Drawn with the viewer's own painter.

function thumbnail(map, panel, colours, index, chosen) {
  const button = element("button", index === chosen ? "thumbnail chosen" : "thumbnail", {
    type: "button", role: "option", "aria-selected": String(index === chosen), "data-index": index, title: panel.title,
  });
  const canvas = element("canvas", "plot");
  sizeCanvas(canvas, map.maxPx, map.maxPx); // a pixel for each row and column that is sent at most
  const spans = viewSpans(map, fullWindow(map), canvas.width, canvas.height);
  paintCells(canvas, map, panel, spans, colours);
  button.append(canvas, textSpan("name", panel.title));
  return button;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector(".thumbnails");
  const { chosen } = data;
  decodePayload(Uint8Array.from(atob(data.maps), (letter) => letter.charCodeAt(0))).then((map) => {
    const colours = readColours(place);
    const focused = place.contains(parentElement.activeElement ?? document.activeElement);
    place.replaceChildren(...map.panels.map((panel, index) => thumbnail(map, panel, colours, index, chosen)));
    place.dataset.state = "ready";
    if (focused) place.children[chosen]?.focus();
  });
  place.onclick = (event) => {
    const button = event.target.closest("button");
    if (button) setTriggerValue("head", Number(button.dataset.index));
  };
  place.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = chosen + (step ?? 0);
    if (step === undefined || next < 0 || next >= place.children.length) return;
    event.preventDefault();
    setTriggerValue("head", next);
  };
}
