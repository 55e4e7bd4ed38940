"use strict";
// The review page. All texts of the project are inserted as text, never as HTML.

const state = JSON.parse(document.getElementById("state").textContent);
const csrf = document.querySelector("meta[name=csrf]").content;
const element = (id) => document.getElementById(id);
const AHEAD = 2; // clips that are loaded before they are needed
const RETRY_MS = 1500;
const FACES_MS = 400;
const STORE = `ecmf-review-${state.project}`;
const WAITING = `${STORE}-answer-`; // each answer has a key of its own, because several tabs may be open
const TAB = Math.random().toString(36).slice(2);
const MAX_SKIPPED = 16000; // characters; servers limit the length of a URL

let current = null; // {clip, player, shownAt, raf}
let ahead = []; // the next clips with their players
let history = []; // clips left so far: {name, label, before, digest}, label null if none was given
let isExhausted = false; // whether the server has said that no clip is left
let kept = 0; // answers of this tab
let rejected = ""; // the last answer that cannot be stored
const skipped = new Set();
let filters = state.filters;
let loading = null;
let sending = false;
let rate = 1;
let labelled = state.labelled;
let useKeys = true;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Requests

function reviewer() {
  return element("who-name").textContent;
}

async function getJson(url) {
  const response = await fetch(url, { cache: "no-store", headers: { "x-reviewer": encodeURIComponent(reviewer()) } });
  const body = await response.json().catch(() => ({ problem: `the server answered ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(body.problem || body.detail), { status: response.status });
  return body;
}

async function post(url, content, name = reviewer()) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", "x-review-token": csrf, "x-reviewer": encodeURIComponent(name) },
    body: JSON.stringify(content),
  });
  const text = await response.text();
  let body = {};
  try { body = JSON.parse(text); } catch { body = { problem: text }; }
  if (!response.ok) throw Object.assign(new Error(body.problem || text), { status: response.status });
  return body;
}

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

function say(text) {
  element("status").textContent = text;
}

// Answers are kept in the browser until the server has stored them; repeating one does no harm.

function unsent() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(WAITING)).sort();
  return keys.map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
}

function keepUnsent(content) {
  kept += 1;
  const order = `${String(Date.now()).padStart(15, "0")}-${String(kept).padStart(6, "0")}`;
  localStorage.setItem(`${WAITING}${order}-${TAB}`, JSON.stringify({ reviewer: reviewer(), content }));
}

async function sendAll() {
  if (sending) return;
  sending = true;
  try {
    await (navigator.locks ? navigator.locks.request(STORE, sendInOrder) : sendInOrder()); // one tab at a time
  } finally {
    sending = false;
    showProgress();
  }
}

async function sendInOrder() {
  for (let list = unsent(); list.length; list = unsent()) {
    const { key, reviewer: name, content } = list[0];
    try {
      const stored = await post("/api/verdict", content, name);
      localStorage.removeItem(key);
      if (content.label !== "unsure") skipped.delete(content.name); // the server does not ask it again
      if (labelled < state.needed && stored.labelled >= state.needed) {
        say(`${state.needed} clips have a label: from now on refine calibrates on them. Run dvc repro when you stop.`);
      }
      labelled = stored.labelled;
      problem(rejected);
    } catch (error) {
      if ([400, 413, 422].includes(error.status)) { // it will never be stored, and others wait behind it
        localStorage.removeItem(key);
        rejected = `The answer ${content.label} for ${content.name} is not stored: ${error.message}`;
        problem(rejected);
        continue;
      }
      const count = list.length === 1 ? "1 answer waits" : `${list.length} answers wait`;
      problem(error.status
        ? `${count} in this browser, because the server refuses the first one: ${error.message}`
        : `The server does not answer. ${count} in this browser; start it again: ecmf-pipe review`);
      setTimeout(sendAll, RETRY_MS);
      return;
    }
  }
  problem(rejected); // another tab may have sent the answers
  refreshCounts();
}

// The queue

function query(count) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) if (value) parameters.set(name, value);
  const known = [...skipped, ...ahead.map((one) => one.clip.name), ...unsent().map((one) => one.content.name)];
  if (current) known.push(current.clip.name);
  let room = MAX_SKIPPED;
  for (const name of known.reverse()) {
    room -= encodeURIComponent(name).length + 6;
    if (room > 0) parameters.append("skip", name);
  }
  parameters.set("count", count);
  return `/api/next?${parameters}`;
}

async function fill() {
  if (loading) return loading;
  const wanted = AHEAD - ahead.length;
  if (wanted <= 0) return null;
  loading = (async () => {
    try {
      const found = await getJson(query(wanted));
      if (!unsent().length) {
        state.progress = found.progress || state.progress;
        labelled = found.labelled;
      }
      setOptions(found);
      showProgress();
      isExhausted = !found.clips.length;
      if (found.problem) problem(found.problem);
      for (const clip of found.clips) ahead.push(prepare(clip));
      if (!found.progress) setTimeout(refreshCounts, RETRY_MS);
    } catch (error) {
      isExhausted = false;
      problem(error.status ? error.message : "The server does not answer. Start it again: ecmf-pipe review");
      if (!error.status) setTimeout(() => fill().then(() => current || advance()), RETRY_MS);
    } finally {
      loading = null;
    }
  })();
  return loading;
}

async function refreshCounts() {
  try {
    const found = await getJson(query(0));
    if (unsent().length) return; // they are not counted yet
    state.progress = found.progress;
    labelled = found.labelled;
    setOptions(found);
    showProgress();
    if (found.problem) problem(found.problem);
    if (!found.progress) setTimeout(refreshCounts, RETRY_MS);
  } catch { /* the next request reports it */ }
}

async function advance() {
  if (!ahead.length) await fill();
  const next = ahead.shift();
  if (next) show(next);
  else showEmpty();
  fill();
}

// Players

function prepare(clip) {
  const source = `/media/${encodeURIComponent(clip.name)}`;
  let player = null;
  if (clip.kind !== "none") {
    player = make(clip.kind === "video" ? "video" : "audio", {
      src: clip.end ? `${source}#t=${clip.start},${clip.end}` : source, preload: ahead.length ? "metadata" : "auto", controls: true, playsInline: true,
    });
    player.setAttribute("aria-label", `Clip ${clip.name}`);
  }
  if (clip.faces) getJson(`/faces/${encodeURIComponent(clip.name)}`).catch(() => null); // starts to cut them
  return { clip, player, shownAt: 0 };
}

