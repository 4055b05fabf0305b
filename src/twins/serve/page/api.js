// Requests to the server. The key stays in the memory of this page alone.

let key = "";

class Refusal extends Error {
  constructor(status, sentence, wait = 0) {
    super(sentence);
    this.status = status;
    this.wait = wait; // seconds after which to ask again, if the server said so
  }
}

export function useKey(value) {
  key = value.trim();
}

export async function call(path, body = null, signal = undefined) {
  if (/[^\x20-\x7e]/.test(key)) throw new Refusal(401, "A key has only ASCII characters; give it again.");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/octet-stream";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  let sentence;
  try {
    sentence = (await answer.json()).error;
  } catch {
    sentence = "";
  }
  throw new Refusal(answer.status, sentence || `the server answered with the status ${answer.status}`, wait);
}

export async function listModels() {
  return (await (await call("v1/models")).json()).models;
}

export function address(route, fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${route}?${new URLSearchParams(given)}` : route;
}

// What to ask of a model, so that a threshold of the page needs no further request.
export function fieldsOf(model) {
  const fields = { model: model.name };
  if (model.objects) Object.assign(fields, { score: lowestScore(model), masks: model.masks ? "rle" : null });
  if (model.map) fields.masks = "rle";
  return fields;
}

export function lowestScore(model) {
  return Math.max(0.05, model.lowest_score);
}

async function predict(model, blob, signal) {
  const started = performance.now();
  const answer = await (await call(address("v1/predict", fieldsOf(model)), blob, signal)).json();
  return { prediction: answer.predictions[0], server: answer.milliseconds, all: performance.now() - started };
}

// Adds the answer of a model to an image that has none, with one request for all who ask meanwhile.
export async function addAnswer(entry, model, signal) {
  const { key } = model;
  while (!entry.answers.has(key)) {
    signal.throwIfAborted();
    if (!entry.pending.has(key)) {
      entry.pending.set(key, predict(model, entry.blob, signal).finally(() => entry.pending.delete(key)));
    }
    try {
      entry.answers.set(key, await entry.pending.get(key));
    } catch (error) {
      if (error.name !== "AbortError" || signal.aborted) throw error; // else another one gave up, and this one asks
    }
  }
  entry.errors.delete(key);
}

export async function lookAt(model, blob, fields, signal) {
  return (await call(address("v1/attention", { model: model.name, ...fields }), blob, signal)).json();
}
