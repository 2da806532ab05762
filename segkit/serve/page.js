// The page: sends an image to the endpoint and shows what comes back. No library, no build step.
"use strict";

const $ = (id) => document.getElementById(id);

let model = null; // what GET model says
let file = null; // the one that is shown
let answer = null; // of POST predict
let running = null; // the AbortController of the request under way
let downloads = []; // object URLs that are in use
let clock = 0;

const percent = (share) =>
  share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;

// Asks the server, with the key if it needs one; the tab forgets the key when it is closed.
async function ask(address, options = {}) {
  const key = sessionStorage.getItem("key");
  const response = await fetch(address, { ...options, headers: key ? { "X-API-Key": key } : {} });
  if (response.status === 401) askForKey(key === null ? "" : "the server does not know this key.");
  return response;
}

function askForKey(problem) {
  if (problem) complain("segkit", problem);
  sessionStorage.removeItem("key");
  $("entry").hidden = false;
  document.querySelector("main").hidden = true;
  $("key").focus();
}

async function useKey() {
  sessionStorage.setItem("key", $("key").value.trim());
  $("key").value = "";
  $("entry").hidden = $("problem").hidden = true;
  document.querySelector("main").hidden = false;
  await start();
}

async function start() {
  const response = await ask("model");
  if (!response.ok) return;
  model = await response.json();
  $("model").textContent =
    `${model.name} · ${model.encoder}, ${model.neck} · ` +
    model.classes.map((known) => known.name).join(", ");
  $("formats").textContent =
    `PNG, JPEG, TIFF (16-bit and float too), BMP or WebP, up to ${+model.max_upload_mb.toPrecision(3)} MiB`;
}

function choose(chosen) {
  if (!chosen) return;
  if (model && chosen.size > model.max_upload_mb * 2 ** 20) {
    complain(chosen.name, "the upload is larger than the server takes, " +
      `${+model.max_upload_mb.toPrecision(3)} MiB. Start it with a larger max_upload_mb.`);
    return;
  }
  predict(chosen, 0);
}

async function predict(chosen, page) {
  running?.abort();
  const own = new AbortController();
  running = own;
  work(true, chosen.name);
  const form = new FormData();
  form.append("file", chosen);
  const query = new URLSearchParams({ page });
  for (const part of ["mask", "instances", "pictures"]) query.append("include", part);
  let problem = null;
  try {
    const response = await ask(`predict?${query}`, { method: "POST", body: form, signal: own.signal });
    const body = await response.json().catch(() => ({}));
    if (response.ok) {
      [file, answer] = [chosen, body];
      await start(); // the model may have been replaced
      await show();
    } else if (response.status !== 401) {
      problem = body.detail ?? `the server answered ${response.status} ${response.statusText}.`;
    }
  } catch (error) {
    if (error.name === "AbortError") return finish(own);
    problem = "the server does not answer, or ended the connection. Is it still running?";
  }
  if (running !== own) return;
  if (problem !== null) complain(chosen.name, problem);
  finish(own);
}

function finish(own) {
  if (running !== own) return; // another one has begun
  running = null;
  work(false);
}

function work(busy, name = "") {
  clearInterval(clock);
  document.body.classList.toggle("working", busy);
  document.querySelector(".view").setAttribute("aria-busy", busy);
  $("busy").hidden = !busy;
  for (const id of ["previous", "next", "page"]) $(id).disabled = busy;
  if (!busy) return answer && turnPages();
  $("problem").hidden = true;
  const begun = performance.now();
  const tell = () => {
    const seconds = Math.floor((performance.now() - begun) / 1000);
    $("busy-text").textContent = `Predicting ${name}` + (seconds ? ` · ${seconds} s` : "");
  };
  tell();
  clock = setInterval(tell, 1000);
}

function complain(name, message) {
  reset();
  $("problem").textContent = `${name}: ${message.replace(/^the file: /, "")}`;
  $("problem").hidden = false;
}

function reset() {
  [file, answer] = [null, null];
  for (const id of ["result", "panel", "problem"]) $(id).hidden = true;
  $("drop").hidden = false;
  document.querySelector("main").classList.remove("done");
  $("file").value = "";
}

