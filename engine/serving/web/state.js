// What the page shows: cells by position, what colours them, and which are chosen; with a way back.

import { bytes, json, levels } from "./server.js";

export const state = {
  facts: null, // what the server serves
  ids: new Float64Array(0), // id of the cell at each position, ascending
  layout: null,
  colour: null, // { kind: "column" | "gene" | "text" | "feature", name, levels, low, high, categories }
  chosen: [], // positions
  past: [],
};

const listeners = [];
export const onChange = (listener) => listeners.push(listener);
const changed = (what) => listeners.forEach((listener) => listener(what));

export async function load() {
  state.facts = await json("/v1/datasets");
  const [layout, { ranges, n_cells: n }] = await Promise.all([bytes("/v1/cells/layout"), json("/v1/cells/ids")]);
  state.layout = new Uint16Array(layout);
  state.ids = new Float64Array(n);
  let at = 0;
  for (const [start, stop] of ranges) for (let id = start; id < stop; id += 1, at += 1) state.ids[at] = id;
  changed("cells");
}

let asking = null;

/** Colour all cells; the newest wish wins. */
export async function colourBy(kind, name, remember = true) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const path = { column: "/v1/cells/columns/", gene: "/v1/genes/" }[kind];
  let found, categories = [];
  if (kind === "column") {
    [found, { categories }] = await Promise.all([
      levels(path + encodeURIComponent(name), undefined, signal),
      json(`${path}${encodeURIComponent(name)}/categories`, undefined, signal),
    ]);
  } else if (kind === "gene") found = await levels(`${path}${encodeURIComponent(name)}/expression`, undefined, signal);
  else if (kind === "text") found = await levels("/v1/score", { text: name }, signal);
  else found = ofFeature((await json(`/v1/features/${name}/cells`, undefined, signal)).cells);
  if (remember) keep();
  state.colour = { kind, name, categories, ...found };
  changed("colour");
}

// A feature is known at its strongest cells only.
function ofFeature(cells) {
  const found = new Uint8Array(state.ids.length), top = cells.length ? cells[0][1] : 0;
  for (const [id, value] of cells) {
    const position = positionOf(id);
    if (position >= 0) found[position] = 1 + Math.round((254 * value) / (top || 1));
  }
  return { levels: found, low: 0, high: top };
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
