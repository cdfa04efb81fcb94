"use strict";
const found = (selector, within = document) => [...within.querySelectorAll(selector)];

/* Long tables and galleries: a filter, and pages of data-page rows. */
for (const list of found("[data-page]")) {
  const body = list.tBodies ? list.tBodies[0] : list, size = Number(list.dataset.page);
  const tools = document.getElementById(list.dataset.tools), search = tools?.querySelector("input");
  const [back, on] = tools ? found("button", tools) : [], state = tools?.querySelector("output");
  let page = 0;
  list.show = (first = page) => {
    const wanted = search?.value.toLowerCase() ?? "";
    const rows = [...body.children], kept = rows.filter(row => row.textContent.toLowerCase().includes(wanted));
    const pages = Math.max(1, Math.ceil(kept.length / size));
    page = Math.min(Math.max(0, first), pages - 1);
    for (const row of rows) row.hidden = true;
    const start = page * size, shown = kept.slice(start, start + size);
    for (const row of shown) row.hidden = false;
    if (!tools) return;
    back.disabled = page === 0; on.disabled = page === pages - 1;
    back.hidden = on.hidden = rows.length <= size;
    state.textContent = kept.length ? `${start + 1}–${start + shown.length} of ${kept.length}` : "none";
  };
  if (tools) {
    search.oninput = () => list.show(0);
    back.onclick = () => list.show(page - 1);
    on.onclick = () => list.show(page + 1);
    tools.hidden = false;
  }
  list.show(0);
}

/* Tables: a column's button sorts by it, up and then down. */
const key = cell => cell.dataset.sort === undefined ? cell.textContent : parseFloat(cell.dataset.sort);
const order = (x, y) => x !== x ? 1 : y !== y ? -1
  : typeof x === typeof y && typeof x === "string" ? x.localeCompare(y) : x > y ? 1 : x < y ? -1 : 0;
for (const table of found("table.sortable")) {
  const heads = found("th", table);
  heads.forEach((head, column) => head.querySelector("button").onclick = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map(row => [key(row.cells[column]), row]);
    rows.sort(([x], [y]) => x !== x || y !== y ? order(x, y) : (up ? 1 : -1) * order(x, y));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    table.show?.(0);
  });
}

/* Pictures: a click or Enter enlarges one, arrows go on, Escape closes. */
const zoom = document.querySelector("dialog"), large = zoom?.querySelector("img"), words = zoom?.querySelector("p");
let at = 0;
const visible = () => found(".shots button").filter(button => button.offsetParent);
const enlarge = place => {
  const every = visible(), button = every[at = (place + every.length) % every.length], small = button.querySelector("img");
  large.onerror = () => { large.onerror = null; large.src = small.src; };
  large.src = button.dataset.full || small.src;
  large.alt = small.alt;
  large.className = small.className;
  const told = button.parentElement.querySelector("figcaption").innerText.replace(/\s+/g, " ");
  words.textContent = `${button.closest("li").querySelector("p").textContent} · ${told}`;
  if (!zoom.open) zoom.showModal();
};
for (const button of found(".shots button")) button.onclick = () => enlarge(visible().indexOf(button));
if (zoom) {
  const [back, on, close] = found("button", zoom);
  back.onclick = () => enlarge(at - 1);
  on.onclick = () => enlarge(at + 1);
  close.onclick = () => zoom.close();
  zoom.onkeydown = event => {
    if (event.key === "ArrowLeft") enlarge(at - 1);
    if (event.key === "ArrowRight") enlarge(at + 1);
  };
  zoom.onclose = () => visible()[at]?.focus();
}
