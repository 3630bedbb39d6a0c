// Cells as a table: what a search found or what is chosen; the way in for whom the map says nothing.

import { byId, element, round, table } from "./elements.js";
import { json } from "./server.js";
import { tried } from "./speech.js";
import { onChange, rangesOf, state } from "./state.js";

const SHOWN = 200;
let rows = [];

export function startHits() {
  byId("export").addEventListener("click", tried(save));
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
  rows = cells;
  const columns = Object.keys(cells[0]?.obs ?? {}).slice(0, 3);
  byId("hits").replaceChildren(table([
    { title: "Cell", of: (row) => row.name },
    ...(cells[0]?.score === undefined ? [] : [{ title: "Score", number: true, of: (row) => round(row.score, 3) }]),
    ...columns.map((column) => ({ title: column, of: (row) => row.obs[column] })),
  ], cells.slice(0, SHOWN)));
}

// All chosen cells (names of the first thousand), with their level where something colours them.
async function save() {
  const chosen = state.chosen.length ? state.chosen : [...state.ids.keys()];
  const { cells } = state.chosen.length ? await json("/v1/cells/names", { ranges: rangesOf(chosen.slice(0, 1000)) }) : { cells: rows };
  const names = new Map(cells.map((cell) => [cell.cell, cell.name]));
  const { colour } = state;
  const value = (position) => {
    if (!colour) return "";
    const level = colour.levels[position];
    if (!level) return "";
    return colour.categories[level - 1] ?? colour.low + ((level - 1) / 254) * (colour.high - colour.low);
  };
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const lines = chosen.map((position) => [state.ids[position], quoted(names.get(state.ids[position]) ?? ""), quoted(value(position))].join(","));
  const text = [["cell", "name", quoted(colour?.name ?? "colour")].join(","), ...lines].join("\n");
  const anchor = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: "cells.csv" });
  anchor.click();
  URL.revokeObjectURL(anchor.href);
}
