// What the network looks at: evidence for its decision by stage, and at a point its local window and its global keys.

import { lookAt } from "./api.js";
import { button, largest, make, percent, say, warn } from "./dom.js";
import { canvasOf } from "./drawing.js";

// Colours from few to many, readable without colour vision, as matplotlib's magma has them at eighths.
const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
const KINDS = { evidence: "Evidence", window: "Window", keys: "Keys" };
const MEANING = {
  evidence: "Where the stage's map raised the score: gradient times map (HiResCAM).",
  window: "Local attention (LSA) of the token to the tokens of its own window.",
  keys: "Global attention (GSA) of the token to the sub-sampled keys of the whole image.",
};
const LARGE = 900; // longer side below which the picture is enlarged
const SMALL = 120;
const FINE = 4; // rows and columns of a map that shows something

// Whether a map has enough cells to show something.
function shows(map) {
  return map && Math.min(map.rows, map.columns) >= FINE;
}

function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(place), MAGMA.length - 2);
  return MAGMA[low].map((side, i) => Math.round(side + (place - low) * (MAGMA[low + 1][i] - side)));
}

function heatOf(rows) {
  const most = Math.max(largest(rows), 1e-12);
  const pixels = new ImageData(rows[0].length, rows.length);
  const shades = Array.from({ length: 256 }, (_, i) => [...colour(i / 255), Math.round(40 + (160 * i) / 255)]);
  rows.flat().forEach((value, i) => pixels.data.set(shades[Math.round((255 * value) / most)], 4 * i));
  return { layer: canvasOf(pixels), most };
}

