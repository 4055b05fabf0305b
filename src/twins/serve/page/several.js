// Several images at once: a table that can be sorted and saved, and a grid.

import { predict } from "./api.js";
import { asText, button, find, make, percent, plural, say } from "./dom.js";
import { draw, shownObjects } from "./drawing.js";
import { summary } from "./pane.js";

const AT_ONCE = 4;
const CARD = 320;

export class Several {
  // `open` shows an image above; `settings` returns those of the page.
  constructor(open, settings) {
    this.open = open;
    this.settings = settings;
    this.entries = [];
    this.grid = false;
    this.order = { column: 0, down: false };
    find("as-grid").addEventListener("click", () => this.choose(true));
    find("as-table").addEventListener("click", () => this.choose(false));
    find("csv").addEventListener("click", () => asText(this.csv(), "predictions.csv", "text/csv"));
    find("stop").addEventListener("click", () => this.stopped?.abort());
  }

  choose(grid) {
    this.grid = grid;
    find("as-grid").setAttribute("aria-pressed", String(grid));
    find("as-table").setAttribute("aria-pressed", String(!grid));
    this.render();
  }

  async run(entries, model) {
    this.stopped?.abort();
    this.stopped = new AbortController();
    const { signal } = this.stopped;
    [this.entries, this.model] = [entries, model];
    find("several").hidden = false;
    find("stop").hidden = find("progress").hidden = false;
    const waiting = entries.filter((entry) => !entry.answers.has(model.name));
    let done = entries.length - waiting.length;
    const progress = () => {
      find("progress").max = entries.length;
      find("progress").value = done;
      this.render();
    };
    progress();
    const work = async () => {
      while (waiting.length && !signal.aborted) {
        await this.predict(waiting.shift(), model, signal);
        done++;
        progress();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (this.stopped.signal !== signal) return; // another run took over
    find("stop").hidden = find("progress").hidden = true;
    const failed = entries.filter((entry) => entry.error).length;
    say(`${plural(done, "image")}${signal.aborted ? ", stopped" : ""}${failed ? `, ${failed} of them refused` : ""}.`);
    this.render();
  }

  async predict(entry, model, signal) {
    entry.error = "";
    while (!signal.aborted) {
      try {
        entry.answers.set(model.name, await predict(model, entry.blob, signal));
        return;
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status !== 429) {
          entry.error = error.message;
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(1, error.wait)));
      }
    }
  }

  render() {
    find("several-title").textContent = plural(this.entries.length, "image");
    find("collection").replaceChildren(this.grid ? this.cards() : this.table());
  }

  // The columns after the name: a title, the value of a prediction to sort by, and its text.
  columns() {
    const settings = { ...this.settings(), hidden: new Set() };
    const predictions = this.entries.map((entry) => entry.answers.get(this.model.name)?.prediction).filter((one) => one);
    const time = { title: "ms", number: true, value: (_, answer) => answer.server, text: (value) => value.toFixed(0) };
    const [first] = predictions;
    if (!first) return [];
    if (first.boxes) {
      const count = (name) => (prediction) => shownObjects(prediction, settings).filter((i) => name === null || prediction.names[i] === name).length;
      const names = [...new Set(predictions.flatMap((prediction) => shownObjects(prediction, settings).map((i) => prediction.names[i])))].sort();
      return [{ title: "objects", number: true, value: count(null), text: String }, ...names.map((name) => ({ title: name, number: true, value: count(name), text: String })), time];
    }
    if (first.areas) {
      const names = [...new Set(predictions.flatMap((prediction) => Object.keys(prediction.areas)))].sort();
      const share = (name) => (prediction) => (prediction.areas[name] ?? 0) / (prediction.size[0] * prediction.size[1]);
      return [...names.map((name) => ({ title: name, number: true, value: share(name), text: (value) => percent(value) })), time];
    }
    const word = { title: "class", value: (prediction) => prediction.names[0] ?? "", text: String };
    return [word, { title: "score", number: true, value: (prediction) => prediction.scores[0] ?? 0, text: (value) => percent(value) }, time];
  }