function play() {
  if (!current?.player) return;
  const { player, clip } = current;
  player.playbackRate = rate;
  if (clip.end && (player.currentTime < clip.start || player.currentTime >= clip.end - 0.02)) player.currentTime = clip.start;
  player.play()?.catch((error) => {
    if (error.name === "NotAllowedError") say("Press r, or click the clip, to play it.");
  });
}

function replay() {
  if (!current?.player) return;
  current.player.currentTime = current.clip.start;
  play();
}

function slower() {
  rate = rate === 1 ? 0.5 : 1;
  element("slower").setAttribute("aria-pressed", String(rate !== 1));
  if (current?.player) current.player.playbackRate = rate;
}

async function explainMedia(one) {
  const box = make("p", { className: "notice bad" }, "This clip cannot be played.");
  try {
    const response = await fetch(one.player.src.split("#")[0], { headers: { range: "bytes=0-0" } });
    if (!response.ok) box.textContent = `This clip cannot be played: ${(await response.json()).problem}`;
  } catch { box.textContent = "This clip cannot be loaded: the server does not answer."; }
  box.append(" Answer ", make("kbd", {}, "b"), " if the clip is bad, or go on with ", make("kbd", {}, "space"), ".");
  if (current === one) element("stage").replaceChildren(box);
}

