// Genes: one in every cell, and what sets two selections apart.

import { byId, element, many, round, table } from "./elements.js";
import { json } from "./server.js";
import { say, tried } from "./speech.js";
import { colourBy, rangesOf, state } from "./state.js";

const sides = { a: null, b: null };

export function startGenes() {
  let waiting;
  byId("gene").addEventListener("input", () => {
    clearTimeout(waiting);
    const prefix = byId("gene").value.trim();
    if (prefix) waiting = setTimeout(tried(async () => {
      const { genes } = await json(`/v1/genes?prefix=${encodeURIComponent(prefix)}`);
      byId("genes").replaceChildren(...genes.map((gene) => element("option", { value: gene })));
    }), 150);
  });
  byId("gene-form").addEventListener("submit", tried(async (event) => {
    event.preventDefault();
    if (byId("gene").value.trim()) await colourBy("gene", byId("gene").value.trim());
  }));
  for (const side of ["a", "b"]) byId(`set-${side}`).addEventListener("click", () => {
    sides[side] = state.chosen;
    tell();
  });
  byId("compare").addEventListener("click", tried(compare));
  tell();
}

function tell() {
  const size = (side) => (sides[side]?.length ? `${many(sides[side].length)} cells` : "");
  byId("sides").textContent = `A: ${size("a") || "the selection"}. B: ${size("b") || "all other cells"}.`;
}

async function compare() {
  const a = sides.a?.length ? sides.a : state.chosen;
  if (!a.length) {
    say("select cells first: draw around them, or click a category");
    return;
  }
  const b = sides.b?.length ? { ranges: rangesOf(sides.b) } : null, cells = { ranges: rangesOf(a) };
  const higher = [await json("/v1/markers", { cells, ...(b && { against: b }), most: 25 })];
  // Both ways where B was chosen; of all other cells, what the selection lacks is rarely of interest.
  if (b) higher.push(await json("/v1/markers", { cells: b, against: cells, most: 25 }));
  byId("markers").replaceChildren(...higher.flatMap(({ genes, compared }, side) => [
    element("h2", {}, `Higher in ${"AB"[side]}`),
    element("p", { class: "small" }, `${many(compared.selection)} and ${many(compared.rest)} cells were compared.`),
    listed(genes, "AB"[side], "BA"[side]),
  ]));
}

function listed(genes, here, there) {
  const colour = (gene) => element("button", { type: "button", onclick: tried(() => colourBy("gene", gene)) }, gene);
  return table([
    { title: "Gene", of: (row) => colour(row.gene) },
    { title: "log2 fold", number: true, of: (row) => round(row.log2_fold) },
    { title: "AUC", number: true, of: (row) => round(row.auc) },
    { title: `in ${here}`, number: true, of: (row) => `${round(100 * row.share, 0)} %` },
    { title: `in ${there}`, number: true, of: (row) => `${round(100 * row.share_of_rest, 0)} %` },
  ], genes);
}
