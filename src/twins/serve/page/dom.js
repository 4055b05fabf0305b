// Elements of the page. Texts are only ever set as text, so that names cannot become markup.

export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(text, action, properties = {}) {
  const element = make("button", { type: "button", ...properties }, text);
  element.addEventListener("click", action);
  return element;
}

export function swatch([red, green, blue]) {
  const element = make("span", { class: "swatch", "aria-hidden": "true" });
  element.style.background = `rgb(${red} ${green} ${blue})`;
  return element;
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

export function plural(count, word, many = `${word}s`) {
  return `${count} ${count === 1 ? word : many}`;
}

export function say(text) {
  find("status").textContent = text;
}

// Shows an error until the next one, or until it is cleared with an empty text; `again` repeats what failed.
export function warn(text, again = null) {
  const alert = find("alert");
  alert.hidden = !text;
  alert.replaceChildren(text);
  if (again && text) alert.append(" ", button("Try again", again));
  if (text) alert.scrollIntoView({ block: "nearest" });
}

// The largest number of rows of numbers.
export function largest(rows) {
  return rows.reduce((most, row) => row.reduce((one, other) => Math.max(one, other), most), -Infinity);
}

export function save(blob, name) {
  const link = make("a", { download: name });
  link.href = URL.createObjectURL(blob);
  link.click();
  say(`Saved ${name}.`);
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function saveText(value, name, type = "application/json") {
  save(new Blob([value], { type }), name);
}