function followTime() {
  const one = current;
  if (!one?.player) return;
  const tick = () => {
    if (current !== one) return;
    const time = one.player.currentTime;
    if (one.clip.end && time >= one.clip.end) one.player.pause();
    for (const node of element("transcript").querySelectorAll("[data-start]")) {
      node.classList.toggle("spoken", !one.player.ended && time - one.clip.start >= node.dataset.start && time - one.clip.start < node.dataset.end);
    }
    let nearest = null;
    for (const node of element("faces").querySelectorAll("[data-time]")) {
      if (Number(node.dataset.time) <= time + 0.05 || !nearest) nearest = node;
    }
    for (const node of element("faces").children) node.classList.toggle("now", node === nearest && time > 0);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

// One clip

function show(one) {
  if (current?.player) current.player.pause();
  current = one;
  const { clip } = one;
  element("clip").hidden = false;
  element("empty").hidden = true;
  element("clip-name").firstChild.textContent = clip.name;
  document.title = `${clip.name}: review clips`;
  if (one.player) {
    element("stage").replaceChildren(one.player);
    if (one.player.error) explainMedia(one);
    else one.player.addEventListener("error", () => explainMedia(one), { once: true });
  } else {
    element("stage").replaceChildren(make("p", { className: "notice" }, "This clip has words only."));
  }
  element("stage").className = `stage ${clip.kind}`;
  for (const id of ["replay", "slower"]) element(id).disabled = !one.player;
  showWords(clip, []);
  lightWords(one);
  showFaces(one);
  showEvidence(clip);
  for (const button of document.querySelectorAll(".labels button")) {
    const isMine = button.dataset.label === clip.mine;
    button.setAttribute("aria-pressed", String(isMine));
  }
  if (clip.outdated) say("The file has changed since you answered, so it is asked again.");
  one.shownAt = performance.now();
  play();
  if (ahead[0]?.player) ahead[0].player.preload = "auto";
  followTime();
  window.scrollTo({ top: 0 });
}

async function lightWords(one) {
  if (one.clip.words_from !== "machine") return; // times are known for recognised words only
  const words = await getJson(`/api/words/${encodeURIComponent(one.clip.name)}`).catch(() => []);
  if (current === one && words.length) showWords(one.clip, words);
}

function showWords(clip, words) {
  const box = element("transcript");
  box.replaceChildren();
  if (words.length) {
    for (const [text, start, end] of words) {
      const word = make("span", {}, text);
      word.dataset.start = start;
      word.dataset.end = end;
      box.append(word, " ");
    }
  } else {
    box.textContent = clip.transcript;
  }
  if (!clip.transcript) box.append(make("span", { className: "quiet" }, "no transcript"));
  if (clip.words_from === "machine") box.append(" ", make("span", { className: "tag" }, "words by speech recognition"));
  element("translation").textContent = clip.translation;
  element("translation").hidden = !clip.translation;
}

async function showFaces(one) {
  const box = element("faces");
  box.hidden = true;
  box.replaceChildren();
  if (!one.clip.faces) return;
  let found = { ready: false };
  while (!found.ready) {
    found = await getJson(`/faces/${encodeURIComponent(one.clip.name)}`).catch(() => ({ ready: true, scores: [] }));
    if (!found.ready) await new Promise((resolve) => { setTimeout(resolve, FACES_MS); });
    if (current !== one) return;
  }
  if (!found.scores.length) return;
  found.scores.forEach((score, index) => {
    const time = found.times[index];
    const place = time === undefined ? `crop ${index + 1}` : `${time.toFixed(1)} s`;
    const crop = make("button", { type: "button", className: "face", title: `Face at ${place}${score === null ? "" : `, detected with ${score}`}` });
    crop.setAttribute("aria-label", `Face at ${place}`);
    const picture = make("span", { className: "picture" });
    picture.style.backgroundImage = `url("/faces/${encodeURIComponent(one.clip.name).replace(/['()]/g, escape)}/strip.jpg")`;
    picture.style.backgroundPosition = found.scores.length > 1 ? `${(100 * index) / (found.scores.length - 1)}% 0` : "0 0";
    picture.style.backgroundSize = `${100 * found.scores.length}% 100%`;
    crop.append(picture, make("span", { className: "place" }, place));
    if (time !== undefined) {
      crop.dataset.time = one.clip.start + time;
      crop.addEventListener("click", () => { one.player.pause(); one.player.currentTime = one.clip.start + time; });
    } else {
      crop.disabled = true;
    }
    box.append(crop);
  });
  box.hidden = false;
}

function showEvidence(clip) {
  element("why").textContent = clip.why;
  element("reason").textContent = clip.reason;
  const rows = clip.posterior.map(([label, probability]) => {
    const filled = make("span", { className: "filled" });
    filled.style.width = `${100 * probability}%`; // set here, because the policy of the page forbids style attributes
    const meter = make("span", { className: "meter" }, filled);
    const name = make("th", { scope: "row" }, make("bdi", {}, label));
    if (label === clip.given) name.append(" ", make("span", { className: "tag" }, "given"));
    return make("tr", {}, name, make("td", {}, meter, make("span", { className: "number" }, `${Math.round(100 * probability)} %`)));
  });
  element("posterior").tBodies[0].replaceChildren(...rows);
  const votes = new Map();
  for (const [source, label, probability] of clip.votes) {
    if (!votes.has(label)) votes.set(label, []);
    votes.get(label).push([source, probability]);
  }
  const ranked = [...votes].sort((a, b) => (a[0] === "") - (b[0] === "") || b[1].length - a[1].length);
  element("votes").replaceChildren(...ranked.map(([label, list]) => make("li", {},
    make("strong", {}, make("bdi", {}, label || "no vote")), ` ${list.length}: `,
    make("span", { className: "quiet" }, list.sort((a, b) => b[1] - a[1]).map(([source, probability]) => (probability === null ? source : `${source} ${probability.toFixed(2)}`)).join(", ")))));
  if (!clip.votes.length) element("votes").replaceChildren(make("li", { className: "quiet" }, "no votes yet"));
  const others = element("others-say");
  others.hidden = !clip.others.length;
  others.textContent = clip.others.length ? `Other reviewers: ${clip.others.map((one) => `${one.reviewer}: ${one.label}`).join(", ")}` : "";
}

function showEmpty() {
  current = null;
  element("clip").hidden = true;
  element("empty").hidden = !isExhausted; // otherwise the server does not answer, as the notice says
  document.title = "Review clips";
}

function showProgress() {
  const { progress } = state;
  const waiting = unsent().length;
  const wait = waiting ? `, ${waiting} not stored yet` : "";
  element("bar").hidden = !progress;
  if (progress) {
    element("bar").max = Math.max(progress.clips, 1);
    element("bar").value = progress.answered;
  }
  const done = progress ? `${progress.answered} of ${progress.clips} clips answered` : "reading the clips";
  const needed = labelled < state.needed ? `, ${state.needed - labelled} labels until calibration` : "";
  element("done").textContent = done + needed + wait;
}

// Answering

function answer(label) {
  if (!current) return;
  const one = current;
  const content = {
    name: one.clip.name, label, seconds: Math.round((performance.now() - one.shownAt) / 100) / 10, digest: one.clip.digest,
  };
  keepUnsent(content);
  history.push({ name: one.clip.name, label, before: one.clip.mine, digest: one.clip.digest });
  if (state.progress && !one.clip.mine && !skipped.has(one.clip.name)) state.progress.answered += 1;
  skipped.add(one.clip.name);
  say(`${label}: ${one.clip.name}`);
  showProgress();
  advance();
  sendAll();
}

function next() {
  if (!current) return;
  history.push({ name: current.clip.name, label: null });
  skipped.add(current.clip.name);
  advance();
}

async function showAgain(name) {
  try {
    const clip = await getJson(`/api/clip/${encodeURIComponent(name)}`);
    if (current) ahead.unshift(current);
    const waiting = unsent().filter((one) => one.content.name === name && one.reviewer === reviewer()).pop();
    if (waiting) clip.mine = waiting.content.label;
    show(prepare(clip));
  } catch (error) {
    problem(error.status ? error.message : "The server does not answer. Start it again: ecmf-pipe review");
  }
}

function back() {
  const last = history.pop();
  if (last) showAgain(last.name);
}

async function undo() {
  while (history.length && history[history.length - 1].label === null) history.pop();
  const last = history.pop();
  if (!last) {
    say("There is nothing to undo.");
    return;
  }
  keepUnsent({ name: last.name, label: last.before || "", seconds: 0, digest: last.before ? last.digest : "" });
  if (state.progress && !last.before) state.progress.answered -= 1;
  skipped.delete(last.name);
  say(`Undone: ${last.label} for ${last.name}`);
  await sendAll();
  await showAgain(last.name);
  showProgress();
}

// Buttons, keys, filters

function labelButton(label, parent) {
  const key = state.keys[label];
  const name = make("span", {}, make("bdi", {}, label));
  if (label === "no emotion" && state.neutral && !state.labels.includes(label)) name.append(" ", make("span", { className: "quiet" }, "= ", make("bdi", {}, state.neutral)));
  const button = make("button", { type: "button", className: "label" }, name);
  if (key) {
    button.append(make("kbd", {}, key));
    button.setAttribute("aria-keyshortcuts", key);
  }
  button.dataset.label = label;
  button.addEventListener("mousedown", (event) => event.preventDefault()); // no focus: space is the next clip
  button.addEventListener("click", (event) => { if (event.detail < 2) answer(label); }); // a double click is one answer
  parent.append(button);
}

function setOptions(found) {
  const fillSelect = (select, values, chosen) => {
    if (select.options.length === values.length + 1) return;
    select.replaceChildren(make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, value.replace("_", " "))));
    select.value = chosen;
  };
  const form = element("filters");
  fillSelect(form.elements.label, state.labels, filters.label);
  fillSelect(form.elements.decision, found.decisions, filters.decision);
  element("groups").replaceChildren(...found.groups.map((value) => make("option", { value })));
  form.elements.kind.value = filters.kind;
  if (document.activeElement !== form.elements.group) form.elements.group.value = filters.group;
  const active = Object.values(filters).filter(Boolean).map((value) => value.replace("_", " "));
  element("filter-state").textContent = active.length ? `(${active.join(", ")})` : "";
}

