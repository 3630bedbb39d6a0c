// The list of features: as many rows as fit are in the document, whatever their number.
const ROW_HEIGHT = 46;
const list = { rows: [], query: "", sort: null, order: -1, flag: "", group: "", label: "", hit: false, starred: false };
const stars = {
  key: "syncytium-stars", all: new Set(),
  read() { try { this.all = new Set(JSON.parse(localStorage.getItem(this.key) || "[]")); } catch { this.all = new Set(); } },
  turn(feature) {
    if (!this.all.delete(feature)) this.all.add(feature);
    try { localStorage.setItem(this.key, JSON.stringify([...this.all])); } catch { return; }
  },
};

const text = (value) => make("span", { class: "cut" }, value ?? "–");
function columns() {
  const all = [
    { key: "feature", name: "Feature", order: 1, width: "62px", value: number, cell: (row) => make("a", { class: "open", href: `#/feature/${number(row)}` }, String(number(row))) },
    { key: "name", name: table.name ? "Suggested name" : "Top genes", order: 1, width: "minmax(0, 2.3fr)", value: nameOf, cell: (row) => text(nameOf(row)) },
    { key: "confidence", name: "Conf.", order: -1, width: "54px", hide: "wide", when: table.confidence, value: (row) => table.confidence[row], cell: (row) => fixed(table.confidence[row], 2), number: true, about: "How much the evidence carries the name: an order, not a probability" },
    { key: "genes", name: "Top genes", order: 1, width: "minmax(0, 1.6fr)", hide: "middling", when: table.name, value: (row) => genesOf(row)[0] || "\uffff", cell: (row) => text(genesOf(row).join("  ")) },
    { key: "label", name: "Cell label", order: 1, width: "minmax(0, 1.2fr)", hide: "middling", when: table.labels.length, value: (row) => labelOf(row) || "\uffff", cell: (row) => (labelOf(row) === null ? "–" : make("span", { class: "type" }, make("i", { style: { background: hue(table.label[row]) } }), text(labelOf(row)))) },
    { key: "auroc", name: "AUROC", order: -1, width: "56px", hide: "wide", when: table.labels.length, value: (row) => table.auroc[row] ?? -1, cell: (row) => fixed(table.auroc[row], 2), number: true, about: "Chance that a cell of the label has a larger activation than another; 0.5 says nothing" },
    { key: "terms", name: "Terms", order: -1, width: "50px", hide: "middling", when: table.terms, value: (row) => table.terms[row], cell: (row) => count(table.terms[row]), number: true, about: "Significant terms, corrected over all features and terms" },
    { key: "q", name: "Best q", order: 1, width: "70px", hide: "wide", when: table.terms, value: (row) => table.q[row] ?? 2, cell: (row) => make("span", { class: hasTerm(row) ? null : "weak" }, table.q[row] === null ? "–" : probability(table.q[row])), number: true, about: "False discovery rate of its best term" },
    { key: "chance", name: "By chance", order: 1, width: "72px", hide: "wide", when: table.terms, value: (row) => table.nullShare[row] ?? 2, cell: (row) => (table.nullShare[row] === null ? "–" : percent(table.nullShare[row])), number: true, about: "Share of shuffles of the gene labels that find a term as strong" },
    { key: "stability", name: "Found again", order: -1, width: "88px", hide: "wide", when: table.stability, value: (row) => table.stability[row] ?? -1, cell: (row) => (table.stability[row] === null ? "–" : percent(table.stability[row])), number: true, about: "Share of the other autoencoders that have it" },
    { key: "density", name: "Density", order: 1, width: "64px", hide: "middling", value: (row) => table.density[row], cell: (row) => percent(table.density[row]), number: true, about: "Share of gene tokens on which it fires" },
  ];
  return all.filter((column) => !("when" in column) || (column.when !== null && column.when !== undefined && column.when !== 0));
}

function passes(row) {
  if (list.flag) {
    const flag = FLAGS.find((one) => one.key === list.flag);
    if (list.flag === "none" ? table.flags[row] : flag && !(table.flags[row] & flag.bit)) return false;
  }
  if (list.label !== "" && table.label[row] !== Number(list.label)) return false;
  if (list.group !== "" && !(table.groupMask[row] & (1 << Number(list.group)))) return false;
  if (list.hit && !hasTerm(row)) return false;
  return !list.starred || stars.all.has(number(row));
}

let searching = 0;
async function refill() {
  const turn = ++searching;
  const found = await search(list.query);
  if (turn !== searching || !byId("none")) return;
  const rows = [];
  if (found === null) { for (let row = 0; row < table.nFeatures; row++) if (passes(row)) rows.push(row); }
  else for (const row of found) if (passes(row)) rows.push(row);
  const column = columns().find((one) => one.key === list.sort) || columns()[0];
  const values = new Map(rows.map((row) => [row, column.value(row)]));
  rows.sort((a, b) => {
    const left = values.get(a), right = values.get(b);
    return (left < right ? -1 : left > right ? 1 : 0) * list.order || a - b;
  });
  list.rows = rows;
  byId("count").textContent = `${count(rows.length)} of ${count(table.nFeatures)} features`;
  byId("none").hidden = rows.length > 0;
  view.show(rows);
}

