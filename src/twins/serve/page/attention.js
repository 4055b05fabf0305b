// What the network looks at: evidence for its decision by stage, and at a point its local window and its global keys.

import { lookAt } from "./api.js";
import { button, make, percent, say, warn } from "./dom.js";
import { canvasOf } from "./drawing.js";

// Colours from few to many, readable without colour vision, as matplotlib's magma has them at eighths.
const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
const KINDS = { evidence: "Evidence", window: "Window", keys: "Keys" };
const MEANING = {
  evidence: "Where the stage's map raised the score of the decision: gradient times map (HiResCAM).",
  window: "Local attention (LSA): how the point's token divides its attention among the tokens of its own window.",
  keys: "Global attention (GSA): how it divides its attention among the sub-sampled keys of the whole image.",
};
const SMALL = 120;
const FINE = 4; // rows and columns of a map that shows something

function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(place), MAGMA.length - 2);
  return MAGMA[low].map((side, i) => Math.round(side + (place - low) * (MAGMA[low + 1][i] - side)));
}

function heatOf(rows) {
  const most = Math.max(...rows.map((row) => Math.max(...row)), 1e-12);
  const pixels = new ImageData(rows[0].length, rows.length);
  rows.flat().forEach((value, i) => pixels.data.set([...colour(value / most), Math.round(40 + (160 * value) / most)], 4 * i));
  return { layer: canvasOf(pixels), most };
}

// Draws one map over the image in grey, with the borders of the window and of the point's token.
function paint(canvas, bitmap, size, stage, kind, point) {
  const [height, width] = size;
  const context = canvas.getContext("2d");
  const [across, down] = [canvas.width / width, canvas.height / height];
  context.save();
  context.filter = "grayscale(1) brightness(0.8)";
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.restore();
  const map = stage[kind];
  const place = ([left, top, right, bottom]) => [left * across, top * down, (right - left) * across, (bottom - top) * down];
  if (map) {
    context.imageSmoothingEnabled = kind === "evidence"; // attention is shown token by token, key by key
    context.imageSmoothingQuality = "high";
    context.drawImage(heatOf(map.weights ?? map.values).layer, ...place(map.box));
  }
  const line = Math.max(1, Math.round(Math.min(canvas.width, canvas.height) / 200));
  const border = (box) => {
    for (const [ink, extra] of [["#000", 2 * line], ["#fff", 0]]) {
      context.strokeStyle = ink;
      context.lineWidth = line + extra;
      context.strokeRect(...place(box));
    }
  };
  if (kind === "window" && map) border(map.box);
  if (kind !== "evidence" || point) border(stage.token_box);
}

export class Attention {
  // `pane` returns the pane to look at, `changed` redraws it.
  constructor(panel, pane, changed) {
    this.panel = panel;
    this.pane = pane;
    this.changed = changed;
    this.choice = null;
    this.known = new WeakMap(); // answers by image, and there by question
  }

  // Asks and shows; without a point, what the decision drew on.
  async look(point = null) {
    const pane = this.pane();
    if (!pane?.prediction) return;
    if (pane.model.runtime !== "pytorch") {
      pane.heat = null;
      this.panel.replaceChildren(make("p", {}, `${pane.model.name} is an exported file, which holds no attention maps. Serve the run or its checkpoint to see where it looks.`));
      this.changed();
      return;
    }
    this.point = point;
    this.stopped?.abort();
    this.stopped = new AbortController();
    this.panel.setAttribute("aria-busy", "true");
    if (!this.panel.childElementCount) this.panel.append(make("p", {}, "Looking …"));
    try {
      const { signal } = this.stopped;
      const fields = point ? { x: point[0].toFixed(2), y: point[1].toFixed(2) } : {};
      this.answer = await this.ask(pane, fields, signal);
      if (!this.choice || !this.answer.stages[this.choice.stage - 1][this.choice.kind]) this.choice = this.firstChoice();
      this.close = {};
      warn("");
      this.show(pane);
      say(this.sentence());
    } catch (error) {
      if (error.name !== "AbortError") warn(error.message);
    } finally {
      this.panel.setAttribute("aria-busy", "false");
    }
  }

  async ask(pane, fields, signal) {
    const { entry, model } = pane;
    if (!this.known.has(entry)) this.known.set(entry, new Map());
    const answers = this.known.get(entry);
    const key = JSON.stringify([model.name, fields]);
    if (!answers.has(key)) answers.set(key, await lookAt(model, entry.blob, fields, signal));
    return answers.get(key);
  }

  firstChoice() {
    const fine = ({ rows, columns }) => Math.min(rows, columns) >= FINE;
    for (const kind of ["evidence", "keys", "window"]) {
      const has = [3, 2, 1, 4].filter((stage) => this.answer.stages[stage - 1][kind]);
      if (has.length) return { stage: has.find((stage) => fine(this.answer.stages[stage - 1])) ?? has[0], kind };
    }
    return { stage: 3, kind: "keys" };
  }