async function show() {
  $("image").src = data(answer.pictures.image);
  await $("image").decode();
  const objects = answer.pictures.objects !== null;
  $("kinds").hidden = !objects;
  if (!objects) document.querySelector("[name=kind][value=classes]").checked = true;
  paint();
  await $("layer").decode();
  $("drop").hidden = true;
  $("result").hidden = $("panel").hidden = $("problem").hidden = false;
  $("problem").hidden = true;
  document.querySelector("main").classList.add("done");

  const shown = $("image").naturalWidth / answer.width;
  const part = answer.pages > 1 ? `, page ${answer.page + 1} of ${answer.pages}` : "";
  $("caption").textContent = `${file.name}${part}`;
  const kind = { uint8: "8 bit", uint16: "16 bit" }[answer.dtype] ?? "float";
  const channels = `${answer.channels} channel${answer.channels === 1 ? "" : "s"}`;
  $("scaled").textContent = `${answer.width} × ${answer.height} pixels, ${channels}, ${kind}` +
    (shown < 1 ? `, shown at ${Math.round(100 * shown)} %` : "");
  $("seconds").textContent = `${answer.seconds < 10 ? answer.seconds.toFixed(2) : answer.seconds.toFixed(0)} s`;
  $("count-row").hidden = answer.objects === null;
  $("count").textContent = answer.objects?.length ?? "";
  $("zoom").value = 0;
  zoom();
  list();
  turnPages();
  offer();
}

function paint() {
  const kind = document.querySelector("[name=kind]:checked").value;
  $("layer").src = data(answer.pictures[kind]);
  $("layer").alt = kind === "objects" ? "The objects found" : "The predicted mask";
  fade();
}

function fade() {
  $("layer").style.opacity = $("opacity").value / 100;
  $("opacity-value").textContent = `${$("opacity").value} %`;
}

function zoom() {
  // 0: as large as fits; each step up doubles it.
  const { naturalWidth: width, naturalHeight: height } = $("image");
  const stage = $("stage");
  const room = [stage.clientWidth, 0.78 * innerHeight - 2];
  const middle = [
    (stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth,
    (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight,
  ];
  const fit = Math.min(room[0] / width, room[1] / height, 16);
  const scale = fit * 2 ** Number($("zoom").value);
  $("layers").style.width = `${width * scale}px`;
  $("layers").style.height = `${height * scale}px`;
  $("layers").classList.toggle("crisp", scale >= 1.5);
  stage.scrollLeft = middle[0] * stage.scrollWidth - stage.clientWidth / 2;
  stage.scrollTop = middle[1] * stage.scrollHeight - stage.clientHeight / 2;
  const shown = (scale * width) / answer.width;
  $("zoom-value").textContent = Number($("zoom").value) ? `${Math.round(100 * shown)} %` : "fits";
}

function list() {
  const named = answer.classes.map((known, label) => {
    const item = document.createElement("li");
    item.classList.toggle("unpainted", !model.classes[label].painted);
    item.append(swatch(known.color), text("name", known.name), text("share", percent(known.share)), bar(known.share));
    return item;
  });
  $("legend").replaceChildren(...named);
}

function text(kind, content) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = content;
  return span;
}

function swatch(color) {
  const square = text("swatch", "");
  square.style.background = color;
  return square;
}

function bar(share) {
  const track = text("track", "");
  const filled = document.createElement("span");
  filled.style.width = `${100 * share}%`;
  track.setAttribute("aria-hidden", "true");
  track.append(filled);
  return track;
}

function turnPages() {
  $("pager").hidden = answer.pages === 1;
  $("pages").textContent = answer.pages;
  $("page").max = answer.pages;
  $("page").value = answer.page + 1;
  $("previous").disabled = answer.page === 0;
  $("next").disabled = answer.page + 1 === answer.pages;
}

function turnTo(page) {
  if (answer && Number.isInteger(page) && page >= 0 && page < answer.pages) predict(file, page);
  else if (answer) turnPages();
}

function offer() {
  downloads.forEach((url) => URL.revokeObjectURL(url));
  downloads = [];
  for (const part of ["mask", "instances"]) {
    const link = $(`${part}-download`);
    const held = answer[part];
    link.hidden = !held;
    if (!held) continue;
    const bytes = Uint8Array.from(atob(held.base64), (sign) => sign.charCodeAt(0));
    link.href = URL.createObjectURL(new Blob([bytes], { type: held.media_type }));
    link.download = held.name;
    downloads.push(link.href);
  }
}

const data = (base64) => `data:image/png;base64,${base64}`;

$("file").addEventListener("change", (event) => choose(event.target.files[0]));
$("opacity").addEventListener("input", fade);
$("zoom").addEventListener("input", zoom);
$("kinds").addEventListener("change", paint);
$("previous").addEventListener("click", () => turnTo(answer.page - 1));
$("next").addEventListener("click", () => turnTo(answer.page + 1));
$("page").addEventListener("change", () => turnTo(Number($("page").value) - 1));
$("another").addEventListener("click", () => { running?.abort(); reset(); $("file").focus(); });
$("cancel").addEventListener("click", () => running?.abort());
$("entry").addEventListener("submit", (event) => { event.preventDefault(); useKey().catch(lost); });
addEventListener("resize", () => answer && zoom());
addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  choose(event.dataTransfer.files[0]);
});
const lost = () => complain("segkit", "the server does not answer.");
start().catch(lost);
