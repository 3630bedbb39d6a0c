// What losing a gene would do to the chosen cells: each change with its uncertainty, and what simpler rules say.

import { byId, element, many, round, table } from "./elements.js";
import { json } from "./server.js";
import { say, tried } from "./speech.js";
import { colourBy, rangesOf, state } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";
let asked = null;

export function startPerturb() {
  const facts = state.facts.perturbations;
  if (!facts || !state.facts.counts) {
    byId("predicted").replaceChildren(element("p", { class: "small" }, "This server predicts no perturbations; start it with --perturbation and --cells."));
    byId("perturb-form").hidden = true;
    return;
  }
  const options = (names) => names.map((name) => element("option", { value: name }, name));
  byId("perturbations").replaceChildren(...options(facts.trained));
  byId("context").replaceChildren(...options(facts.contexts));
  byId("context").hidden = facts.contexts.length < 2;
  const columns = state.facts.cells.columns.filter(({ kind }) => kind === "category").map(({ name }) => name);
  byId("perturb-column").replaceChildren(...options(columns));
  byId("perturb-form").addEventListener("submit", tried(async (event) => {
    event.preventDefault();
    await predict(byId("perturbation").value.trim());
  }));
  byId("perturb-colour").addEventListener("click", tried(() => colourByChange("")));
}

const context = () => (byId("context").hidden ? "" : byId("context").value);
const colourByChange = (gene) => colourBy("change", [asked, byId("perturb-column").value, gene, context()].map(encodeURIComponent).join("|"));

async function predict(perturbation) {
  if (!perturbation) return;
  const cells = state.chosen.length ? { ranges: rangesOf(state.chosen) } : { all: true };
  say("predicting");
  const found = await json("/v1/perturb", { perturbation, cells, context: context() || null, most: 30 });
  asked = found.targets.join("+");
  byId("perturb-map").hidden = !byId("perturb-column").options.length;
  byId("predicted").replaceChildren(...account(found), changes(found.genes));
  say(`${asked}: ${found.genes.length} genes that would change most`);
}

// Said before the numbers: whether this was trained on, what is not known, and which simple rule it repeats.
function account({ n_cells: n, trained, warnings, likeness, genes_not_measured: missing }) {
  const lines = [`Of the mean of ${many(n)} cells. ${trained ? "This perturbation was in the training screen." : "This perturbation was not in the training screen."}`];
  if (missing.length) lines.push(`${many(missing.length)} of the model's genes are not measured here and count as zero.`);
  const rules = Object.entries(likeness ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${round(value)}`);
  if (rules.length) lines.push(`Correlation with simpler rules: ${rules.join(", ")}.`);
  return [
    ...warnings.map((text) => element("p", { class: "small warning" }, text)),
    ...lines.map((text) => element("p", { class: "small" }, text)),
    element("p", { class: "small" }, "Bars: predicted change of log expression; line: two standard deviations; red tick: the mean of all perturbations."),
  ];
}

function changes(genes) {
  const meanOf = (row) => row.baselines?.mean_delta ?? 0;
  const most = Math.max(...genes.map((row) => Math.max(Math.abs(row.change) + 2 * row.uncertainty, Math.abs(meanOf(row)))), 1e-9);
  return table([
    { title: "Gene", of: (row) => element("div", {}, picker(row.gene), bar(row.change / most, (2 * row.uncertainty) / most, meanOf(row) / most)) },
    { title: "Change", number: true, of: (row) => `${round(row.change)} ± ${round(row.uncertainty)}` },
    { title: "Prior", number: true, of: (row) => round(row.prior) },
    { title: "Mean", number: true, of: (row) => round(meanOf(row)) },
  ], genes);
}

const picker = (gene) => element("button", { type: "button", title: "Colour the map by it", onclick: tried(() => colourByChange(gene)) }, gene);

// Shares of half the width, from the middle.
function bar(change, reach, mean) {
  const svg = made("svg", { viewBox: "0 0 100 12", class: "bars", preserveAspectRatio: "none", "aria-hidden": "true" });
  const at = (share) => 50 + 50 * Math.max(-1, Math.min(1, share));
  const side = change < 0 ? "rgb(0 114 178)" : "rgb(213 94 0)";
  svg.append(
    made("rect", { x: Math.min(50, at(change)), y: 2, width: Math.abs(at(change) - 50), height: 8, fill: side, opacity: 0.75 }),
    made("line", { x1: at(change - reach), x2: at(change + reach), y1: 6, y2: 6, class: "reach" }),
    made("line", { x1: at(mean), x2: at(mean), y1: 0, y2: 12, class: "mean" }),
    made("line", { x1: 50, x2: 50, y1: 0, y2: 12, class: "axis" }),
  );
  return svg;
}

function made(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
