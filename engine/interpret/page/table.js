// The table of features: searched, sorted, shown a screenful at a time.
const PAGE = 12;
const best = (feature, value, none) => (feature.labels.length ? value(feature.labels[0]) : none);
const odds = (entry) => (entry.odds === "inf" ? Infinity : entry.odds ?? -1);
const COLUMNS = [
  { key: "feature", name: "Feature", order: 1, value: (f) => f.feature, about: "Number of the feature in the autoencoder" },
  { key: "genes", name: "Top genes", order: 1, value: (f) => (f.genes.length ? f.genes[0].name : "\uffff"),
    about: "Genes on which the feature is strongest where they occur" },
  { key: "label", name: "Cell type", order: 1, value: (f) => best(f, (entry) => content.labels[entry.label], "\uffff"),
    about: "The cell type it tells best from all other cells" },
  { key: "auroc", name: "AUROC", order: -1, number: true, value: (f) => best(f, (entry) => entry.auroc, -1),
    about: "Chance that a cell of the type has a larger activation than another cell; 0.5 says nothing" },
  { key: "fdr", name: "FDR", order: 1, number: true, hide: "middling", value: (f) => best(f, (entry) => entry.fdr, 2),
    about: "False discovery rate of the AUROC, over all features and cell types" },
  { key: "odds", name: "Odds ratio", order: -1, number: true, hide: "wide", value: (f) => best(f, odds, -1),
    about: "Odds of firing in cells of the type over odds in others; a feature that fires in every cell has none" },
  { key: "density", name: "Density", order: 1, number: true, hide: "middling", value: (f) => f.density,
    about: "Share of gene tokens on which it fires" },
  { key: "cells", name: "Cells", order: -1, number: true, hide: "wide", value: (f) => f.nCells,
    about: "Cells in which it fires at least once" },
  { key: "entropy", name: "Gene spread", order: 1, number: true, hide: "wide", value: (f) => f.entropy,
    about: "Entropy of its activation over genes, in bits: 0 is a single gene" },
];
const table = { sort: "auroc", order: -1, query: "", shown: PAGE };

function cellOf(feature, column) {
  const top = feature.labels[0];
  switch (column.key) {
    case "feature":
      return make("button", { type: "button", class: "open", "aria-label": `Show feature ${feature.feature} on the map` }, String(feature.feature));
    case "genes":
      return make("span", { class: "genes" }, ...feature.genes.slice(0, 4).map((gene) => make("span", {}, gene.name)));
    case "label":
      return top ? make("span", { class: "type" }, make("i", { style: { background: hue(top.label) } }),
        make("span", {}, content.labels[top.label])) : "–";
    case "auroc": return top ? fixed(top.auroc, 3) : "–";
    case "odds": return top ? short(top.odds) : "–";
    case "fdr": return top ? make("span", { class: top.fdr > 0.05 ? "weak" : "" }, probability(top.fdr)) : "–";
    case "density": return percent(feature.density);
    case "cells": return count(feature.nCells);
    default: return fixed(feature.entropy, 1);
  }
}

function matching() {
  const words = table.query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = content.features.filter((feature) => words.every((word) => feature.words.includes(word)));
  const column = COLUMNS.find((entry) => entry.key === table.sort);
  return found.sort((a, b) => {
    const left = column.value(a), right = column.value(b);
    return (left < right ? -1 : left > right ? 1 : 0) * table.order || a.feature - b.feature;
  });
}

function drawTable() {
  byId("head").replaceChildren(...COLUMNS.map((column) => make("th", {
    scope: "col",
    class: [column.number && "number", column.hide].filter(Boolean).join(" ") || null,
    "aria-sort": table.sort === column.key ? (table.order > 0 ? "ascending" : "descending") : null,
  }, make("button", { type: "button", title: column.about, "data-sort": column.key, onclick: () => sortBy(column) }, column.name))));
  const found = matching();
  byId("rows").replaceChildren(...found.slice(0, table.shown).map((feature) => make("tr", {
    class: chosen === feature ? "chosen" : null,
    "data-feature": feature.feature,
    onclick: () => choose(feature),
  }, ...COLUMNS.map((column) => make("td", {
    class: [column.number && "number", column.hide].filter(Boolean).join(" ") || null,
  }, cellOf(feature, column))))));
  if (!found.length) {
    byId("rows").append(make("tr", {}, make("td", { colspan: COLUMNS.length, class: "empty" }, "No feature matches this search.")));
  }
  byId("count").textContent = `${count(found.length)} of ${count(content.nFeatures)} features` +
    (content.nSilent && !table.query ? ` (${count(content.nSilent)} never fire)` : "");
  const left = found.length - table.shown;
  byId("more").hidden = left <= 0;
  byId("more").textContent = `Show ${Math.min(left, PAGE * 2)} more`;
}

function sortBy(column) {
  table.order = table.sort === column.key ? -table.order : column.order;
  table.sort = column.key;
  drawTable();
  byId("head").querySelector(`[data-sort="${column.key}"]`).focus();
}

byId("search").addEventListener("input", (event) => {
  table.query = event.target.value;
  table.shown = PAGE;
  drawTable();
});
byId("more").addEventListener("click", () => {
  table.shown += PAGE * 2;
  drawTable();
});
