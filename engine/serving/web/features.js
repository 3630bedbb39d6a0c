// Features of the autoencoder: a list, those of a gene, those of the chosen cells; a click colours by one.

import { byId, element, round, table } from "./elements.js";
import { json } from "./server.js";
import { say, tried } from "./speech.js";
import { colourBy, rangesOf, state } from "./state.js";

export function startFeatures() {
  if (!state.facts.features) {
    byId("features").replaceChildren(element("p", { class: "small" }, "This server has no features; start it with --features."));
    byId("feature-form").hidden = true;
    return;
  }
  byId("feature-form").addEventListener("submit", tried(async (event) => {
    event.preventDefault();
    await list(byId("feature-gene").value.trim());
  }));
  byId("features-here").addEventListener("click", tried(async () => {
    if (!state.chosen.length) {
      say("select cells first");
      return;
    }
    const { features } = await json("/v1/features/of-cells", { cells: { ranges: rangesOf(state.chosen) } });
    byId("features").replaceChildren(table([
      { title: "Feature", of: (row) => picker(row.feature) },
      { title: "strongest cells here", number: true, of: (row) => `${row.top_cells_here} of ${row.top_cells}` },
      { title: "Genes", of: (row) => row.genes.join(", ") },
    ], features));
  }));
  tried(list)("");
}

async function list(gene) {
  const { features, total } = await json(`/v1/features?most=100${gene ? `&gene=${encodeURIComponent(gene)}` : ""}`);
  byId("features").replaceChildren(
    element("p", { class: "small" }, `${features.length} of ${total} features, most frequent first.`),
    table([
      { title: "Feature", of: (row) => picker(row.feature) },
      { title: "Top gene", of: (row) => row.top_gene },
      { title: "Label", of: (row) => row.best_label },
      { title: "Density", number: true, of: (row) => round(row.density, 4) },
    ], features));
}

const picker = (number) => element("button", { type: "button", onclick: tried(async () => {
  await colourBy("feature", String(number));
  const found = await json(`/v1/features/${number}`);
  say(`feature ${number}: ${found.top_genes.slice(0, 8).map((gene) => gene.gene_name).join(", ")}`);
}) }, number);
