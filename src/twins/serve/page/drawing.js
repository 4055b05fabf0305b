// Draws predictions on canvases, as `twins predict` does: the same colours, lines and order.

import { boundsOf, decodeMask, erode } from "./masks.js";

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

export function contrast([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((value) => (value / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? DARK : [255, 255, 255];
}

export function scaleOf(prediction, [height, width]) {
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

const layers = new WeakMap(); // of each prediction: its masks, and their last layers as canvases

function drawMask(context, prediction, index, colour, scale, width, alpha) {
  if (!layers.has(prediction)) layers.set(prediction, []);
  const cache = layers.get(prediction);
  const mask = (cache[index] ??= croppedMask(prediction, index));
  if (!mask.bounds) return;
  const key = [...colour, scale, width, alpha].join();
  if (mask.key !== key) {
    mask.layer = maskLayer(mask, colour, scale, width, alpha);
    mask.key = key;
  }
  context.drawImage(mask.layer, mask.bounds.left * scale, mask.bounds.top * scale);
}

function croppedMask(prediction, index) {
  const [height, width] = prediction.size;
  const mask = decodeMask(prediction.masks[index]);
  const bounds = boundsOf(mask, width, height);
  if (!bounds) return { bounds };
  const part = new Uint8Array(bounds.width * bounds.height);
  for (let y = 0; y < bounds.height; y++) {
    const start = (bounds.top + y) * width + bounds.left;
    part.set(mask.subarray(start, start + bounds.width), y * bounds.width);
  }
  return { bounds, part };
}

// The mask in its colour with an opaque outline, enlarged.
function maskLayer({ bounds, part }, colour, scale, line, alpha) {
  const [width, height] = [bounds.width * scale, bounds.height * scale];
  const large = new Uint8Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    const row = Math.floor(y / scale) * bounds.width;
    for (let x = 0; x < width; x++, i++) large[i] = part[row + Math.floor(x / scale)];
  }
  const inside = erode(large, width, height, line);
  const pixels = new ImageData(width, height);
  for (let i = 0; i < large.length; i++) {
    if (large[i]) pixels.data.set([...colour, inside[i] ? alpha : 255], 4 * i);
  }
  return canvasOf(pixels);
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

const maps = new WeakMap(); // of each semantic prediction: the class id of each pixel

export function labelMap(prediction, names) {
  if (!maps.has(prediction)) {
    const [height, width] = prediction.size;
    const map = new Int32Array(height * width).fill(-1);
    for (const [name, mask] of Object.entries(prediction.masks)) {
      const label = names.indexOf(name);
      decodeMask(mask).forEach((on, i) => {
        if (on) map[i] = label;
      });
    }
    maps.set(prediction, map);
  }
  return maps.get(prediction);
}

// Class colours over the image, with dark lines between classes.
function drawMap(context, prediction, model, settings) {
  const [height, width] = prediction.size;
  const map = labelMap(prediction, model.names);
  const shown = model.names.map((name) => !settings.hidden.has(name));
  const tints = new ImageData(width, height);
  const edges = new ImageData(width, height);
  const [alpha, dark] = [round(255 * settings.opacity), round(255 * 0.65)];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = map[i];
      if (label < 0 || !shown[label]) continue;
      const [red, green, blue] = model.colours[label];
      tints.data[4 * i] = red;
      tints.data[4 * i + 1] = green;
      tints.data[4 * i + 2] = blue;
      tints.data[4 * i + 3] = alpha;
      const edge = (x + 1 < width && map[i + 1] !== label) || (y + 1 < height && map[i + width] !== label);
      if (edge) edges.data[4 * i + 3] = dark;
    }
  }
  context.drawImage(canvasOf(tints), 0, 0);
  context.drawImage(canvasOf(edges), 0, 0);
}
