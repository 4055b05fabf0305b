// COCO's compressed run lengths, and what drawing needs of masks. Masks are Uint8Array, row by row, of 0 and 1.

// The lengths of runs of 0 and 1 in turn, column by column: each number is 5 bits a character, from the lowest, with a
// sign; from the fourth on it is the difference to the number two before.
export function runLengths(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let bits = 0;
    let more = true;
    while (more) {
      const part = text.charCodeAt(at++) - 48;
      value |= (part & 31) << bits;
      bits += 5;
      more = (part & 32) !== 0;
      if (!more && part & 16) value |= -1 << bits;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

export function decodeMask({ size: [height, width], counts }) {
  const mask = new Uint8Array(height * width);
  let at = 0;
  let on = false;
  for (const run of runLengths(counts)) {
    if (on) {
      for (let end = at + run, i = at; i < end; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
    }
    at += run;
    on = !on;
  }
  return mask;
}

export function boundsOf(mask, width, height) {
  let left = width;
  let right = -1;
  let top = height;
  let bottom = -1;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

// The pixels of a mask whose square of 2 * reach + 1 pixels lies inside it; what is beyond its borders lies outside.
export function erode(mask, width, height, reach) {
  return along(along(mask, width, height, 1, width, reach), height, width, width, 1, reach);
}

function along(mask, length, lines, step, next, reach) {
  const result = new Uint8Array(mask.length);
  for (let line = 0; line < lines; line++) {
    let run = 0;
    for (let i = 0; i < length; i++) {
      run = mask[line * next + i * step] ? run + 1 : 0;
      if (run > 2 * reach) result[line * next + (i - reach) * step] = 1;
    }
  }
  return result;
}
