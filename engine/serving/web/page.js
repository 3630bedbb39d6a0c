// The page: a map of the cells, and panels that colour, choose, compare and ask.

import { startChat } from "./chat.js";
import { categoryColour, isDark, rampColour, signedColour } from "./colours.js";
import { brief, byId, dot, element, many, ramp } from "./elements.js";
import { startGenes } from "./genes.js";
import { startFeatures } from "./features.js";
import { showCells, startHits } from "./hits.js";
import { startMap } from "./map.js";
import { startPerturb } from "./perturb.js";
import { json, useKey } from "./server.js";
import { say, tried } from "./speech.js";
import { choose, colourBy, load, onChange, positionOf, positionsOf, rangesOf, state, undo } from "./state.js";

function legend() {
  const { colour } = state, box = byId("legend");
  box.replaceChildren();
  if (!colour) return;
  box.append(element("strong", {}, titleOf(colour)));
  if (colour.categories.length) {
    const counts = new Uint32Array(256);
    for (const level of colour.levels) counts[level] += 1;
    colour.categories.forEach((name, index) => {
      if (!counts[index + 1]) return;
      const pick = () => choose([...colour.levels.keys()].filter((position) => colour.levels[position] === index + 1));
      box.append(element("button", { type: "button", onclick: pick }, dot(categoryColour(index + 1)), `${name} (${many(counts[index + 1])})`));
    });
    return;
  }
  const paint = colour.isSigned ? signedColour : rampColour;
  box.append(ramp((share) => paint(share, isDark())));
  box.append(element("div", { class: "ends" }, element("span", {}, brief(colour.low)), element("span", {}, brief(colour.high))));
  if (colour.note) box.append(element("p", { class: "small" }, colour.note));
}

function titleOf({ kind, name }) {
  if (kind === "feature") return `Feature ${name}`;
  if (kind !== "change") return name;
  const [perturbation, , gene] = name.split("|").map(decodeURIComponent);
  return gene ? `${gene} after losing ${perturbation}` : `Change after losing ${perturbation}`;
}

function provenance() {
  const { cells, texts, counts, features, perturbations } = state.facts;
  const parts = [`${cells.index} version ${cells.version}, dataset ${cells.dataset_id.slice(0, 12)}, ${many(cells.n_cells)} cells, ${cells.width} dimensions`];
  if (texts) parts.push(`joint model ${texts.fingerprint.slice(0, 12)}`);
  if (counts) parts.push(`${many(counts.n_genes)} genes`);
  if (features) parts.push(`${many(features.n_features)} features`);
  if (perturbations) parts.push(`perturbation model of ${perturbations.trained.length} perturbations`);
  if (cells.layouts.length < 2) parts.push("map: the plane in which the cells' vectors spread most");
  byId("provenance").textContent = parts.join(" · ");
}

function columns() {
  const shown = state.facts.cells.columns.filter(({ kind }) => kind !== "text");
  byId("columns").replaceChildren(...shown.map(({ name }) =>
    element("button", { type: "button", onclick: tried(() => colourBy("column", name)) }, name)));
}

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const open = (tab) => {
    for (const each of all) {
      each.setAttribute("aria-selected", each === tab);
      each.tabIndex = each === tab ? 0 : -1;
      byId(each.getAttribute("aria-controls")).hidden = each !== tab;
    }
  };
  for (const [index, tab] of all.entries()) {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(index + step + all.length) % all.length];
      next.focus();
      open(next);
    });
  }
  open(all[0]);
  return (name) => open(byId(`tab-${name}`));
}

function finding(openTab) {
  let waiting;
  byId("question").addEventListener("input", () => {
    clearTimeout(waiting);
    const text = byId("question").value.trim();
    if (text.length > 1 && state.facts?.texts) waiting = setTimeout(tried(() => colourBy("text", text)), 250);
  });
  byId("find").addEventListener("submit", tried(async (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    const text = byId("question").value.trim(), where = byId("condition").value.trim() || null;
    if (!text && where) {
      choose(positionsOf((await json(`/v1/cells/ids?where=${encodeURIComponent(where)}`)).ranges));
      return;
    }
    if (!text) return;
    const found = await json("/v1/search", { text, where, k: 100 });
    await colourBy("text", text);
    choose(found.hits.map((hit) => positionOf(hit.cell)).filter((position) => position >= 0).sort((a, b) => a - b));
    showCells(found.hits);
    openTab("hits");
    say(`${many(found.hits.length)} of ${many(found.n_passing)} cells${found.truncated ? "; the text was cut" : ""}`);
  }));
}

// A view is in the address: what colours the cells, which are chosen, where one looks.
function link(map) {
  const view = new URLSearchParams();
  if (state.colour) view.set("colour", `${state.colour.kind}:${state.colour.name}`);
  if (state.chosen.length) view.set("cells", rangesOf(state.chosen).slice(0, 400).map(([a, b]) => (b === a + 1 ? a : `${a}-${b}`)).join(","));
  if (map) view.set("view", [map.view.x, map.view.y, map.view.zoom].map((part) => part.toFixed(4)).join(","));
  history.replaceState(null, "", `#${view}`);
  return location.href;
}

async function follow(map) {
  const view = new URLSearchParams(location.hash.slice(1));
  const [kind, ...name] = (view.get("colour") ?? "").split(":");
  const first = state.facts.cells.columns.find((column) => column.kind === "category");
  if (["column", "gene", "text", "feature", "change"].includes(kind)) await colourBy(kind, name.join(":"), false);
  else if (first) await colourBy("column", first.name, false);
  const cells = (view.get("cells") ?? "").split(",").filter((part) => /^\d+(-\d+)?$/.test(part));
  if (cells.length) choose(positionsOf(cells.map((part) => part.split("-").map(Number)).map(([a, b]) => [a, b ?? a + 1])), false);
  const at = (view.get("view") ?? "").split(",").map(Number);
  if (map && at.length === 3 && at.every(Number.isFinite)) [map.view.x, map.view.y, map.view.zoom] = at;
}

// "/" asks, Ctrl+Z goes back; in a field both mean what they mean there.
function shortcuts() {
  addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, select")) return;
    if (event.key === "/") byId("question").focus();
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
    else return;
    event.preventDefault();
  });
}

async function start() {
  const openTab = tabs();
  await load();
  const map = startMap();
  onChange((what) => {
    if (what === "colour") legend();
    if (what === "chosen") say(state.chosen.length ? `${many(state.chosen.length)} cells selected` : `${many(state.ids.length)} cells`);
    byId("undo").disabled = !state.past.length;
  });
  provenance();
  columns();
  finding(openTab);
  startChat(openTab);
  startGenes();
  startPerturb();
  startFeatures();
  startHits();
  byId("undo").addEventListener("click", undo);
  shortcuts();
  byId("share").addEventListener("click", tried(async () => {
    await navigator.clipboard.writeText(link(map));
    say("link copied");
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { map?.recolour(); legend(); });
  await follow(map);
  if (!state.chosen.length) say(`${many(state.ids.length)} cells`);
  document.body.dataset.ready = "yes";
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  location.reload();
});
tried(start)();
