// One model's picture of the image, with its result.

import { addAnswer } from "./api.js";
import { button, make, percent, plural, swatch } from "./dom.js";
import { draw, shownObjects } from "./drawing.js";

const LISTED = 10;
const MOST_OBJECTS = 60;

export class Pane {
  constructor(model) {
    this.model = model;
    this.hidden = new Set(); // names of classes that are not shown
    this.canvas = make("canvas", { role: "img", "aria-label": "no image" });
    this.frame = make("div", { class: "frame", tabindex: "0", role: "region", "aria-label": `Image, ${model.name}` }, this.canvas);
    this.facts = make("span");
    const caption = make("figcaption", {}, make("b", {}, model.name), make("span", {}, describe(model)), this.facts);
    this.figure = make("figure", {}, this.frame, caption);
    this.heat = null; // what the attention draws in place of the result
    this.all = false;
  }

  // Shows an image before its prediction is there.
  preview(entry) {
    this.canvas.setAttribute("aria-label", `${entry.name}, not predicted yet`);
    if (!entry.bitmap || entry.answers.has(this.model.key)) return;
    draw(this.canvas, entry.bitmap, { size: [entry.bitmap.height, entry.bitmap.width] }, this.model, {});
    this.zoom(1);
  }

  async run(entry, signal) {
    this.frame.classList.add("waits");
    this.frame.setAttribute("aria-busy", "true");
    try {
      await addAnswer(entry, this.model, signal);
    } finally {
      if (!signal.aborted) this.frame.classList.remove("waits");
      if (!signal.aborted) this.frame.setAttribute("aria-busy", "false");
    }
    if (!signal.aborted) this.show(entry);
  }

  // Forgets the image; its result is not shown any more.
  clear() {
    this.entry = this.heat = null;
    this.facts.textContent = "";
  }

  show(entry) {
    this.entry = entry;
    const { server, all } = entry.answers.get(this.model.key);
    this.facts.textContent = `${server.toFixed(0)} ms on the server, ${all.toFixed(0)} ms with the upload`;
  }

  get prediction() {
    return this.entry?.answers.get(this.model.key)?.prediction;
  }

  // The settings of the page with the classes that this pane hides.
  settings(shared) {
    return { ...shared, hidden: this.hidden };
  }

  redraw(shared) {
    if (!this.prediction) return;
    if (this.heat) this.heat.draw(this.canvas);
    else draw(this.canvas, this.entry.bitmap, this.prediction, this.model, this.settings(shared));
    this.canvas.setAttribute("aria-label", this.heat ? this.heat.text : summary(this.prediction, this.settings(shared)));
  }

