"use strict";
const NUMBER = /^[<>]?\s*([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|[\s%[(\/])/i;

function number(text) {
  const found = NUMBER.exec(text);
  return found ? Number(found[1].replaceAll(",", "")) : NaN;
}

function empty(text) {
  return text === "-" || text === "missing" || text === "";
}

// Cells that hold nothing come last in either direction; equal ones keep their order.
function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], at = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  const rows = [...body.rows].map((row) => [row.cells[at].textContent.trim(), row]);
  const filled = rows.filter(([text]) => !empty(text));
  const numbers = filled.length > 0 && filled.every(([text]) => !Number.isNaN(number(text)));
  const compare = numbers ? (a, b) => number(a) - number(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
  filled.sort(([a], [b]) => (down ? -1 : 1) * compare(a, b));
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...filled.map(([, row]) => row), ...rows.filter(([text]) => empty(text)).map(([, row]) => row));
}

for (const button of document.querySelectorAll("table.sortable th button"))
  button.addEventListener("click", () => sort(button.parentElement));

// Printed cells that wait for their runs are folded away where there are many.
for (const table of document.querySelectorAll("table.sortable")) {
  const waiting = [...table.querySelectorAll("tr.waits")];
  if (waiting.length < 7) continue;
  const button = document.createElement("button");
  const fold = (folded) => {
    for (const row of waiting) row.classList.toggle("folded", folded);
    button.setAttribute("aria-expanded", String(!folded));
    button.textContent = (folded ? "show " : "hide ") + waiting.length + " printed cells without a run";
  };
  button.type = "button";
  button.className = "unfold";
  button.addEventListener("click", () => fold(button.getAttribute("aria-expanded") === "true"));
  fold(true);
  table.parentElement.after(button);
}

// A link to a run, which is folded away, unfolds it.
function unfold() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) named.open = true;
}
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details.print")) folded.open = true;
});
unfold();
