"use strict";
// The address after "#" holds the state, so that a link shows what its sender saw: #filter=coop&sort=0.3.descending
const given = new URLSearchParams(location.hash.slice(1));
const state = new URLSearchParams();
for (const name of ["filter", "sort"]) if (given.has(name)) state.set(name, given.get(name));
const tables = [...document.querySelectorAll("table")];
const labelled = [...document.querySelectorAll("[data-label]")];
const input = document.getElementById("filter");

function filterBy(words) {
  const wanted = words.trim().toLowerCase();
  const shows = (element) => element.dataset.label.toLowerCase().includes(wanted);
  for (const element of labelled) {
    const hide = !shows(element);
    // SVG elements have no `hidden` property, only the attribute.
    if (hide) element.setAttribute("hidden", ""); else element.removeAttribute("hidden");
  }
  const names = new Set(labelled.map((element) => element.dataset.label));
  const left = [...names].filter((name) => name.toLowerCase().includes(wanted));
  document.getElementById("shown").value = wanted ? `${left.length} of ${names.size}` : "";
}

function sortBy(table, column, direction) {
  const sign = direction === "descending" ? -1 : 1;
  const key = (row) => row.cells[column].dataset.value ?? null;
  const body = table.tBodies[0];
  const compare = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a !== null && b !== null) return sign * (Number(a) - Number(b));
    if (a !== null || b !== null) return a === null ? 1 : -1; // what has no number stands last either way
    return sign * one.cells[column].textContent.localeCompare(other.cells[column].textContent);
  };
  body.append(...[...body.rows].sort(compare));
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute("aria-sort", direction); else cell.removeAttribute("aria-sort");
  });
}

function remember(name, value) {
  if (value) state.set(name, value); else state.delete(name);
  location.replace(`#${state}`); // history.replaceState is refused to a page that was opened as a file
}

input.addEventListener("input", () => { filterBy(input.value); remember("filter", input.value); });

tables.forEach((table, number) => {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.firstElementChild.addEventListener("click", () => {
      const first = table.querySelector(`tbody td:nth-child(${column + 1})[data-value]`) ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const direction = cell.getAttribute("aria-sort") === first ? other : first;
      sortBy(table, column, direction);
      remember("sort", `${number}.${column}.${direction}`);
    });
  });
});

// Pointing at a method, in the table or in a figure, lets the others fade everywhere.
document.addEventListener("pointerover", (event) => {
  const label = event.target.closest("tr[data-label], svg [data-label]")?.dataset.label;
  document.body.classList.toggle("pointing", label !== undefined);
  for (const element of labelled) element.classList.toggle("same", element.dataset.label === label);
});

const [number, column, direction] = (state.get("sort") ?? "").split(".");
if (tables[number]?.tHead.rows[0].cells[column]) sortBy(tables[number], Number(column), direction);
input.value = state.get("filter") ?? "";
filterBy(input.value);