async function applyFilters(values) {
  filters = values;
  const parameters = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
  window.history.replaceState(null, "", parameters.size ? `/?${parameters}` : "/");
  if (current?.player) current.player.pause();
  current = null;
  ahead = [];
  state.progress = null;
  if (loading) await loading;
  ahead = [];
  await advance();
}

function hideVotes() {
  const hidden = element("model-view").toggleAttribute("hidden");
  element("hide-votes").setAttribute("aria-pressed", String(hidden));
  element("hide-votes").firstChild.textContent = hidden ? "Show the votes " : "Hide the votes ";
  localStorage.setItem(`${STORE}-votes`, hidden ? "hidden" : "");
}

const commands = { r: replay, s: slower, z: undo, v: hideVotes, ArrowRight: next, ArrowLeft: back, " ": next };

document.addEventListener("keydown", (event) => {
  const target = event.target;
  const types = target.matches("input:not([type=checkbox]), select, textarea, dialog *");
  if (event.repeat && target.matches("button.label")) event.preventDefault(); // Enter held down is one answer
  if (!useKeys || types || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && target.matches("button, summary, input")) return; // it presses the focused control
  if (event.key.startsWith("Arrow") && target.matches("video, audio")) return;
  const label = Object.keys(state.keys).find((name) => state.keys[name] === event.key.toLowerCase());
  const command = commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!label && !command) return;
  event.preventDefault();
  if (event.repeat) return;
  if (label) answer(label);
  else command();
});

