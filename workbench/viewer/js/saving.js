// Pictures as files on the person's disk.

const PNG_SCALE = 2;

// An SVG as a PNG of twice its size.
async function drawnPng(picture) {
  const image = new Image();
  const loaded = new Promise((resolve, reject) => { [image.onload, image.onerror] = [resolve, reject]; });
  image.src = URL.createObjectURL(picture);
  await loaded;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width * PNG_SCALE, image.height * PNG_SCALE];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
