// COCO's compressed run lengths, and what drawing needs of masks. Masks are Uint8Array, row by row, of 0 and 1.

// The lengths of runs of 0 and 1 in turn, column by column: each number is 5 bits a character, from the lowest, with a
// sign; from the fourth on it is the difference to the number two before.
function runLengths(text) {
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

// Calls `visit(column, first row, end row)` for each piece of a run of 1 in one column.
function eachPiece({ size: [height], counts }, visit) {
  let at = 0;
  runLengths(counts).forEach((run, index) => {
    const end = at + run;
    for (let column = Math.floor(at / height); index % 2 && at < end; column++) {
      const stop = Math.min(end, (column + 1) * height);
      visit(column, at - column * height, stop - column * height);
      at = stop;
    }
    at = end;
  });
}

// Sets the pixels of a mask in an array of the image's size, row by row, to a value.
export function fillMask(pixels, mask, value) {
  const width = mask.size[1];
  eachPiece(mask, (column, first, end) => {
    for (let i = first * width + column, last = end * width; i < last; i += width) pixels[i] = value;
  });
}

// The smallest rectangle that holds a mask, and the mask inside it; `null` without a pixel.
export function cropMask(mask) {
  const [height, width] = mask.size;
  let [left, top, right, bottom] = [width, height, 0, 0];
  eachPiece(mask, (column, first, end) => {
    left = Math.min(left, column);
    right = Math.max(right, column + 1);
    top = Math.min(top, first);
    bottom = Math.max(bottom, end);
  });
  if (right <= left) return null;
  const part = { left, top, width: right - left, height: bottom - top, pixels: new Uint8Array((right - left) * (bottom - top)) };
  eachPiece(mask, (column, first, end) => {
    for (let row = first; row < end; row++) part.pixels[(row - top) * part.width + column - left] = 1;
  });
  return part;
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