// Draws one map over the image in grey, with the borders of the window and of the point's token.
// What the network does not see is darkened.
function paint(canvas, bitmap, { size, seen }, stage, kind, token) {
  const [height, width] = size;
  const context = canvas.getContext("2d");
  const [across, down] = [canvas.width / width, canvas.height / height];
  const cover = (ink, operation = "source-over") => {
    context.globalCompositeOperation = operation;
    context.fillStyle = ink;
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  context.save();
  cover("#fff");
  context.imageSmoothingEnabled = canvas.width < width;
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  cover("#808080", "saturation"); // in grey, and darker
  cover("rgb(0 0 0 / 0.2)");
  const map = stage[kind];
  const place = ([left, top, right, bottom]) => [left * across, top * down, (right - left) * across, (bottom - top) * down];
  if (map) {
    context.imageSmoothingEnabled = kind === "evidence"; // attention is shown token by token, key by key
    context.imageSmoothingQuality = "high";
    context.drawImage(heatOf(map.weights ?? map.values).layer, ...place(map.box));
  }
  const outside = new Path2D();
  outside.rect(0, 0, canvas.width, canvas.height);
  outside.rect(...place(seen));
  context.fillStyle = "rgb(0 0 0 / 0.6)";
  context.fill(outside, "evenodd");
  const line = Math.max(1, Math.round(Math.min(canvas.width, canvas.height) / 200));
  const border = (box) => {
    for (const [ink, extra] of [["#000", 2 * line], ["#fff", 0]]) {
      context.strokeStyle = ink;
      context.lineWidth = line + extra;
      context.strokeRect(...place(box));
    }
  };
  if (kind === "window" && map) border(map.box);
  border(token);
  context.restore();
}

export class Attention {
  // `page` has functions: `pane` returns the pane to look at, `panes` all, `choose` takes another one, `changed` redraws,
  // `zoomed` returns whether parts of the picture may be out of sight.
  constructor(panel, page) {
    this.panel = panel;
    this.page = page;
    this.choice = null;
    this.answers = new WeakMap(); // answers by image, and there by question
    this.reset();
  }

  // Forgets what was asked, for another image.
  reset() {
    clearTimeout(this.timer);
    this.stopped?.abort();
    this.answer = this.waiting = this.stopped = null;
    this.refined = {};
  }

  // Stops asking when another tab is opened.
  leave() {
    clearTimeout(this.timer);
    this.stopped?.abort();
    this.waiting = null;
    if (this.failed) warn("");
    this.failed = false;
  }

  // Asks and shows; without a point, what the decision drew on.
  async look(point = null) {
    const pane = this.page.pane();
    if (!pane?.prediction) return;
    this.leave();
    this.stopped = new AbortController();
    const { signal } = this.stopped;
    if (pane.model.runtime !== "pytorch") {
      this.answer = null;
      const text = `${pane.model.name} is an exported file, which holds no attention maps. Serve the run or its checkpoint to see where it looks.`;
      this.fill(pane, make("p", {}, text));
      this.clearOthers(null);
      this.page.changed();
      return;
    }
    this.panel.setAttribute("aria-busy", "true");
    if (!this.answer) this.fill(pane, make("p", {}, "Looking …"));
    try {
      const fields = point ? { x: point[0], y: point[1] } : {};
      const answer = await this.ask(pane, fields, signal);
      if (signal.aborted) return;
      this.answer = answer;
      this.refined = {};
      if (!this.choice || !shows(this.stage(this.choice.stage)[this.choice.kind])) this.choice = this.firstChoice();
      this.show(pane);
      say(this.sentence());
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      this.failed = true;
      warn(error.message, () => this.look(point));
      if (!this.answer) this.fill(pane, make("p", {}, "There is no attention to show."));
    } finally {
      if (!signal.aborted) this.panel.setAttribute("aria-busy", "false");
    }
  }

  async ask(pane, fields, signal) {
    const { entry, model } = pane;
    if (!this.answers.has(entry)) this.answers.set(entry, new Map());
    const answers = this.answers.get(entry);
    const key = JSON.stringify([model.key, fields]);
    if (!answers.has(key)) answers.set(key, await lookAt(model, entry.blob, fields, signal));
    return answers.get(key);
  }

  firstChoice() {
    const choices = ["evidence", "keys", "window"].flatMap((kind) => [3, 2, 1, 4].map((stage) => ({ stage, kind })));
    const map = ({ stage, kind }) => this.answer.stages[stage - 1][kind];
    return choices.find((choice) => shows(map(choice))) ?? choices.find(map);
  }

  // One block or head of the chosen stage, or its last block and the average over heads.
  async refine(pane, block, head) {
    const { answer, choice } = this;
    const { x, y } = answer.point;
    const { stage, kind } = choice;
    const fields = { x, y, stage, ...(block && { block }), ...(head && { head }) };
    this.refining = fields;
    try {
      const answered = block || head ? await this.ask(pane, fields) : null;
      if (this.refining !== fields || this.answer !== answer || this.choice !== choice) return;
      this.refined = answered ? { stage: answered.stages[0], block, head, kind, number: stage } : {};
      if (this.failed) warn("");
      this.failed = false;
    } catch (error) {
      if (this.answer !== answer) return;
      this.failed = true;
      warn(error.message);
    }
    this.show(pane);
  }

  stage(number) {
    const { refined } = this;
    const stage = this.answer.stages[number - 1];
    return refined.number === number && refined.stage ? { ...stage, [refined.kind]: refined.stage[refined.kind] } : stage;
  }

  sentence() {
    const { point, target } = this.answer;
    const where = `attention of the token at ${Math.floor(point.x)}, ${Math.floor(point.y)}`;
    if (point.chosen_by === "request") return `A${where.slice(1)}`;
    const score = target && target.score !== null ? ` (${percent(target.score)})` : "";
    return target ? `Evidence for ${target.name}${score}, and ${where}` : `No object was found; ${where}`;
  }

  // The fields of the request whose answer is shown in a pane; `null` if there is none.
  requestOf(pane) {
    if (!this.answer || this.page.pane() !== pane) return null;
    const { x, y, chosen_by } = this.answer.point;
    return chosen_by === "request" ? { x, y } : {};
  }

  // Only the pane that was asked shows attention.
  clearOthers(pane) {
    for (const other of this.page.panes()) if (other !== pane) other.heat = null;
  }

  show(pane) {
    const { stage, kind } = this.choice;
    const chosen = this.stage(stage);
    const map = chosen[kind];
    this.drawOver(pane, chosen, chosen.token_box);
    const rows = map?.weights ?? map?.values;
    const single = rows && rows.length * rows[0].length === 1 ? " There is only one here." : "";
    this.fill(
      pane,
      make("h2", {}, this.sentence()),
      ...this.grid(pane),
      make("p", { class: "small" }, `${MEANING[kind]} ${map?.block ? `Stage ${stage}, block ${map.block} of ${chosen.blocks.length}.` : `Stage ${stage}.`}${single} Each map has a scale of its own.`),
      this.legend(kind, rows ? largest(rows) : 0),
      this.controls(pane, chosen, kind),
      this.points(pane),
    );
    this.page.changed();
    if (this.page.zoomed()) this.reveal(pane, chosen.token_box);
  }

  // Draws the chosen map on the pane's picture, with the token's border.
  drawOver(pane, stage, token) {
    const { answer } = this;
    const { kind, stage: number } = this.choice;
    const { bitmap } = pane.entry;
    this.clearOthers(pane);
    pane.heat = {
      text: `${KINDS[kind]} of stage ${number} over the image. ${this.sentence()}`,
      draw: (canvas) => {
        const enlarged = Math.max(1, Math.ceil(LARGE / Math.max(...answer.size))); // so that lines are thin
        [canvas.height, canvas.width] = answer.size.map((side) => side * enlarged);
        paint(canvas, bitmap, answer, stage, kind, token);
      },
    };
  }

  // Replaces the panel's content; what has the focus keeps it, by its `data-key`.
  fill(pane, ...content) {
    const focus = this.panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.panel.replaceChildren(...(this.page.panes().length > 1 ? [this.models(pane)] : []), ...content);
    if (focus) (this.panel.querySelector(`[data-key="${focus}"]`) ?? this.panel).focus();
  }

  // The choice of the model to look at.
  models(pane) {
    const select = make("select", { "data-key": "model" });
    for (const { model } of this.page.panes()) select.append(make("option", {}, model.name));
    select.value = pane.model.name;
    select.addEventListener("change", () => {
      this.page.choose(this.page.panes()[select.selectedIndex]);
      this.look(this.answer?.point.chosen_by === "request" ? [this.answer.point.x, this.answer.point.y] : null);
    });
    return make("div", { class: "pair" }, make("label", {}, "Attention of", select));
  }

  // The maps of all stages, from the first to the last: the path through the network.
  *grid(pane) {
    const { answer } = this;
    const [height, width] = answer.size;
    for (const kind of Object.keys(KINDS)) {
      if (!answer.stages.some((stage) => stage[kind])) continue;
      const cells = answer.stages.map((_, i) => {
        const stage = this.stage(i + 1);
        if (!stage[kind]) return make("span", {}, "–");
        const chosen = this.choice.stage === i + 1 && this.choice.kind === kind;
        const cell = button("", () => {
          this.choice = { stage: i + 1, kind };
          this.show(pane);
        }, { "aria-pressed": String(chosen), "aria-label": `${KINDS[kind]}, stage ${i + 1}`, "data-key": `${kind}${i + 1}` });
        const canvas = make("canvas");
        canvas.width = Math.max(1, Math.round(SMALL * Math.min(1, width / height)));
        canvas.height = Math.max(1, Math.round(SMALL * Math.min(1, height / width)));
        paint(canvas, pane.entry.bitmap, answer, stage, kind, stage.token_box);
        cell.append(canvas);
        return cell;
      });
      yield make("div", { class: "small" }, `${KINDS[kind]}, stages 1 to 4`);
      yield make("div", { class: "maps" }, ...cells);
    }
  }

  legend(kind, most) {
    const pixels = new ImageData(128, 1);
    for (let i = 0; i < 128; i++) pixels.data.set([...colour(i / 127), 255], 4 * i);
    const right = kind === "evidence" ? "most" : percent(most);
    return make("div", { class: "scale" }, kind === "evidence" ? "none" : "0 %", canvasOf(pixels), right);
  }

  controls(pane, chosen, kind) {
    if (kind === "evidence") return "";
    const word = kind === "window" ? "local" : "global";
    const numbers = chosen.blocks.map((name, i) => (name === word ? i + 1 : 0)).filter((number) => number);
    const block = make("select", { "data-key": "block" });
    numbers.forEach((number, i) => block.append(make("option", { value: i + 1 === numbers.length ? "" : String(number) }, String(number))));
    const head = make("select", { "data-key": "head" }, make("option", { value: "" }, "average"));
    for (let i = 1; i <= chosen.heads; i++) head.append(make("option", { value: String(i) }, `${i}`));
    if (this.refined.number === this.choice.stage && this.refined.kind === kind) {
      block.value = this.refined.block ?? "";
      head.value = this.refined.head ?? "";
    }
    for (const select of [block, head]) select.addEventListener("change", () => this.refine(pane, block.value || null, head.value || null));
    return make("div", { class: "pair" }, make("label", {}, "Block", block), make("label", {}, "Head", head));
  }

  points() {
    const { point, seen } = this.answer;
    const number = (value, first, end, key) => {
      const limits = { min: String(Math.ceil(first)), max: String(Math.ceil(end) - 1) };
      const input = make("input", { type: "number", step: "1", required: true, "data-key": key, ...limits });
      input.value = Math.min(Math.max(Math.floor(value), Math.ceil(first)), Math.ceil(end) - 1);
      return input;
    };
    const [x, y] = [number(point.x, seen[0], seen[2], "x"), number(point.y, seen[1], seen[3], "y")];
    const look = make("button", { "data-key": "look" }, "Look at this point");
    const form = make("form", { class: "pair" }, make("label", {}, "x", x), make("label", {}, "y", y), look);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.look([Number(x.value), Number(y.value)]);
    });
    if (point.chosen_by === "request") form.append(button("Back to the decision", () => this.look(), { "data-key": "back" }));
    const text = "Tap or click the image to look from another point. With the keyboard: move to the image, and move the point with the arrow keys.";
    return make("div", {}, make("h2", {}, "Point"), form, make("p", { class: "small" }, text));
  }

  // Moves the point by tokens of the chosen stage, within what the network sees, and asks when it rests.
  move(across, down) {
    if (!this.answer) return;
    const pane = this.page.pane();
    const { seen } = this.answer;
    const stage = this.stage(this.choice.stage);
    const [width, height] = [stage.token_box[2] - stage.token_box[0], stage.token_box[3] - stage.token_box[1]];
    const { x, y } = this.waiting ?? this.answer.point;
    const clamp = (value, first, end) => Math.min(Math.max(value, first + 0.01), end - 0.01); // borders are rounded
    this.waiting = { x: clamp(x + across * width, seen[0], seen[2]), y: clamp(y + down * height, seen[1], seen[3]) };
    const [columns, rows] = [Math.floor((this.waiting.x - seen[0]) / width), Math.floor((this.waiting.y - seen[1]) / height)];
    const token = [seen[0] + columns * width, seen[1] + rows * height, seen[0] + (columns + 1) * width, seen[1] + (rows + 1) * height];
    this.drawOver(pane, stage, token);
    this.page.changed();
    if (this.page.zoomed()) this.reveal(pane, token);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.enter(), 250);
  }

  enter() {
    clearTimeout(this.timer);
    if (!this.waiting) return;
    const { x, y } = this.waiting;
    this.waiting = null;
    this.look([x, y]);
  }

  // Scrolls a token into sight.
  reveal(pane, [left, top, right, bottom]) {
    const { frame, canvas } = pane;
    const scale = canvas.clientWidth / this.answer.size[1];
    const [x, y] = [((left + right) / 2) * scale, ((top + bottom) / 2) * scale];
    const hidden = (at, first, length) => at < first || at > first + length;
    if (hidden(x, frame.scrollLeft, frame.clientWidth) || hidden(y, frame.scrollTop, frame.clientHeight)) {
      frame.scrollTo(x - frame.clientWidth / 2, y - frame.clientHeight / 2);
    }
  }
}