  zoom(factor) {
    const { canvas, frame } = this;
    frame.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
    const [across, down] = [Math.max(1, frame.clientWidth - 2), Math.max(1, frame.clientHeight - 2)];
    const fit = Math.min(across / canvas.width, down / canvas.height);
    const width = canvas.width * fit * factor;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${(width * canvas.height) / canvas.width}px`;
    frame.classList.toggle("exact", width > 2 * canvas.width);
  }

  // The place of an event in pixels of the image.
  place(event) {
    const area = this.canvas.getBoundingClientRect();
    const [height, width] = this.prediction.size;
    const x = ((event.clientX - area.left) / area.width) * width;
    const y = ((event.clientY - area.top) / area.height) * height;
    return x >= 0 && y >= 0 && x < width && y < height ? [x, y] : null;
  }

  // The result as a list; `changed` is called when a class is switched on or off, `look` with the centre of an object.
  results(shared, changed, look) {
    const { prediction, model } = this;
    const list = make("div", {});
    if (!prediction) return list;
    if (prediction.boxes) this.addObjects(list, shared, changed, look);
    else if (prediction.masks) this.addAreas(list, changed);
    else this.addClasses(list, shared);
    list.prepend(make("h2", {}, model.name));
    return list;
  }

  addClasses(list, shared) {
    const { labels, names, scores } = this.prediction;
    const count = this.all ? labels.length : Math.min(LISTED, labels.length);
    const rows = labels.slice(0, count).map((_, i) => {
      const bar = make("i", { "aria-hidden": "true" });
      bar.style.width = `${100 * scores[i]}%`;
      return make("li", {}, make("div", { class: "share" }, bar, make("span", {}, names[i]), make("span", { class: "number" }, percent(scores[i]))));
    });
    list.append(make("ul", { class: "rows" }, ...rows));
    if (labels.length > LISTED) {
      list.append(button(this.all ? "Show the first ten" : `Show all ${labels.length} classes`, () => {
        this.all = !this.all;
        const again = this.results(shared);
        list.replaceWith(again);
        again.querySelector("button").focus();
      }));
    }
  }

  addAreas(list, changed) {
    const [height, width] = this.prediction.size;
    const areas = Object.entries(this.prediction.areas).sort((one, other) => other[1] - one[1]);
    list.append(this.classRows(areas.map(([name, area]) => [name, this.model.names.indexOf(name), percent(area / (height * width))]), changed));
  }

  addObjects(list, shared, changed, look) {
    const { prediction, model } = this;
    const counts = countsOf(prediction, { ...shared, hidden: new Set() });
    if (!counts.size) {
      const best = prediction.scores.length ? ` The surest object has ${percent(prediction.scores[0])}.` : "";
      list.append(make("p", {}, `No object above ${percent(shared.score, 0)}.${best}`));
      return;
    }
    const rows = [...counts].sort((one, other) => other[1] - one[1]);
    list.append(this.classRows(rows.map(([name, count]) => [name, model.names.indexOf(name), String(count)]), changed));
    const shown = shownObjects(prediction, this.settings(shared));
    const objects = shown.slice(0, MOST_OBJECTS).map((index) => {
      const [left, top, right, bottom] = prediction.boxes[index];
      const where = `${Math.round(right - left)} × ${Math.round(bottom - top)} at ${Math.round(left)}, ${Math.round(top)}`;
      const row = make("li", {}, swatch(model.colours[prediction.labels[index]]), make("span", { class: "text" }, prediction.names[index]),
        make("span", { class: "number" }, percent(prediction.scores[index])), make("span", { class: "number" }, where));
      if (look && model.runtime === "pytorch") {
        const text = `Look at ${prediction.names[index]} at ${Math.round(left)}, ${Math.round(top)}`;
        row.append(button("Look", () => look(this, (left + right) / 2, (top + bottom) / 2), { "aria-label": text }));
      }
      return row;
    });
    list.append(make("ul", { class: "rows", "aria-label": "Objects, surest first" }, ...objects));
    if (shown.length > MOST_OBJECTS) list.append(make("p", { class: "small" }, `and ${shown.length - MOST_OBJECTS} more`));
  }

  // A row for each class, with a box to show or hide it.
  classRows(rows, changed) {
    const list = make("ul", { class: "rows", "aria-label": "Classes" });
    for (const [name, label, text] of rows) {
      const box = make("input", { type: "checkbox" });
      box.checked = !this.hidden.has(name);
      box.addEventListener("change", () => {
        this.hidden[box.checked ? "delete" : "add"](name);
        changed();
      });
      list.append(make("li", {}, make("label", {}, box, swatch(this.model.colours[label]), make("span", { class: "text" }, name),
        make("span", { class: "number" }, text))));
    }
    if (rows.length > 1) {
      const shown = rows.some(([name]) => !this.hidden.has(name));
      list.append(make("li", {}, button(shown ? "Hide all" : "Show all", () => {
        for (const [name] of rows) this.hidden[shown ? "add" : "delete"](name);
        changed();
      })));
    }
    return list;
  }
}

// The number of shown objects of each class.
export function countsOf(prediction, settings) {
  const counts = new Map();
  for (const index of shownObjects(prediction, settings)) counts.set(prediction.names[index], (counts.get(prediction.names[index]) ?? 0) + 1);
  return counts;
}

export function describe(model) {
  return [model.task, model.head, model.model].filter((word) => word).join(", ");
}

// The result in a sentence, for screen readers and the status line.
export function summary(prediction, settings) {
  if (prediction.boxes) {
    const parts = [...countsOf(prediction, settings)].sort((one, other) => other[1] - one[1]).map(([name, count]) => `${name}: ${count}`);
    const hidden = shownObjects(prediction, { ...settings, hidden: new Set() }).length;
    if (!parts.length) return hidden ? `${plural(hidden, "object")} hidden` : `No object above ${percent(settings.score, 0)}`;
    return parts.slice(0, 5).join(", ") + (parts.length > 5 ? ", …" : "");
  }
  if (prediction.areas) {
    const [height, width] = prediction.size;
    const areas = Object.entries(prediction.areas).sort((one, other) => other[1] - one[1]).slice(0, 3);
    return areas.map(([name, area]) => `${name} ${percent(area / (height * width), 0)}`).join(", ");
  }
  return prediction.labels.length ? `${prediction.names[0]}, ${percent(prediction.scores[0])}` : plural(0, "class", "classes");
}
