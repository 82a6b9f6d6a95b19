"use strict";
const table = document.getElementById("papers");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const controls = document.getElementById("controls");
const shown = document.getElementById("shown");

function choose() {
  const words = controls.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    let fits = words.every((word) => text.includes(word));
    for (const name of ["verdict", "replication", "scale", "topic"]) {
      const wanted = controls.elements[name].value;
      fits = fits && (!wanted || row.dataset[name].split(" ").includes(wanted.replaceAll(" ", "-")));
    }
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = count + " of " + rows.length + " shown";
}

function sort(column, button) {
  const down = button.parentElement.getAttribute("aria-sort") === "ascending";
  const key = (row) => row.cells[column].dataset.sort;
  const sign = down ? -1 : 1;
  rows.sort((a, b) => sign * key(a).localeCompare(key(b), "en", { numeric: column !== 3 })
    || a.id.localeCompare(b.id));
  if (column === 3) rows.sort((a, b) => sign * ((parseFloat(key(a)) || -1e9) - (parseFloat(key(b)) || -1e9)));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  button.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}

Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => sort(column, button));
});
controls.hidden = false;
controls.addEventListener("input", choose);
controls.addEventListener("submit", (event) => event.preventDefault());
choose();
