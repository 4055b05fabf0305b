// The page: images in, results beside them.

import { call, listModels, lowestScore, useKey } from "./api.js";
import { Attention } from "./attention.js";
import { button, find, make, plural, say, warn } from "./dom.js";
import { forget } from "./drawing.js";
import { Pane, describe, summary } from "./pane.js";
import { requestPanel, savePanel } from "./saving.js";
import { Several } from "./several.js";
import { paths, stopCamera, takeFiles } from "./sources.js";

const LARGE = 4e6; // pixels above which the page offers to make an image smaller
const SMALLER = 1600; // longer side of such an image
const KEPT = 6; // decoded images that stay in memory
const TABS = ["result", "attention", "request", "save"];
const NAMES = /\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2|ppm)$/i;

const shared = { score: 0.3, opacity: 0.5, labels: true };
const entries = [];
const decoded = []; // entries with a decoded image, the one shown last at the end
let models = [];
let panes = [];
let current = null;
let tab = "result";
let zoom = 1;
let hasKey = false;
let running = null;
let exampleTurn = 0;
let exampleModel = null;

const several = new Several((entry) => show(entry), () => shared);
const attention = new Attention(find("panel-attention"), {
  pane: () => active,
  panes: () => panes,
  choose: activate,
  changed: redraw,
  zoomed: () => zoom > 1,
});
let active = null; // the pane whose attention is shown

// Models

async function start() {
  try {
    models = await listModels();
  } catch (error) {
    if (error.status === 401) askForKey(hasKey ? error.message : "");
    else {
      warn(error.message);
      if (!error.status || error.status === 503) setTimeout(start, 2000);
    }
    return;
  }
  find("key-form").hidden = true;
  if (!models.every((model) => model.ready)) {
    say("The server loads its models …");
    setTimeout(start, 500);
    return;
  }
  say("");
  warn("");
  for (const model of models) {
    model.objects = model.fields.includes("boxes");
    model.masks = model.fields.includes("masks");
    model.map = model.fields.includes("label_map");
    model.key = `${model.name}@${model.version}`;
    model.names = model.names.length ? model.names : Array.from({ length: model.num_classes }, (_, i) => String(i));
  }
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.get("score")) setScore(Number(wanted.get("score")));
  for (const [id, extra] of [["model", []], ["beside", ["none"]]]) {
    const options = [...extra.map((text) => make("option", { value: "" }, text)), ...models.map((model) => make("option", { value: model.name }, model.name))];
    find(id).replaceChildren(...options);
    if (models.some((model) => model.name === wanted.get(id))) find(id).value = wanted.get(id);
  }
  find("models").hidden = false;
  find("beside-label").hidden = models.length < 2;
  document.title = `${models.map((model) => model.name).join(", ")} – twins`;
  choose();
}

function askForKey(sentence) {
  find("key-form").hidden = false;
  warn(sentence);
  say("This server needs a key.");
  find("key").focus();
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find("key").value);
  find("key").value = "";
  hasKey = true;
  start();
});

function choose() {
  const names = [find("model").value, find("beside").value].filter((name, index, all) => name && all.indexOf(name) === index);
  panes = names.map((name) => new Pane(models.find((model) => model.name === name)));
  active = panes[0];
  find("panes").replaceChildren(...panes.map((pane) => pane.figure));
  find("panes").classList.toggle("two", panes.length === 2);
  for (const pane of panes) listen(pane);
  const any = (test) => panes.some((pane) => test(pane.model));
  find("score-row").hidden = !any((model) => model.objects);
  find("opacity-row").hidden = !any((model) => model.masks || model.map);
  find("labels-row").hidden = !any((model) => model.objects);
  find("controls").hidden = !any((model) => model.objects || model.map);
  const lowest = Math.min(...panes.map((pane) => lowestScore(pane.model)));
  find("score").min = find("score-number").min = lowest;
  setScore(shared.score);
  const [{ model }] = panes;
  const some = model.names.slice(0, 8).join(", ");
  find("about").textContent = `${model.name}: ${describe(model)}, ${plural(model.num_classes, "class", "classes")} (${some}${model.names.length > 8 ? ", …" : ""})`;
  link();
  showExamples();
  if (current) show(current);
  if (several.entries.length) several.run(several.entries, panes[0].model);
}

