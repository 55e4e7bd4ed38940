"use strict";
// The estimate of what the answers would change, which takes a trial of refine.

const box = document.getElementById("effect");
const percent = (value) => (value === null ? "unknown" : `${(100 * value).toFixed(1)} %`);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

async function load() {
  const response = await fetch("/api/effect", { cache: "no-store" });
  const found = await response.json().catch(() => ({ problem: `the server answered ${response.status}` }));
  if (!response.ok) {
    box.replaceChildren(make("p", { className: "notice" }, `The effect is unknown: ${found.problem}`));
    return;
  }
  const others = found.changed - found.changed_by_people;
  box.replaceChildren(
    make("p", {}, `The training label of ${found.changed} clips would change: ${found.changed_by_people} by an answer, ${others} because the models are weighted anew.`),
    make("p", {}, `Expected accuracy of the training labels: ${percent(found.before)} of ${found.trained_before} clips now, ${percent(found.after)} of ${found.trained_after} clips afterwards.`),
  );
  if (!found.examples.length) return;
  const rows = found.examples.map((one) => make("tr", {},
    make("th", { scope: "row" }, make("bdi", {}, one.name)),
    make("td", {}, make("bdi", {}, one.before || "none")), make("td", {}, make("bdi", {}, one.after || "none")),
    make("td", {}, one.by_people ? "a person" : "the models")));
  const head = make("tr", {}, ...["Clip", "Label now", "Label afterwards", "Because of"].map((text) => make("th", { scope: "col" }, text)));
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("caption", {}, "Changed labels"), make("thead", {}, head), make("tbody", {}, ...rows)));
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Changed labels");
  box.append(scroll);
}

load().catch(() => box.replaceChildren(make("p", { className: "notice" }, "The effect is unknown: the server does not answer.")));
