// Draws predictions on canvases, as `twins predict` does: the same colours, lines and order.

import { cropMask, erode, fillMask } from "./masks.js";

const SMALLEST = 448; // longer side below which pictures with objects are enlarged
const MOST_LABELS = 60;
const TONES = [[0, 0], [0, 0.5], [0, -0.45], [0.09, 0], [-0.09, 0]]; // change of the hue, share of white or black
const DARK = [20, 22, 26];

// Python's rounding: halves go to the even number.
function round(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

function contrast([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((value) => (value / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? DARK : [255, 255, 255];
}

function scaleOf(prediction, [height, width]) {
  return prediction.boxes ? Math.max(1, Math.ceil(SMALLEST / Math.max(height, width))) : 1;
}

// The objects above a score whose classes are shown, surest first, by their index in the prediction.
export function shownObjects(prediction, settings) {
  return prediction.labels
    .map((_, index) => index)
    .filter((index) => prediction.scores[index] > Math.fround(settings.score) && !settings.hidden.has(prediction.names[index]));
}

// Draws a picture and its prediction; the canvas gets the picture's size, or a multiple of it.
export function draw(canvas, bitmap, prediction, model, settings) {
  const [height, width] = prediction.size;
  const scale = scaleOf(prediction, prediction.size);
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (prediction.boxes) drawObjects(context, prediction, model, settings, scale);
  else if (prediction.masks) drawMap(context, prediction, model, settings);
}

function drawObjects(context, prediction, model, settings, scale) {
  const { canvas } = context;
  const shown = shownObjects(prediction, settings);
  const side = Math.min(canvas.width, canvas.height);
  const width = Math.min(Math.max(2, round(side / 240)) - (shown.length > MOST_LABELS), Math.max(2, Math.floor(side / 4)));
  const colours = shown.map((index) => model.colours[prediction.labels[index]]);
  const boxes = shown.map((index) => prediction.boxes[index]);
  if (prediction.masks) {
    const tones = tonesOf(boxes, colours, Math.max(...prediction.size) / 50);
    for (let i = shown.length - 1; i >= 0; i--) {
      drawMask(context, prediction, shown[i], tones[i], scale, width, round(255 * settings.opacity));
    }
  }
  for (let i = shown.length - 1; i >= 0; i--) {
    const line = prediction.masks ? Math.max(1, Math.floor(width / 2)) : width;
    drawBox(context, boxes[i].map((value) => scale * value), colours[i], line);
  }
  if (settings.labels && shown.length <= MOST_LABELS) {
    const texts = shown.map((index) => `${prediction.names[index]} ${Math.round(100 * prediction.scores[index])}%`);
    drawLabels(context, boxes.map((box) => box.map((value) => scale * value)), texts, colours);
  }
}

// Neighbouring masks of one colour get different tones of it; boxes up to `reach` pixels apart are neighbours.
function tonesOf(boxes, colours, reach) {
  const tones = [];
  boxes.forEach((box, index) => {
    const used = TONES.map(() => 0);
    for (let i = 0; i < index; i++) {
      const gap = Math.max(boxes[i][0] - box[2], boxes[i][1] - box[3], box[0] - boxes[i][2], box[1] - boxes[i][3]);
      if (gap <= reach && css(colours[i]) === css(colours[index])) used[tones[i]]++;
    }
    tones.push(used.indexOf(Math.min(...used)));
  });
  return tones.map((tone, index) => toned(colours[index], ...TONES[tone]));
}

function toned(colour, turn, light) {
  const [red, green, blue] = turn ? turned(colour, turn) : colour;
  return [red, green, blue].map((side) => round(side + Math.abs(light) * ((light > 0 ? 255 : 0) - side)));
}

function turned(colour, turn) {
  const [r, g, b] = colour.map((value) => value / 255);
  const most = Math.max(r, g, b);
  const range = most - Math.min(r, g, b);
  if (!range) return colour;
  const sector = most === r ? (g - b) / range : most === g ? 2 + (b - r) / range : 4 + (r - g) / range;
  const hue = (((sector / 6 + turn) % 1) + 1) % 1;
  const part = (n) => {
    const k = (n + hue * 6) % 6;
    return 255 * (most - range * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [part(5), part(3), part(1)];
}

const layers = new WeakMap(); // of each prediction: what was made of its masks

// Frees what was made of a prediction's masks; it is made again when it is drawn.
export function forget(prediction) {
  layers.delete(prediction);
}

function layersOf(prediction, made) {
  if (!layers.has(prediction)) layers.set(prediction, made);
  return layers.get(prediction);
}

function drawMask(context, prediction, index, colour, scale, width, alpha) {
  const cache = layersOf(prediction, []);
  const mask = (cache[index] ??= { part: cropMask(prediction.masks[index]) });
  if (!mask.part) return;
  const key = [...colour, scale, width, alpha].join();
  if (mask.key !== key) {
    mask.layer = maskLayer(mask.part, colour, scale, width, alpha);
    mask.key = key;
  }
  context.drawImage(mask.layer, mask.part.left * scale, mask.part.top * scale);
}

// The mask in its colour with an opaque outline, enlarged.
function maskLayer(part, colour, scale, line, alpha) {
  const [width, height] = [part.width * scale, part.height * scale];
  let large = part.pixels;
  if (scale > 1) {
    large = new Uint8Array(width * height);
    for (let y = 0, i = 0; y < height; y++) {
      const row = Math.floor(y / scale) * part.width;
      for (let x = 0; x < width; x++, i++) large[i] = part.pixels[row + Math.floor(x / scale)];
    }
  }
  const inside = erode(large, width, height, line);
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const [tint, border] = [word(colour, alpha), word(colour, 255)];
  for (let i = 0; i < large.length; i++) if (large[i]) words[i] = inside[i] ? tint : border;
  return canvasOf(pixels);
}

// A pixel of ImageData as one number; the bytes are in its order on every machine that runs browsers.
function word([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

export function canvasOf(pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function drawBox(context, box, colour, width) {
  const { canvas } = context;
  const left = Math.min(Math.max(0, round(box[0])), canvas.width - 1);
  const top = Math.min(Math.max(0, round(box[1])), canvas.height - 1);
  const right = Math.min(Math.max(left, round(box[2]) - 1), canvas.width - 1);
  const bottom = Math.min(Math.max(top, round(box[3]) - 1), canvas.height - 1);
  if (width > 1) outline(context, left - 1, top - 1, right + 1, bottom + 1, contrast(colour), 1);
  outline(context, left, top, right, bottom, colour, width);
}

// A rectangle's border, inside its last row and column.
function outline(context, left, top, right, bottom, colour, line) {
  const [width, height] = [right - left + 1, bottom - top + 1];
  const [across, down] = [Math.min(line, width), Math.min(line, height)];
  context.fillStyle = css(colour);
  context.fillRect(left, top, width, down);
  context.fillRect(left, bottom - down + 1, width, down);
  context.fillRect(left, top, across, height);
  context.fillRect(right - across + 1, top, across, height);
}

// Labels stand where they hide the least of the objects, on no other label.
function drawLabels(context, boxes, texts, colours) {
  const { canvas } = context;
  const side = Math.min(canvas.width, canvas.height);
  const shrink = Math.min(1, Math.max(0.6, Math.sqrt(12 / Math.max(1, boxes.length))));
  const size = round(Math.min(Math.max(40, side / 50), Math.max(10, (shrink * side) / 30)));
  context.font = `${size}px "DejaVu Sans", system-ui, sans-serif`;
  context.textBaseline = "middle";
  const height = Math.ceil(1.17 * size);
  const placed = [];
  boxes.forEach((box, index) => {
    const width = Math.ceil(context.measureText(texts[index]).width) + 6;
    const label = placeLabel(box, width, height, canvas, boxes, placed);
    if (!label) return;
    placed.push(label);
    context.fillStyle = css(colours[index]);
    context.fillRect(label[0], label[1], width, height);
    context.fillStyle = css(contrast(colours[index]));
    context.fillText(texts[index], label[0] + 3, label[1] + height / 2 + 1);
  });
}

function placeLabel([left, top, right, bottom], width, height, canvas, boxes, placed) {
  const corners = [[left, top - height], [right - width, top - height], [left, bottom], [right - width, bottom]];
  corners.push([right, top], [left - width, top], [left, top], [right - width, bottom - height]);
  for (let line = 1; line <= 8; line++) corners.push([left, top + line * height], [left, bottom + line * height]);
  let best = null;
  corners.forEach(([x, y], order) => {
    const at = [Math.max(0, Math.min(round(x), canvas.width - width)), Math.max(0, Math.min(round(y), canvas.height - height))];
    const label = [...at, at[0] + width, at[1] + height];
    if (placed.some((other) => shared(label, other))) return;
    let cost = 0.02 * order;
    for (const box of boxes) {
      const hidden = shared(label, box);
      cost += hidden / Math.max(1, (box[2] - box[0]) * (box[3] - box[1])) + (0.3 * hidden) / (width * height);
    }
    if (!best || cost < best.cost) best = { cost, label };
  });
  return best && (boxes.length <= 25 || best.cost <= 1) ? best.label : null;
}

function shared(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  return Math.max(0, width) * Math.max(0, height);
}

// Class colours over the image, with dark lines between classes.
function drawMap(context, prediction, model, settings) {
  const made = layersOf(prediction, {});
  const key = [...settings.hidden].sort().join("\n");
  if (made.key !== key) Object.assign(made, mapLayers(prediction, model, settings.hidden), { key });
  context.globalAlpha = round(255 * settings.opacity) / 255;
  context.drawImage(made.tints, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(made.edges, 0, 0);
}

function mapLayers(prediction, model, hidden) {
  const [height, width] = prediction.size;
  const map = new Int16Array(height * width).fill(-1); // the class id of each pixel
  for (const [name, mask] of Object.entries(prediction.masks)) fillMask(map, mask, model.names.indexOf(name));
  const colours = model.names.map((name, label) => (hidden.has(name) ? 0 : word(model.colours[label], 255)));
  const [tints, edges] = [new ImageData(width, height), new ImageData(width, height)];
  const [words, lines] = [new Uint32Array(tints.data.buffer), new Uint32Array(edges.data.buffer)];
  const dark = word([0, 0, 0], round(255 * 0.65));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = map[i];
      if (label < 0 || !colours[label]) continue;
      words[i] = colours[label];
      if ((x + 1 < width && map[i + 1] !== label) || (y + 1 < height && map[i + width] !== label)) lines[i] = dark;
    }
  }
  return { tints: canvasOf(tints), edges: canvasOf(edges) };
}

// Draws the boxes of a prediction alone, on a canvas of at most `side` pixels that lies over a small picture.
export function drawFrames(canvas, prediction, model, settings, side) {
  const [height, width] = prediction.size;
  const shrink = Math.min(1, side / Math.max(height, width));
  canvas.width = Math.max(1, Math.round(width * shrink));
  canvas.height = Math.max(1, Math.round(height * shrink));
  const context = canvas.getContext("2d");
  for (const index of shownObjects(prediction, settings).reverse()) {
    drawBox(context, prediction.boxes[index].map((value) => value * shrink), model.colours[prediction.labels[index]], 2);
  }
}
