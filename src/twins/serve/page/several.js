// Several images at once: a table that can be sorted and saved, and a grid.

import { addAnswer } from "./api.js";
import { saveText, button, find, make, percent, plural, say } from "./dom.js";
import { drawFrames } from "./drawing.js";
import { countsOf, summary } from "./pane.js";

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
    find("csv").addEventListener("click", () => saveText(this.csv(), "predictions.csv", "text/csv"));
    find("stop").addEventListener("click", () => {
      this.stopped?.abort();
      find("csv").focus();
    });
    find("again").addEventListener("click", () => {
      find("stop").hidden = false;
      find("stop").focus();
      this.run(this.entries, this.model);
    });
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
    [this.entries, this.model, this.ended] = [entries, model, false];
    find("several").hidden = false;
    find("stop").hidden = find("progress").hidden = false;
    find("again").hidden = true;
    for (const entry of entries) entry.errors.delete(model.key);
    const waiting = entries.filter((entry) => !entry.answers.has(model.key));
    let done = entries.length - waiting.length;
    const progress = () => {
      find("progress").max = entries.length;
      find("progress").value = done;
      this.renderSoon();
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
    if (this.stopped?.signal !== signal) return; // another run took over, or it was cleared
    find("stop").hidden = find("progress").hidden = true;
    const failed = entries.filter((entry) => entry.errors.has(model.key)).length;
    this.ended = true;
    say(`${plural(done, "image")}${signal.aborted ? ", stopped" : ""}${failed ? `, ${failed} of them refused` : ""}.`);
    this.render();
  }

  async predict(entry, model, signal) {
    while (!signal.aborted) {
      try {
        await addAnswer(entry, model, signal);
        return;
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status !== 429) {
          entry.errors.set(model.key, error.message);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(1, error.wait)));
      }
    }
  }

  // Draws again, at most a few times a second.
  renderSoon() {
    this.timer ??= setTimeout(() => this.render(), 200);
  }

  // What an image without a result has instead.
  reason(entry) {
    return entry.errors.get(this.model.key) ?? (this.ended ? "not predicted" : "waits");
  }

  render() {
    clearTimeout(this.timer);
    this.timer = null;
    const left = this.entries.filter((entry) => !entry.answers.has(this.model.key)).length;
    find("again").hidden = !this.ended || !left;
    find("again").textContent = `Predict the ${plural(left, "other")}`;
    find("several-title").textContent = plural(this.entries.length, "image");
    find("collection").replaceChildren(this.grid ? this.cards() : this.table());
  }

  // The columns after the name: a title, the value of a prediction to sort by, and its text.
  columns() {
    const settings = { ...this.settings(), hidden: new Set() };
    const predictions = this.entries.map((entry) => entry.answers.get(this.model.key)?.prediction).filter((one) => one);
    const time = { title: "ms", number: true, value: (_, answer) => answer.server, text: (value) => value.toFixed(0) };
    const [first] = predictions;
    if (!first) return [];
    if (first.boxes) {
      const counts = new Map(predictions.map((prediction) => [prediction, countsOf(prediction, settings)]));
      const count = (name) => (prediction) => counts.get(prediction).get(name) ?? 0;
      const all = (prediction) => [...counts.get(prediction).values()].reduce((sum, one) => sum + one, 0);
      const names = [...new Set([...counts.values()].flatMap((one) => [...one.keys()]))].sort();
      return [{ title: "objects", number: true, value: all, text: String }, ...names.map((name) => ({ title: name, number: true, value: count(name), text: String })), time];
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
      const answer = entry.answers.get(this.model.key);
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
        : [make("td", { colspan: String(Math.max(1, columns.length)) }, this.reason(entry))];
      const image = make("img", { alt: "", loading: "lazy", src: entry.url });
      return make("tr", {}, make("td", {}, image), make("td", {}, name), ...cells);
    });
    const top = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "small" }, "picture")), ...head);
    return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of results" }, make("table", {}, make("thead", {}, top), make("tbody", {}, ...body)));
  }

  cards() {
    const settings = { ...this.settings(), hidden: new Set() };
    return make("ul", { class: "cards" }, ...this.rows(this.columns()).map(({ entry }) => {
      const prediction = entry.answers.get(this.model.key)?.prediction;
      const picture = make("div", { class: "picture" }, make("img", { alt: "", loading: "lazy", src: entry.url }));
      if (prediction?.boxes) {
        const frames = make("canvas", { "aria-hidden": "true" });
        drawFrames(frames, prediction, this.model, settings, CARD);
        picture.append(frames);
      }
      const card = button("", () => this.open(entry));
      card.append(picture, make("b", {}, entry.name), make("span", {}, prediction ? summary(prediction, settings) : this.reason(entry)));
      return make("li", {}, card);
    }));
  }

  csv() {
    const columns = this.columns();
    const safe = (value) => (/^[=+\-@\t]/.test(value) ? `'${value}` : value); // spreadsheets take such a name for a formula
    const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const head = ["image", ...columns.map((column) => column.title), "error"];
    const rows = this.rows(columns).map(({ entry, values }) => [safe(entry.name), ...(values ?? columns.map(() => "")).map(String), values ? "" : this.reason(entry)]);
    return [head, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
  }

  clear() {
    this.stopped?.abort();
    this.stopped = null;
    this.entries = [];
    find("several").hidden = true;
  }
}