// A list of any length under its heads; `view` is the one on the page. A row is drawn by its columns.
let view = null;
function virtual(label, columns, attributes) {
  const rows = make("div", { class: "rows", id: "rows" });
  const scroller = make("div", { class: "scroller", id: "scroller", tabindex: "0", onscroll: () => view.draw() }, rows);
  const head = make("div", { class: "head", id: "head", role: "row" });
  for (const element of [head, scroller]) {
    element.style.setProperty("--wide-columns", columns.map((column) => column.width).join(" "));
    element.style.setProperty("--middling-columns", columns.filter((column) => column.hide !== "wide").map((column) => column.width).join(" "));
    element.style.setProperty("--narrow-columns", columns.filter((column) => !column.hide).map((column) => column.width).join(" "));
  }
  const classes = (column) => [column.number && "number", column.hide].filter(Boolean).join(" ") || null;
  view = {
    shown: [], columns, head,
    element: make("div", { role: "table", "aria-label": label }, head, scroller),
    heads(cells) {
      head.replaceChildren(...columns.map((column, place) => make("div", { role: "columnheader", class: classes(column), ...cells[place].attributes }, cells[place].content)));
    },
    show(shown) {
      this.shown = shown;
      this.element.setAttribute("aria-rowcount", shown.length + 1);
      rows.style.height = `${shown.length * ROW_HEIGHT}px`;
      scroller.scrollTop = 0;
      this.draw();
    },
    draw() {
      const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - 6);
      const last = Math.min(this.shown.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW_HEIGHT) + 6);
      rows.replaceChildren(...this.shown.slice(first, last).map((row, place) => make("div", {
        class: "row", role: "row", "aria-rowindex": first + place + 2,
        style: { transform: `translateY(${(first + place) * ROW_HEIGHT}px)` }, ...attributes(row),
      }, ...columns.map((column) => make("div", { role: "cell", class: classes(column) }, column.cell(row))))));
    },
  };
  return view;
}

function drawHead() {
  view.heads(view.columns.map((column) => ({
    attributes: { "aria-sort": list.sort === column.key ? (list.order > 0 ? "ascending" : "descending") : null },
    content: make("button", { type: "button", title: column.about, "data-sort": column.key, onclick: () => {
      list.order = list.sort === column.key ? -list.order : column.order;
      list.sort = column.key;
      drawHead();
      view.head.querySelector(`[data-sort="${column.key}"]`).focus();
      keep();
      refill();
    } }, column.name),
  })));
}

function choice(label, key, options) {
  const select = make("select", { "aria-label": label, onchange: (event) => { list[key] = event.target.value; keep(); refill(); } },
    ...options.map(([value, name]) => make("option", { value, selected: String(list[key]) === String(value) }, name)));
  return select;
}

function check(label, key) {
  return make("label", { class: "check" }, make("input", { type: "checkbox", checked: list[key], onchange: (event) => { list[key] = event.target.checked; keep(); refill(); } }), label);
}

const KEPT = ["query", "sort", "order", "flag", "group", "label", "hit", "starred"];
function keep() {
  const state = new URLSearchParams(KEPT.filter((key) => list[key] !== "" && list[key] !== false && list[key] !== null).map((key) => [key, String(list[key])]));
  history.replaceState(null, "", `#/?${state}`);
}

function restore(state) {
  for (const key of KEPT) {
    const value = state.get(key);
    if (value === null) continue;
    list[key] = key === "order" ? (Number(value) < 0 ? -1 : 1) : key === "hit" || key === "starred" ? value === "true" : value;
  }
}

function csv() {
  const all = columns();
  const quoted = (value) => {
    const plain = String(value ?? "");
    // A cell that begins like a formula would be run by spreadsheets.
    const safe = /^[=+\-@\t\r]/.test(plain) && typeof value !== "number" ? `'${plain}` : plain;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = list.rows.map((row) => [...all.map((column) => column.value(row)), termOf(row)].map((value) => quoted(value === "\uffff" ? "" : value)).join(","));
  save("features.csv", "text/csv", [[...all.map((column) => column.key), "best_term"].join(","), ...lines].join("\r\n"));
}

// One explanation a feature, in the fields of Neuronpedia's explanations.
function neuronpedia() {
  const entries = list.rows.filter((row) => !(table.flags[row] & 1)).map((row) => ({ index: String(number(row)), description: nameOf(row), typeName: "syncytium-enrichment", explanationModelName: table.maker ? table.makers[table.maker[row]] : "template" }));
  save("explanations.json", "application/json", JSON.stringify(entries, null, 1));
}

function save(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function showList(state) {
  restore(state);
  list.sort ||= table.confidence ? "confidence" : table.labels.length ? "auroc" : "feature";
  byId("main").replaceChildren(make("section", { class: "first", "aria-label": "Features" }, make("div", { class: "pane table-pane" },
    make("div", { class: "table-tools" },
      make("label", { class: "search" }, make("span", { class: "sr" }, "Search"), make("input", { id: "search", type: "search", value: list.query, placeholder: "Gene, term, cell label, number or words", autocomplete: "off", spellcheck: "false", oninput: (event) => { list.query = event.target.value; keep(); refill(); } })),
      table.labels.length ? choice("Cell label", "label", [["", "All cell labels"], ...table.labels.map((name, place) => [place, name])]) : null,
      table.terms && table.groups.length ? choice("Kind of evidence", "group", [["", "All evidence"], ...table.groups.map((name, place) => [place, name])]) : null,
      choice("What speaks against it", "flag", [["", "All features"], ["none", "nothing against it"], ...FLAGS.map((flag) => [flag.key, flag.name])]),
      table.terms ? check("with a term", "hit") : null, check("starred", "starred"),
      make("p", { id: "count", role: "status" })),
    virtual("Features", columns(), (row) => ({ "data-feature": number(row), onclick: () => { location.hash = `#/feature/${number(row)}`; } })).element,
    make("p", { class: "empty", id: "none", hidden: true }, "No feature matches."),
    make("div", { class: "exports" }, make("button", { type: "button", class: "quiet", onclick: csv }, "Save as CSV"), make("button", { type: "button", class: "quiet", onclick: neuronpedia }, "Save explanations for Neuronpedia")))));
  drawHead();
  refill();
}
