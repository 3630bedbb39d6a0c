// Cells as a table: what a search found or what is chosen; the way in for whom the map says nothing.

import { byId, element, many, round, table } from "./elements.js";
import { blob, json } from "./server.js";
import { say, tried } from "./speech.js";
import { onChange, rangesOf, state } from "./state.js";

const SHOWN = 200;

export function startHits() {
  byId("export").addEventListener("click", tried(() => save("csv")));
  byId("export-h5ad").addEventListener("click", tried(() => save("h5ad")));
  byId("export-h5ad").hidden = !state.facts.counts;
  onChange(tried(async (what) => {
    if (what !== "chosen" || !state.chosen.length) return;
    const { cells } = await json("/v1/cells/names", { ranges: rangesOf(state.chosen.slice(0, SHOWN)) });
    showCells(cells);
  }));
}

export const showFirstCells = tried(async () => {
  const first = rangesOf([...state.ids.keys()].slice(0, SHOWN));
  showCells((await json("/v1/cells/names", { ranges: first })).cells);
});

export function showCells(cells) {
  const columns = Object.keys(cells[0]?.obs ?? {}).slice(0, 3);
  byId("hits").replaceChildren(table([
    { title: "Cell", of: (row) => row.name },
    ...(cells[0]?.score === undefined ? [] : [{ title: "Score", number: true, of: (row) => round(row.score, 3) }]),
    ...columns.map((column) => ({ title: column, of: (row) => row.obs[column] })),
  ], cells.slice(0, SHOWN)));
}

// The server writes the file: the chosen cells or all, with the score of the text that colours them.
async function save(format) {
  const cells = state.chosen.length ? { ranges: rangesOf(state.chosen) } : { all: true };
  const { id } = await json("/v1/selections", cells);
  const text = state.colour?.kind === "text" ? `&text=${encodeURIComponent(state.colour.name)}` : "";
  say("writing the file");
  const file = URL.createObjectURL(await blob(`/v1/selections/${id}/export?format=${format}${text}`));
  element("a", { href: file, download: `cells.${format}` }).click();
  URL.revokeObjectURL(file);
  say(`${many(state.chosen.length || state.ids.length)} cells exported`);
}
