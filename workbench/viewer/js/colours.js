// Colour scales. Zero is the colour of the page, so that what is near zero fades in both themes; the two arms of the
// signed scale are blue and orange-red, which stay apart for the common kinds of colour blindness.

const SCALE_STOPS = {
  light: {
    negative: [[146, 188, 224], [58, 120, 184], [14, 52, 104]],
    positive: [[246, 170, 140], [208, 72, 54], [112, 14, 28]],
    unsigned: [[150, 206, 190], [40, 138, 132], [8, 66, 88]],
  },
  dark: {
    negative: [[26, 62, 112], [54, 124, 204], [142, 204, 255]],
    positive: [[112, 36, 22], [214, 86, 40], [255, 178, 92]],
    unsigned: [[20, 80, 88], [52, 160, 148], [206, 246, 214]],
  },
};

// Colours in use, read from the root's computed style (Streamlit's theme, or the browser's preference).
function readColours(root) {
  const style = getComputedStyle(root);
  const background = parseRgb(style.backgroundColor);
  const theme = luminance(background) < 0.5 ? "dark" : "light";
  return {
    theme,
    background,
    text: parseRgb(style.color),
    signed: colourTable(background, SCALE_STOPS[theme].negative, SCALE_STOPS[theme].positive),
    unsigned: colourTable(background, [background], SCALE_STOPS[theme].unsigned),
  };
}

function parseRgb(css) {
  const [red, green, blue] = css.match(/[\d.]+/g).map(Number);
  return [red, green, blue];
}

function luminance([red, green, blue]) {
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
}

// 256 colours [red, green, blue], one for each code; code 0 (absent) is never looked up.
function colourTable(zero, negative, positive) {
  return Array.from({ length: 256 }, (_, code) => {
    const share = (code - ZERO_CODE) / CODE_STEPS;
    return along([zero, ...(share < 0 ? negative : positive)], Math.min(Math.abs(share), 1));
  });
}

function along(stops, share) {
  const at = share * (stops.length - 1);
  const before = Math.min(Math.floor(at), stops.length - 2);
  return mix(stops[before], stops[before + 1], at - before);
}

function mix(a, b, share) {
  return a.map((channel, index) => Math.round(channel + (b[index] - channel) * share));
}

function cssColour([red, green, blue], alpha = 1) {
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

function panelColours(colours, panel) {
  return panel.signed ? colours.signed : colours.unsigned;
}

// A CSS gradient over the colours of a panel, from the lowest value it can show to the highest.
function scaleGradient(colours, panel) {
  const lowest = panel.signed ? 1 : ZERO_CODE;
  const table = panelColours(colours, panel);
  const stops = Array.from({ length: 17 }, (_, k) => cssColour(table[Math.round(lowest + ((255 - lowest) * k) / 16)]));
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
