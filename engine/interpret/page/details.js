// What one feature responds to, beside the map.
function geneBars(feature) {
  return bars("genes-of", feature.genes.map((gene) => ({
    name: gene.name,
    length: gene.score,
    value: `${count(gene.n)} of ${count(gene.of)}`,
    title: `${gene.name}: mean activation ${short(gene.score)}; fires on ${count(gene.n)} of its ${count(gene.of)} tokens`,
  })));
}

function labelBars(feature) {
  return bars("types", feature.labels.map((entry) => ({
    name: content.labels[entry.label],
    colour: hue(entry.label),
    length: Math.max(entry.auroc - 0.5, 0),
    value: fixed(entry.auroc, 2),
    title: `Fires in ${count(entry.hits)} of ${count(entry.of)} cells; odds ratio ${short(entry.odds)}, ` +
      `FDR ${probability(entry.fisherFdr)}; AUROC ${fixed(entry.auroc, 3)}, FDR ${probability(entry.fdr)}`,
  })));
}

function topCells(feature) {
  return make("ul", { class: "cells" }, ...feature.cells.map(([cell, peak]) => make("li", {},
    make("span", {}, cells.name[cell]),
    make("span", {}, cells.label[cell] < 0 ? "no label" : content.labels[cells.label[cell]]),
    make("span", {}, short(peak)))));
}

function detailOf(feature) {
  const best = feature.labels[0];
  const parts = [
    make("div", { class: "detail-head" },
      make("h3", { tabindex: "-1", id: "detail-title" }, `Feature ${feature.feature}`),
      make("button", { type: "button", class: "quiet", onclick: () => choose(null) }, "Back to cell types")),
    facts([
      ["Fires on", `${percent(feature.density)} of gene tokens`],
      ["Cells", `${count(feature.nCells)} of ${count(content.nCells)}`],
      ["Largest activation", short(feature.max)],
      ["Mean where it fires", short(feature.mean)],
      ["Spread over genes", `${fixed(feature.entropy, 1)} bits`],
      ["Odds ratio, FDR", best ? `${short(best.odds)}, ${probability(best.fisherFdr)}` : "–"],
    ]),
    make("h4", {}, "Genes by mean activation, and how many of their tokens fire"),
    geneBars(feature),
  ];
  if (best) parts.push(make("h4", {}, "Cell types by AUROC (0.5 says nothing)"), labelBars(feature));
  parts.push(make("h4", {}, "Strongest cells"), topCells(feature));
  return make("div", { class: "detail" }, ...parts);
}
