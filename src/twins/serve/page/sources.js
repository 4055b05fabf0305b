// Where images come from: files, folders, drops, pasting and the camera.

import { find, make, warn } from "./dom.js";

export const paths = new WeakMap(); // of files: where they come from, which tells those of one name apart
let camera = null;
let pictures = 0;

// Calls `add` with the files that a user gives, in a list.
export function takeFiles(add) {
  find("choose").addEventListener("click", () => find("files").click());
  find("choose-folder").addEventListener("click", () => find("folder").click());
  for (const id of ["files", "folder"]) {
    find(id).addEventListener("change", () => {
      add([...find(id).files]);
      find(id).value = "";
    });
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  for (const name of ["dragleave", "dragend"]) addEventListener(name, () => document.body.classList.remove("over"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const items = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter((item) => item);
    try {
      add((await Promise.all(items.map(filesOf))).flat());
    } catch (error) {
      warn(`What was dropped cannot be read: ${error.message}`);
    }
  });

  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });

  find("camera").addEventListener("click", async () => {
    stopCamera();
    try {
      camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      const reason = !navigator.mediaDevices ? "browsers open it only on this machine or over HTTPS" : error.name === "NotAllowedError" ? "it was not allowed" : "none was found";
      warn(`The camera cannot be used: ${reason}.`);
      return;
    }
    if (find("start").hidden) stopCamera(); // an image was chosen meanwhile
    if (!camera) return;
    warn("");
    find("camera-box").hidden = false;
    find("shoot").disabled = true; // until there is a picture
    find("video").srcObject = camera;
    await find("video").play();
    find("shoot").disabled = false;
    find("shoot").focus();
  });
  find("shoot").addEventListener("click", async () => {
    const video = find("video");
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
    stopCamera();
    add([new File([blob], `camera-${++pictures}.jpg`, { type: "image/jpeg" })]);
  });
  find("camera-off").addEventListener("click", () => {
    stopCamera();
    find("camera").focus();
  });
}

// The files of a dropped entry, those of folders too, in the order of their paths.
async function filesOf(item) {
  if (item instanceof File) return [item];
  if (item.isFile) {
    const file = await new Promise((resolve, reject) => item.file(resolve, reject));
    paths.set(file, item.fullPath);
    return [file];
  }
  const reader = item.createReader();
  const children = [];
  for (let part; (part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; ) children.push(...part);
  children.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  return (await Promise.all(children.map(filesOf))).flat();
}

export function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  find("camera-box").hidden = true;
}