// The address of the page holds what is chosen, so that it can be sent to others.
function link() {
  const chosen = { model: find("model").value, beside: find("beside").value, score: find("score-row").hidden ? "" : shared.score };
  const words = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value !== ""));
  history.replaceState(null, "", `#${words}`);
}

async function showExamples() {
  const [{ model }] = panes;
  if (exampleModel === model.name) return;
  exampleModel = model.name;
  const turn = ++exampleTurn;
  const list = find("examples").querySelector("ul");
  for (const image of list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  list.replaceChildren();
  find("examples").hidden = !model.examples.length;
  for (const path of model.examples) {
    try {
      const blob = await (await call(path.replace(/^\//, ""))).blob();
      if (turn !== exampleTurn) return;
      const name = decodeURIComponent(path.split("/").pop());
      const file = new File([blob], name, { type: blob.type, lastModified: 0 });
      paths.set(file, path);
      const item = button("", () => add([file]), { "aria-label": `Example ${name}` });
      item.append(make("img", { alt: "", src: URL.createObjectURL(blob) }));
      list.append(make("li", {}, item));
    } catch (error) {
      warn(error.message);
      return;
    }
  }
}

// A model that the server has switched meanwhile is asked again.
async function refresh() {
  if (!panes.length || document.hidden) return;
  const now = await listModels().catch(() => []);
  if (now.some(({ name, version }) => models.some((model) => model.name === name && model.version !== version))) start();
}

for (const id of ["model", "beside"]) find(id).addEventListener("change", choose);
document.addEventListener("visibilitychange", refresh);
addEventListener("hashchange", start);

// Images

function add(files) {
  const images = files.filter((file) => file.type.startsWith("image/") || NAMES.test(file.name));
  if (!images.length) {
    warn(files.length ? `${files[0].name || "What was given"} is no image; choose JPEG, PNG or another picture.` : "There is no image in it.");
    return;
  }
  if (!panes.length) {
    warn("The server is not ready yet; try again in a moment.");
    return;
  }
  warn("");
  const added = [...new Set(images.map((file) => earlier(file) ?? entryOf(file)))];
  if (added.length > 1) several.run(added, panes[0].model);
  show(added[0]);
}

function entryOf(file) {
  const name = file.webkitRelativePath || (paths.get(file) ?? "").replace(/^\/(examples\/[^/]*\/)?/, "") || file.name;
  const entry = { name: name || "pasted.png", path: pathOf(file), blob: file, url: URL.createObjectURL(file), answers: new Map(), errors: new Map(), pending: new Map() };
  entries.push(entry);
  return entry;
}

function pathOf(file) {
  return file.webkitRelativePath || (paths.get(file) ?? file.name);
}

// The entry of an image that was given before.
function earlier(file) {
  const { size, lastModified } = file;
  return entries.find(({ path, blob }) => path === pathOf(file) && blob.size === size && blob.lastModified === lastModified);
}

// Decodes an image; a browser that cannot show its format still gets its result.
async function decode(entry) {
  if (!entry.bitmap) {
    try {
      entry.bitmap = await createImageBitmap(entry.blob, { imageOrientation: "from-image" });
    } catch {
      entry.bitmap = null;
    }
  }
  const before = decoded.indexOf(entry);
  if (before >= 0) decoded.splice(before, 1);
  decoded.push(entry);
  while (decoded.length > KEPT) {
    const [old] = decoded.splice(decoded[0] === current ? 1 : 0, 1);
    old.bitmap?.close();
    old.bitmap = undefined;
    for (const { prediction } of old.answers.values()) forget(prediction);
  }
}

async function show(entry) {
  const focused = document.activeElement;
  const fromStrip = find("strip").contains(focused);
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  current = entry;
  zoom = 1;
  closeStart();
  find("work").hidden = false;
  find("image-name").textContent = entry.name;
  find("image-name").title = entry.name;
  for (const pane of panes) pane.clear();
  attention.reset();
  for (const id of ["results", "panel-attention", "panel-request", "panel-save"]) find(id).replaceChildren();
  strip();
  if (fromStrip) find("strip").querySelector("[aria-current=true]").focus();
  else if (focused === document.body || ["start", "several"].some((id) => find(id).contains(focused))) panes[0].frame.focus({ preventScroll: true });
  find("view").scrollIntoView({ block: "nearest" });
  say("Predicting …");
  await decode(entry);
  if (signal.aborted) return;
  offerSmaller(entry);
  for (const pane of panes) {
    pane.figure.hidden = false;
    pane.preview(entry);
  }
  const results = await Promise.allSettled(panes.map((pane) => pane.run(entry, signal)));
  if (signal.aborted) return;
  const failure = results.find((result) => result.status === "rejected");
  if (failure?.reason.status === 401) askForKey(failure.reason.message);
  else if (failure) warn(failure.reason.message, [0, 429, 503].includes(failure.reason.status) ? () => show(entry) : null);
  else warn("");
  const done = panes.filter((pane) => pane.prediction);
  find("work").classList.toggle("failed", !done.length);
  for (const pane of panes) pane.figure.hidden = !done.includes(pane);
  redraw();
  tell();
  if (several.entries.includes(entry)) several.render();
  if (!entry.bitmap && done.length) warn(`This browser cannot show ${entry.name}, so its result stands on a white picture.`);
  if (tab === "attention") attention.look();
}

// Says what is shown.
function tell() {
  const done = panes.filter((pane) => pane.prediction);
  say(done.map((pane) => `${panes.length > 1 ? `${pane.model.name}: ` : ""}${summary(pane.prediction, pane.settings(shared))}`).join("; "));
}

function offerSmaller(entry) {
  const pixels = entry.bitmap ? entry.bitmap.width * entry.bitmap.height : 0;
  const hint = find("large");
  hint.hidden = pixels <= LARGE;
  if (hint.hidden) return;
  const megapixels = `${(pixels / 1e6).toFixed(0)} megapixels, ${(entry.blob.size / 1e6).toFixed(1)} MB`;
  hint.replaceChildren(`The image has ${megapixels}, and was sent as it is. `, button(`Send it with ${SMALLER} pixels instead`, () => makeSmaller(entry)));
}

async function makeSmaller(entry) {
  const shrink = SMALLER / Math.max(entry.bitmap.width, entry.bitmap.height);
  const canvas = make("canvas");
  canvas.width = Math.round(entry.bitmap.width * shrink);
  canvas.height = Math.round(entry.bitmap.height * shrink);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // as the server shows what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(entry.bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  const name = `${entry.name.replace(/\.[^.]*$/, "")}-${SMALLER}.jpg`;
  add([new File([blob], name, { type: "image/jpeg", lastModified: 0 })]);
}

function strip() {
  const items = entries.map((entry) => {
    const item = button("", () => show(entry), { "aria-label": entry.name, "aria-current": String(entry === current) });
    item.append(make("img", { alt: "", loading: "lazy", src: entry.url }));
    return make("li", {}, item);
  });
  find("strip").hidden = entries.length < 2;
  find("strip").replaceChildren(...items);
  find("strip").querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// The work

function redraw() {
  for (const pane of panes) {
    if (tab !== "attention") pane.heat = null;
    pane.redraw(shared);
    if (pane.prediction) pane.zoom(zoom);
    pane.frame.classList.toggle("asks", tab === "attention" && pane.model.runtime === "pytorch");
  }
  sayZoom();
  const ready = panes.filter((pane) => pane.prediction);
  const focus = find("results").contains(document.activeElement) ? focusPath(document.activeElement) : null;
  find("results").replaceChildren(...ready.map((pane) => pane.results(shared, () => (redraw(), tell()), lookAtObject)));
  if (focus !== null) find("results").querySelectorAll("input, button")[focus]?.focus();
  find("panel-request").replaceChildren(...ready.flatMap((pane) => requestPanel(pane, shared, hasKey, attention.requestOf(pane))));
  find("panel-save").replaceChildren(...ready.flatMap((pane) => savePanel(pane, shared)));
}

function focusPath(element) {
  return [...find("results").querySelectorAll("input, button")].indexOf(element);
}

// Takes the pane to look at; what another one showed is forgotten.
function activate(pane) {
  if (active !== pane) attention.reset();
  active = pane;
}

function lookFrom(pane, point = null) {
  activate(pane);
  attention.look(point);
}

function lookAtObject(pane, x, y) {
  activate(pane);
  openTab("attention", [x, y]);
  find("tab-attention").focus();
}

function openTab(name, point = null) {
  tab = name;
  for (const other of TABS) {
    find(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    find(`panel-${other}`).hidden = other !== name;
  }
  if (!current) return;
  redraw();
  if (name === "attention") attention.look(point);
  else attention.leave();
  if (name === "result") tell();
}

for (const [index, name] of TABS.entries()) {
  find(`tab-${name}`).addEventListener("click", () => openTab(name));
  find(`tab-${name}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = { Home: 0, End: TABS.length - 1 }[event.key] ?? (step && (index + step + TABS.length) % TABS.length);
    if (next === undefined) return;
    event.preventDefault();
    find(`tab-${TABS[next]}`).focus();
    openTab(TABS[next]);
  });
}

function setScore(value) {
  const lowest = Number(find("score").min);
  shared.score = Math.min(Math.max(Number.isFinite(value) ? value : shared.score, lowest), 0.99);
  find("score").value = shared.score;
  find("score-number").value = shared.score;
}

let frame = 0;
let pause = 0;
function later() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(redraw);
  clearTimeout(pause);
  pause = setTimeout(() => {
    link();
    tell();
    if (several.entries.length) several.render();
  }, 300);
}

for (const id of ["score", "score-number"]) {
  find(id).addEventListener(id === "score" ? "input" : "change", () => {
    setScore(find(id).value === "" ? NaN : Number(find(id).value));
    later();
  });
}
find("opacity").addEventListener("input", () => {
  shared.opacity = Number(find("opacity").value);
  later();
});
find("labels").addEventListener("change", () => {
  shared.labels = find("labels").checked;
  later();
});

// Says the size of the picture on the screen in pixels of the image.
function sayZoom() {
  const pane = panes.find((one) => one.prediction);
  find("zoom").textContent = pane ? `${Math.round((100 * pane.canvas.clientWidth) / pane.prediction.size[1])} %` : "";
}

function setZoom(value, pane = panes[0], at = null) {
  const before = zoom;
  zoom = Math.min(Math.max(value, 1), 32);
  for (const one of panes) {
    const { frame: box } = one;
    const [x, y] = one === pane && at ? at : [box.clientWidth / 2, box.clientHeight / 2];
    const [left, top] = [(box.scrollLeft + x) / before, (box.scrollTop + y) / before];
    one.zoom(zoom);
    box.scrollTo(left * zoom - x, top * zoom - y);
  }
  sayZoom();
}

find("zoom-in").addEventListener("click", () => setZoom(1.5 * zoom));
find("zoom-out").addEventListener("click", () => setZoom(zoom / 1.5));
find("zoom-fit").addEventListener("click", () => setZoom(1));
addEventListener("resize", () => panes.forEach((pane) => pane.prediction && pane.zoom(zoom)));

function listen(pane) {
  const { frame: box, canvas } = pane;
  canvas.addEventListener("click", (event) => {
    if (tab !== "attention" || !pane.prediction) return;
    const place = pane.place(event);
    if (place) lookFrom(pane, place);
  });
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const area = box.getBoundingClientRect();
    setZoom(zoom * Math.exp(-event.deltaY / 300), pane, [event.clientX - area.left, event.clientY - area.top]);
  }, { passive: false });
  box.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const keys = { "+": () => setZoom(1.5 * zoom), "=": () => setZoom(1.5 * zoom), "-": () => setZoom(zoom / 1.5), 0: () => setZoom(1) };
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (tab === "attention" && moves[event.key] && !event.shiftKey) {
      if (active === pane) attention.move(...moves[event.key]);
      else lookFrom(pane);
    } else if (tab === "attention" && event.key === "Enter") attention.enter();
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
}

// The chooser of images

find("new").addEventListener("click", () => {
  find("start").hidden = find("cancel").hidden = false;
  find("choose").focus();
});
find("cancel").addEventListener("click", cancel);
find("start").addEventListener("keydown", (event) => event.key === "Escape" && current && cancel());

function cancel() {
  closeStart();
  find("new").focus();
}

function closeStart() {
  stopCamera();
  find("start").hidden = true;
}

find("clear").addEventListener("click", () => {
  for (const entry of several.entries) {
    if (entry === current) continue;
    URL.revokeObjectURL(entry.url);
    entries.splice(entries.indexOf(entry), 1);
  }
  several.clear();
  strip();
  find("new").focus();
});

takeFiles(add);
openTab("result");
start();