  // One block or head of the chosen stage, or its last block and the average over heads.
  async refine(pane, block, head) {
    const { x, y } = this.answer.point;
    const { stage, kind } = this.choice;
    const fields = { x: x.toFixed(2), y: y.toFixed(2), stage, ...(block && { block }), ...(head && { head }) };
    try {
      const answer = block || head ? await this.ask(pane, fields) : null;
      this.close = answer ? { stage: answer.stages[0], block, head, kind, number: stage } : {};
      warn("");
      this.show(pane);
    } catch (error) {
      warn(error.message);
    }
  }

  stage(number) {
    const { close } = this;
    return close.number === number && close.stage ? { ...this.answer.stages[number - 1], [close.kind]: close.stage[close.kind] } : this.answer.stages[number - 1];
  }

  sentence() {
    const { point, target } = this.answer;
    const where = `the point ${Math.round(point.x)}, ${Math.round(point.y)}`;
    if (point.chosen_by === "request") return `What ${where} attends to`;
    const score = target && target.score !== null ? ` (${percent(target.score)})` : "";
    return target ? `What ${target.name}${score} drew on, and what ${where} attends to` : `What ${where} attends to; no object was found`;
  }

  show(pane) {
    const { stage, kind } = this.choice;
    const chosen = this.stage(stage);
    const map = chosen[kind];
    pane.heat = {
      text: `${KINDS[kind]} of stage ${stage} over the image. ${this.sentence()}`,
      draw: (canvas) => paint(canvas, pane.entry.bitmap, this.answer.size, this.stage(stage), kind, this.point),
    };
    const most = map ? Math.max(...(map.weights ?? map.values).flat()) : 0;
    const focus = document.activeElement?.dataset?.map;
    this.panel.replaceChildren(
      make("h2", {}, this.sentence()),
      ...this.grid(pane),
      make("p", { class: "small" }, `${MEANING[kind]} ${map?.block ? `Stage ${stage}, block ${map.block} of ${chosen.blocks.length}.` : `Stage ${stage}.`}`),
      this.legend(kind, most),
      this.controls(pane, chosen, kind),
      this.points(pane),
    );
    if (focus) this.panel.querySelector(`[data-map="${focus}"]`)?.focus();
    this.changed();
  }

  // The maps of all stages, from the first to the last: the path through the network.
  *grid(pane) {
    for (const kind of Object.keys(KINDS)) {
      if (!this.answer.stages.some((stage) => stage[kind])) continue;
      const cells = this.answer.stages.map((_, i) => {
        const stage = this.stage(i + 1);
        if (!stage[kind]) return make("span", {}, "–");
        const chosen = this.choice.stage === i + 1 && this.choice.kind === kind;
        const cell = button("", () => {
          this.choice = { stage: i + 1, kind };
          this.show(pane);
        }, { "aria-pressed": String(chosen), "aria-label": `${KINDS[kind]}, stage ${i + 1}`, "data-map": `${kind}${i + 1}` });
        const [height, width] = this.answer.size;
        const canvas = make("canvas");
        canvas.width = Math.round(SMALL * Math.min(1, width / height));
        canvas.height = Math.round(SMALL * Math.min(1, height / width));
        paint(canvas, pane.entry.bitmap, this.answer.size, stage, kind, this.point);
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
    const block = make("select", {}, make("option", { value: "" }, "last"));
    chosen.blocks.forEach((name, i) => name === word && block.append(make("option", { value: String(i + 1) }, `${i + 1}`)));
    const head = make("select", {}, make("option", { value: "" }, "average"));
    for (let i = 1; i <= chosen.heads; i++) head.append(make("option", { value: String(i) }, `${i}`));
    if (this.close.number === this.choice.stage && this.close.kind === kind) {
      block.value = this.close.block ?? "";
      head.value = this.close.head ?? "";
    }
    const changed = async (which) => {
      await this.refine(pane, block.value || null, head.value || null);
      this.panel.querySelectorAll("select")[which]?.focus();
    };
    block.addEventListener("change", () => changed(0));
    head.addEventListener("change", () => changed(1));
    return make("div", { class: "pair" }, make("label", {}, "Block", block), make("label", {}, "Head", head));
  }

  points(pane) {
    const [height, width] = this.answer.size;
    const { point } = this.answer;
    const number = (value, most) => {
      const input = make("input", { type: "number", min: "0", max: String(most - 1), step: "any" });
      input.value = Math.round(value);
      return input;
    };
    const [x, y] = [number(point.x, width), number(point.y, height)];
    const form = make("form", { class: "pair" }, make("label", {}, "x", x), make("label", {}, "y", y), make("button", {}, "Look at this point"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.look([Number(x.value), Number(y.value)]);
    });
    if (point.chosen_by === "request") form.append(button("Back to the decision", () => this.look()));
    const text = "Click the image to look from another point. With the keyboard: move to the image, and move the point with the arrow keys.";
    return make("div", {}, make("h2", {}, "Point"), form, make("p", { class: "small" }, text));
  }

  // Moves the point by tokens of the chosen stage.
  move(across, down) {
    if (!this.answer) return;
    const [height, width] = this.answer.size;
    const [left, top, right, bottom] = this.answer.stages[this.choice.stage - 1].token_box;
    const { x, y } = this.waiting ?? this.answer.point;
    const clamp = (value, most) => Math.min(Math.max(value, 0), most - 0.01);
    this.waiting = { x: clamp(x + across * (right - left), width), y: clamp(y + down * (bottom - top), height) };
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
}
