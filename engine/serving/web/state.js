// What the page shows: cells by position, what colours them, and which are chosen; with a way back.

import { bytes, json, levels } from "./server.js";

export const state = {
  facts: null, // what the server serves
  ids: new Float64Array(0), // id of the cell at each position, ascending
  layout: null,
  // { kind: "column" | "gene" | "text" | "feature" | "change", name, levels, low, high, categories, note }
  colour: null,
  chosen: [], // positions
  past: [],
};

const listeners = [];
export const onChange = (listener) => listeners.push(listener);
const changed = (what) => listeners.forEach((listener) => listener(what));

export async function load() {
  state.facts = await json("/v1/datasets");
  const [, { ranges, n_cells: n }] = await Promise.all([useLayout(), json("/v1/cells/ids")]);
  state.ids = new Float64Array(n);
  let at = 0;
  for (const [start, stop] of ranges) for (let id = start; id < stop; id += 1, at += 1) state.ids[at] = id;
  changed("cells");
}

/** Put the cells where a layout has them; the first one unless another is named. */
export async function useLayout(name) {
  state.layout = new Uint16Array(await bytes(`/v1/cells/layout${name ? `?name=${encodeURIComponent(name)}` : ""}`));
  changed("layout");
}

let asking = null;

/** Colour all cells; the newest wish wins. */
export async function colourBy(kind, name, remember = true) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const path = { column: "/v1/cells/columns/", gene: "/v1/genes/" }[kind];
  let found, note = "", categories = [];
  if (kind === "column") {
    [found, { categories }] = await Promise.all([
      levels(path + encodeURIComponent(name), undefined, signal),
      json(`${path}${encodeURIComponent(name)}/categories`, undefined, signal),
    ]);
  } else if (kind === "gene") found = await levels(`${path}${encodeURIComponent(name)}/expression`, undefined, signal);
  else if (kind === "text") found = await levels("/v1/score", { text: name }, signal);
  else if (kind === "change") ({ note, ...found } = await changeOf(name, signal));
  else {
    found = await levels(`/v1/features/${name}/levels`, undefined, signal);
    const [listed, fired] = ["Listed", "Fired"].map((end) => Number(found.headers.get(`X-Cells-${end}`)));
    note = listed < fired ? `known in its ${listed} strongest of ${fired} cells` : `fires in ${fired} cells`;
  }
  if (remember) keep();
  state.colour = { kind, name, categories, note, ...found };
  changed("colour");
}

// A prediction is of the mean cell of each category. Named `perturbation|column|gene|context`; without a gene
// it is the size of the change of all genes.
async function changeOf(name, signal) {
  const [perturbation, column, gene, context] = name.split("|").map(decodeURIComponent);
  const body = { perturbation, column, gene: gene || null, context: context || null };
  const [{ groups }, codes] = await Promise.all([
    json("/v1/perturb/groups", body, signal),
    levels(`/v1/cells/columns/${encodeURIComponent(column)}`, undefined, signal),
  ]);
  const changes = groups.map((group) => group.change);
  const most = Math.max(...changes.map(Math.abs), 1e-9);
  // Changes of one gene go both ways from zero, which is in the middle. Sizes that are all but the same look so.
  const least = Math.min(...changes, most);
  const low = gene ? -most : least > 0.95 * most ? 0 : least;
  const level = new Uint8Array(256);
  for (const { category, change } of groups) level[category] = 1 + Math.round((254 * (change - low)) / (most - low || 1));
  return { levels: codes.levels.map((code) => level[code]), low, high: most, isSigned: Boolean(gene), note: `predicted for the mean cell of each ${column}` };
}

export function choose(positions, remember = true) {
  if (remember) keep();
  state.chosen = positions;
  changed("chosen");
}

function keep() {
  state.past.push({ colour: state.colour, chosen: state.chosen });
  if (state.past.length > 50) state.past.shift();
}

export function undo() {
  const before = state.past.pop();
  if (!before) return;
  state.colour = before.colour;
  state.chosen = before.chosen;
  changed("colour");
  changed("chosen");
}

export function positionOf(id) {
  let low = 0, high = state.ids.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (state.ids[middle] === id) return middle;
    if (state.ids[middle] < id) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** Positions of the cells of half-open ranges of ids. */
export function positionsOf(ranges) {
  const found = [];
  for (const [start, stop] of ranges) for (let id = start; id < stop; id += 1) {
    const position = positionOf(id);
    if (position >= 0) found.push(position);
  }
  return found;
}

/** Half-open ranges of the ids at ascending positions. */
export function rangesOf(positions) {
  const ranges = [];
  for (const position of positions) {
    const id = state.ids[position], last = ranges.at(-1);
    if (last && last[1] === id) last[1] = id + 1;
    else ranges.push([id, id + 1]);
  }
  return ranges;
}
