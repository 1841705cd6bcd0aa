"use strict";
// The table: sorts, filters and turns pages over the rows that lie as JSON in the page. Texts reach the page as text.
(function () {
  const data = JSON.parse(document.getElementById("rows").textContent);
  const columns = data.map((one) => one.s ? one.i.map((place) => one.s[place]) : one.n);
  const numeric = data.map((one) => !one.s);
  const size = 100;
  const body = document.getElementById("body");
  const told = document.getElementById("told");
  const heads = [...document.querySelectorAll("#head th")];
  const inputs = [...document.querySelectorAll("#filters input")];
  const back = document.getElementById("back");
  const on = document.getElementById("on");
  const all = columns.length ? columns[0].map((_, row) => row) : [];
  let view = all, sorted = -1, direction = 1, page = 0;

  // `>100`, `<=5`, `=8` and `5..8` in columns of numbers; elsewhere, and without a sign, what the text contains.
  function test(filter, value) {
    const compared = /^(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[+-]?\d+)?)$/.exec(filter);
    const between = /^(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)$/.exec(filter);
    if (compared && typeof value === "number") {
      const limit = Number(compared[2]);
      return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[compared[1]];
    }
    if (between && typeof value === "number") return value >= Number(between[1]) && value <= Number(between[2]);
    if (value === null) return false;
    return String(value).toLowerCase().includes(filter);
  }

  // Unknown comes last, whichever way.
  function order(one, other) {
    const a = columns[sorted][one], b = columns[sorted][other];
    if (a === b) return one - other;
    if (a === null) return 1;
    if (b === null) return -1;
    return (numeric[sorted] ? a - b : a.localeCompare(b, "en", { numeric: true })) * direction || one - other;
  }

  function choose() {
    const filters = inputs.map((input) => input.value.trim().toLowerCase());
    const used = filters.map((filter, place) => place).filter((place) => filters[place]);
    view = all.filter((row) => used.every((place) => test(filters[place], columns[place][row])));
    if (sorted >= 0) view.sort(order);
    page = 0;
    draw();
  }

  function draw() {
    const rows = document.createDocumentFragment();
    for (const row of view.slice(page * size, page * size + size)) {
      const line = document.createElement("tr");
      columns.forEach((column, place) => {
        const cell = document.createElement("td");
        cell.textContent = column[row] === null ? "" : column[row];
        cell.className = data[place].c;
        line.appendChild(cell);
      });
      rows.appendChild(line);
    }
    body.replaceChildren(rows);
    const pages = Math.max(1, Math.ceil(view.length / size));
    const by = sorted < 0 ? "" : `, by ${heads[sorted].textContent.trim()} ${direction > 0 ? "upward" : "downward"}`;
    told.textContent = `${view.length} of ${all.length} results${by}; page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    on.disabled = page + 1 >= pages;
  }

  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    direction = sorted === place ? -direction : numeric[place] ? -1 : 1;
    sorted = place;
    heads.forEach((one) => one.setAttribute("aria-sort", one !== head ? "none" : direction > 0 ? "ascending" : "descending"));
    choose();
  }));
  inputs.forEach((input) => input.addEventListener("input", choose));
  back.addEventListener("click", () => { page -= 1; draw(); });
  on.addEventListener("click", () => { page += 1; draw(); });
  document.getElementById("clear").addEventListener("click", () => { inputs.forEach((input) => { input.value = ""; }); choose(); });
  choose();
  document.documentElement.dataset.ready = "1";
})();