function start() {
  for (const label of state.labels) labelButton(label, element("labels"));
  for (const label of state.others) labelButton(label, element("others"));
  element("replay").addEventListener("click", replay);
  element("slower").addEventListener("click", slower);
  element("undo").addEventListener("click", undo);
  element("back").addEventListener("click", back);
  element("skip").addEventListener("click", next);
  element("hide-votes").addEventListener("click", hideVotes);
  if (localStorage.getItem(`${STORE}-votes`) === "hidden") hideVotes();
  element("use-keys").addEventListener("change", (event) => { useKeys = event.target.checked; });
  const without = state.labels.filter((label) => !state.keys[label]).length;
  element("key-list").textContent = [
    ...[...state.labels, ...state.others].filter((label) => state.keys[label]).map((label) => `${state.keys[label]}: ${label}`),
    "z: undo", "r: replay", "s: half speed", "space or →: next without an answer", "←: back", "v: hide or show the votes",
    ...(without ? [`${without} more labels have no key: click them`] : []),
  ].join(" · ");
  element("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    applyFilters(Object.fromEntries(new FormData(event.target)));
  });
  element("filters").addEventListener("reset", () => setTimeout(() => applyFilters({ label: "", decision: "", group: "", kind: "" })));
  element("who").addEventListener("click", () => {
    element("who-input").value = element("who-name").textContent;
    element("who-dialog").showModal();
  });
  element("who-cancel").addEventListener("click", () => element("who-dialog").close());
  element("who-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const named = await post("/api/reviewer", { name: element("who-input").value });
      element("who-name").textContent = named.reviewer;
      element("who-dialog").close();
      skipped.clear();
      history = [];
      applyFilters(filters);
    } catch (error) {
      problem(error.message);
    }
  });
  if (Object.values(filters).some(Boolean)) element("filter-box").open = true;
  setOptions(state);
  if (state.problem) problem(state.problem);
  ahead = state.clips.map(prepare);
  showProgress();
  advance();
  if (unsent().length) sendAll();
}

start();
