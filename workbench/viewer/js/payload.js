// The bytes written by encoding.py, as an object: the header's fields, each panel's codes as a Uint8Array, and its values
// as a Float32Array where they were sent too (else null).

const ZERO_CODE = 128;
const CODE_STEPS = 127;

async function decodePayload(bytes) {
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(inflated).arrayBuffer());
  const headerLength = new DataView(raw.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + headerLength)));
  const cells = header.grid[0] * header.grid[1];
  const codesAt = 4 + headerLength;
  const valuesAt = codesAt + header.panels.length * cells;
  const codesOf = (index) => raw.subarray(codesAt + index * cells, codesAt + (index + 1) * cells);
  const valuesOf = (index) => {
    const start = valuesAt + 4 * cells * index;
    return new Float32Array(raw.slice(start, start + 4 * cells).buffer); // a copy begins where a number may
  };
  const panels = header.panels.map((panel, index) => ({
    ...panel, codes: codesOf(index), values: header.exact ? valuesOf(index) : null,
  }));
  return { ...header, panels, extent: windowFromPairs(header.window) };
}

// The code of largest magnitude in a rectangle of the grid; 0 when every cell of it is absent.
function peakCode(codes, stride, rowStart, rowEnd, colStart, colEnd) {
  if (rowEnd - rowStart === 1 && colEnd - colStart === 1) return codes[rowStart * stride + colStart];
  let peak = 0;
  let magnitude = -1;
  for (let row = rowStart; row < rowEnd; row += 1) {
    for (let at = row * stride + colStart; at < row * stride + colEnd; at += 1) {
      const code = codes[at];
      const size = code > ZERO_CODE ? code - ZERO_CODE : ZERO_CODE - code;
      if (code !== 0 && size > magnitude) {
        peak = code;
        magnitude = size;
      }
    }
  }
  return peak;
}

function codeValue(panel, code) {
  return ((code - ZERO_CODE) / CODE_STEPS) * panel.scale;
}

// "≈ 0.25 nats"; the ends of a range that saturates read "≥" and "≤".
function codeText(map, panel, code) {
  if (code === 0) return map.absent;
  const saturated = panel.saturates && Math.abs(code - ZERO_CODE) === CODE_STEPS;
  const sign = !saturated ? "≈" : code > ZERO_CODE ? "≥" : "≤";
  return `${sign} ${withUnit(codeValue(panel, code), panel.unit)}`;
}

function withUnit(value, unit, precision = 3) {
  const digits = String(Number(value.toPrecision(precision))).replace("-", "−");
  return unit ? `${digits} ${unit}` : digits;
}
