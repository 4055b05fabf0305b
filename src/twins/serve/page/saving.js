// The result as files and as a request to copy.

import { address, fieldsOf, lowestScore } from "./api.js";
import { button, make, save, saveText, say } from "./dom.js";
import { shownObjects } from "./drawing.js";
import { paths } from "./sources.js";

const NO_COCO_ID = new Set([12, 26, 29, 30, 45, 66, 68, 69, 71, 83]);
const COCO_IDS = Array.from({ length: 90 }, (_, i) => i + 1).filter((id) => !NO_COCO_ID.has(id));

// The shown objects as a COCO results file; COCO's own ids if the classes are COCO's, otherwise the class ids.
function cocoResults(prediction, model, settings) {
  const coco = model.names.length === 80 && model.names[0] === "person" && model.names[79] === "toothbrush";
  return shownObjects(prediction, settings).map((index) => {
    const [left, top, right, bottom] = prediction.boxes[index];
    const label = prediction.labels[index];
    const result = { image_id: 1, category_id: coco ? COCO_IDS[label] : label, bbox: [left, top, right - left, bottom - top], score: prediction.scores[index] };
    return prediction.masks ? { ...result, segmentation: prediction.masks[index] } : result;
  });
}

export function savePanel(pane, shared) {
  const { prediction, model, entry } = pane;
  const stem = entry.name.replace(/\.[^.]*$/, "") || "image";
  const buttons = [button("JSON", () => saveText(JSON.stringify(prediction), `${stem}-${model.name}.json`))];
  if (prediction.boxes) {
    buttons.push(button("COCO results", () => saveText(JSON.stringify(cocoResults(prediction, model, pane.settings(shared))), `${stem}-${model.name}-coco.json`)));
  }
  buttons.push(button("PNG", () => pane.canvas.toBlob((blob) => save(blob, `${stem}-${model.name}.png`))));
  const note = prediction.boxes ? "PNG and COCO hold the objects that are shown, with image_id 1; JSON holds the server's whole answer." : "PNG is the picture as it is shown; JSON is the server's answer.";
  return [make("h2", {}, model.name), make("div", { class: "buttons" }, ...buttons), make("p", { class: "small" }, note)];
}

function absolute(path) {
  return new URL(path, document.baseURI).href.replace(/#.*/, "");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// Requests to copy; an example of the run is fetched first.
function curl(pane, fields, hasKey, route = "v1/predict") {
  const key = hasKey ? ` -H "Authorization: Bearer $TWINS_KEY"` : "";
  const example = exampleOf(pane);
  const first = example ? `curl -O${key} ${quoted(example)}\n` : "";
  const head = `curl --data-binary @${quoted(pane.entry.name)} -H "Content-Type: application/octet-stream"${key}`;
  return `${first}${head} \\\n  ${quoted(absolute(address(route, fields)))}`;
}

function python(pane, fields, hasKey) {
  const text = (value) => JSON.stringify(value);
  const example = exampleOf(pane);
  const key = hasKey ? `, "Authorization": "Bearer " + os.environ["TWINS_KEY"]` : "";
  const content = example ? `urlopen(Request(${text(example)}, headers=headers)).read()` : `Path(${text(pane.entry.name)}).read_bytes()`;
  return `import json
${hasKey ? "import os\n" : ""}${example ? "" : "from pathlib import Path\n"}from urllib.request import Request, urlopen

headers = {"Content-Type": "application/octet-stream"${key}}
image = ${content}
request = Request(${text(absolute(address("v1/predict", fields)))}, image, headers)
print(json.load(urlopen(request, timeout=60)))`;
}

// The address of an example of the run; empty for an image of the user.
function exampleOf(pane) {
  const path = paths.get(pane.entry.blob) ?? "";
  return path.startsWith("/examples/") ? absolute(path.slice(1)) : "";
}

function requestFields(pane, shared) {
  const fields = fieldsOf(pane.model);
  if (fields.score !== undefined) fields.score = Math.max(shared.score, lowestScore(pane.model));
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

// `attention` has the fields of the request for what is shown of attention, if anything is.
export function requestPanel(pane, shared, hasKey, attention) {
  const parts = [make("h2", {}, pane.model.name)];
  const fields = requestFields(pane, shared);
  const requests = [["curl", curl(pane, fields, hasKey)], ["Python", python(pane, fields, hasKey)]];
  if (attention) requests.push(["curl for attention", curl(pane, { model: pane.model.name, ...attention }, hasKey, "v1/attention")]);
  for (const [title, text] of requests) {
    const copy = button(`Copy ${title}`, async () => {
      try {
        await navigator.clipboard.writeText(text);
        say(`Copied the ${title} request.`);
      } catch {
        getSelection().selectAllChildren(code);
        say("This browser does not let the page copy; the request is selected, copy it with the keyboard.");
      }
    });
    const code = make("pre", { tabindex: "0", "aria-label": `Request with ${title}` }, text);
    parts.push(code, copy);
  }
  return parts;
}
