"use strict";
(() => {
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  // Tables that can be sorted, filtered and searched.
  const FILTERED = 60; // columns with more values get no list,
  const LONGEST = 45; // nor do those with longer ones, such as transcripts
  for (const table of document.querySelectorAll("table.explorable")) explore(table);

  function explore(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, cells: [...row.cells].map((cell) => cell.textContent.trim()) }));
    for (const one of rows) one.text = one.cells.join(" ").toLowerCase();
    const headings = [...table.tHead.rows[0].cells];
    const shown = make("output");
    const search = make("input", { type: "search", placeholder: "clip, label or words" });
    const controls = make("form", { className: "controls" }, make("label", {}, "Search ", search));
    const filters = [];
    headings.forEach((heading, column) => {
      const name = heading.textContent.trim();
      const values = [...new Set(rows.map((one) => one.cells[column]))].sort((a, b) => a.localeCompare(b));
      const isListed = values.length > 1 && values.length <= FILTERED && values.every((value) => value.length <= LONGEST);
      if (column && !heading.classList.contains("number") && isListed) {
        const select = make("select", {}, make("option", { value: "" }, "all"));
        for (const value of values) select.append(make("option", { value }, value));
        filters.push({ column, select, name });
        controls.append(make("label", {}, name + " ", select));
      }
      const button = make("button", { type: "button" });
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(column, heading));
    });
    const reset = make("button", { type: "reset" }, "Reset");
    controls.append(reset, shown);
    table.parentElement.before(controls);
    controls.addEventListener("input", update);
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("reset", () => setTimeout(update));

    function update() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const { row, cells, text } of rows) {
        const fits =
          words.every((word) => text.includes(word)) &&
          filters.every(({ column, select }) => !select.value || cells[column] === select.value);
        row.hidden = !fits;
        count += fits;
      }
      shown.value = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} clips`;
    }

    function sort(column, heading) {
      const down = heading.ariaSort === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.ariaSort = down ? "descending" : "ascending";
      const numbers = heading.classList.contains("number");
      const value = (one) => (numbers ? Number.parseFloat(one.cells[column]) : one.cells[column]);
      const empty = (one) => (numbers ? Number.isNaN(value(one)) : value(one) === "–");
      rows.sort((a, b) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        const order = numbers ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows.map((one) => one.row));
    }

    update();
  }

  // Cards: closed without a jump, left with Escape, browsed with the arrow keys in the order of the table.
  let opener = null;
  const open = () => document.querySelector(".card:target");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link && /^#c\d+$/.test(link.hash) && !open()) opener = link;
    if (event.target.closest(".card .close")) {
      event.preventDefault();
      close();
    }
  });
  function close() {
    const top = window.scrollY;
    location.hash = "#clips-title";
    history.replaceState(null, "", location.pathname + location.search);
    window.scrollTo({ top, behavior: "instant" });
    const back = opener && opener.isConnected ? opener : null;
    opener = null;
    if (back) back.focus({ preventScroll: true });
  }
  function move(step) {
    const links = [...document.querySelectorAll("#decisions tbody tr:not([hidden]) a")].map((link) => link.hash);
    const place = links.indexOf("#" + open().id);
    const next = links[place < 0 ? 0 : place + step];
    if (next) location.replace(next);
  }
  document.addEventListener("keydown", (event) => {
    if (!open() || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") close();
    else if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
  });
  for (const moves of document.querySelectorAll(".card .moves")) {
    moves.prepend(make("span", { className: "keys" }, "← → other clips, Esc closes"));
  }
  window.addEventListener("hashchange", focus);
  function focus() {
    const card = open();
    if (card) card.focus({ preventScroll: true });
  }
  focus();

  // Preview of a clip while the pointer is on its point of the map.
  const preview = make("div", { className: "preview", hidden: true });
  preview.setAttribute("aria-hidden", "true");
  document.body.append(preview);
  for (const map of document.querySelectorAll(".map svg")) {
    map.addEventListener("pointerover", (event) => {
      const link = event.target.closest("a");
      const card = link && document.getElementById(link.getAttribute("href").slice(1));
      preview.hidden = !card;
      if (!card) return;
      const picture = card.querySelector("img");
      const parts = [card.querySelector("h3"), card.querySelector(".said")].map((part) => make("p", {}, part.textContent));
      const label = [...card.querySelectorAll("dt")].find((term) => term.textContent === "Label");
      if (label) parts.splice(1, 0, make("p", { className: "label" }, label.nextElementSibling.textContent));
      preview.replaceChildren(...(picture ? [picture.cloneNode()] : []), ...parts);
      const box = link.getBoundingClientRect();
      preview.style.top = `${Math.min(box.bottom + 8, innerHeight - preview.offsetHeight - 8)}px`;
      preview.style.left = `${Math.max(8, Math.min(box.left, innerWidth - preview.offsetWidth - 8))}px`;
    });
    map.addEventListener("pointerleave", () => (preview.hidden = true));
  }
})();
