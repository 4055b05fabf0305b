// The result as files and as a request to copy.

import { address, fieldsOf, lowestScore } from "./api.js";
import { button, make, save, saveText, say } from "./dom.js";
import { shownObjects } from "./drawing.js";

const NO_COCO_ID = new Set([12, 26, 29, 30, 45, 66, 68, 69, 71, 83]);
const COCO_IDS = Array.from({ length: 90 }, (_, i) => i + 1).filter((id) => !NO_COCO_ID.has(id));

// The shown objects as a COCO results file; COCO's own ids if the classes are COCO's, otherwise the class ids.
export function cocoResults(prediction, model, settings) {
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
  const buttons = [button("JSON", () => saveText(JSON.stringify(prediction), `${stem}.json`))];
  if (prediction.boxes) {
    buttons.push(button("COCO results", () => saveText(JSON.stringify(cocoResults(prediction, model, pane.settings(shared))), `${stem}-coco.json`)));
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

export function curl(pane, shared, hasKey) {
  const url = absolute(address("v1/predict", requestFields(pane, shared)));
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $TWINS_KEY"` : "";
  return `curl --data-binary @${quoted(pane.entry.name)} \\\n  -H "Content-Type: application/octet-stream"${key} \\\n  ${quoted(url)}`;
}

export function python(pane, shared, hasKey) {
  const text = (value) => JSON.stringify(value);
  const fields = Object.entries(requestFields(pane, shared)).map(([name, value]) => `${text(name)}: ${text(value)}`);
  const key = hasKey ? `"Authorization": "Bearer " + os.environ["TWINS_KEY"], ` : "";
  return `${hasKey ? "import os\n" : ""}from pathlib import Path

import httpx

answer = httpx.post(
    ${text(absolute("v1/predict"))},
    params={${fields.join(", ")}},
    headers={${key}"Content-Type": "application/octet-stream"},
    content=Path(${text(pane.entry.name)}).read_bytes(),
    timeout=60,
)
print(answer.json())`;
}

function requestFields(pane, shared) {
  const fields = fieldsOf(pane.model);
  if (fields.score !== undefined) fields.score = Math.max(shared.score, lowestScore(pane.model));
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

export function requestPanel(pane, shared, hasKey) {
  const parts = [make("h2", {}, pane.model.name)];
  for (const [title, text] of [["curl", curl(pane, shared, hasKey)], ["Python", python(pane, shared, hasKey)]]) {
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