  rows(columns) {
    const rows = this.entries.map((entry) => {
      const answer = entry.answers.get(this.model.name);
      return { entry, values: answer ? columns.map((column) => column.value(answer.prediction, answer)) : null };
    });
    const { column, down } = this.order;
    const key = ({ entry, values }) => (column === 0 ? entry.name : (values?.[column - 1] ?? -Infinity));
    const compare = (one, other) => (typeof one === "string" ? one.localeCompare(other, undefined, { numeric: true }) : one - other);
    return rows.sort((one, other) => (down ? -1 : 1) * compare(key(one), key(other)));
  }

  table() {
    const columns = this.columns();
    const head = ["image", ...columns.map((column) => column.title)].map((title, index) => {
      const sorted = this.order.column === index;
      const mark = sorted ? (this.order.down ? " ▼" : " ▲") : "";
      const sort = button(title + mark, () => {
        this.order = { column: index, down: sorted ? !this.order.down : (columns[index - 1]?.number ?? false) };
        this.render();
        find("collection").querySelectorAll("th button")[index].focus();
      });
      const state = sorted ? (this.order.down ? "descending" : "ascending") : "none";
      return make("th", { scope: "col", "aria-sort": state, class: columns[index - 1]?.number ? "number" : "" }, sort);
    });
    const body = this.rows(columns).map(({ entry, values }) => {
      const name = button(entry.name, () => this.open(entry));
      const cells = values
        ? columns.map((column, i) => make("td", { class: column.number ? "number" : "" }, column.text(values[i])))
        : [make("td", { colspan: String(Math.max(1, columns.length)) }, entry.error || "waits")];
      const image = make("img", { alt: "", loading: "lazy", src: entry.url });
      return make("tr", {}, make("td", {}, image), make("td", {}, name), ...cells);
    });
    const top = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "small" }, "picture")), ...head);
    return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of results" }, make("table", {}, make("thead", {}, top), make("tbody", {}, ...body)));
  }

  cards() {
    const settings = { ...this.settings(), labels: false, hidden: new Set() };
    return make("ul", { class: "cards" }, ...this.rows(this.columns()).map(({ entry }) => {
      const prediction = entry.answers.get(this.model.name)?.prediction;
      const text = prediction ? summary(prediction, settings) : entry.error || "waits";
      const picture = make("img", { alt: "", loading: "lazy", src: entry.url });
      const card = button("", () => this.open(entry));
      card.append(picture, make("b", {}, entry.name), make("span", {}, text));
      if (prediction && !prediction.labels?.length === false && prediction.boxes) this.drawSmall(entry, prediction, settings, picture);
      return make("li", {}, card);
    }));
  }

  // Replaces the picture of a card by one with its objects.
  async drawSmall(entry, prediction, settings, picture) {
    if (prediction.masks) return; // drawn when the image is opened
    const [height, width] = prediction.size;
    const shrink = Math.min(1, CARD / Math.max(height, width));
    const size = [Math.round(height * shrink), Math.round(width * shrink)];
    const boxes = prediction.boxes.map((box) => box.map((side) => side * shrink));
    try {
      const bitmap = await createImageBitmap(entry.blob, { resizeWidth: size[1], resizeHeight: size[0], resizeQuality: "medium" });
      const canvas = make("canvas");
      draw(canvas, bitmap, { ...prediction, size, boxes }, this.model, settings);
      bitmap.close();
      canvas.toBlob((blob) => {
        picture.src = URL.createObjectURL(blob);
        picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
      });
    } catch {
      // the browser cannot show this format; the card keeps its name and result
    }
  }

  csv() {
    const columns = this.columns();
    const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const head = ["image", ...columns.map((column) => column.title), "error"];
    const rows = this.rows(columns).map(({ entry, values }) => [entry.name, ...(values ?? columns.map(() => "")).map(String), entry.error ?? ""]);
    return [head, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
  }

  clear() {
    this.stopped?.abort();
    this.entries = [];
    find("several").hidden = true;
  }
}
