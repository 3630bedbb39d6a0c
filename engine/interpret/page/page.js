// Puts the parts together; `chosen` is the feature on the map, or null for cell types.
function choose(feature) {
  chosen = feature;
  byId("legend-pane").hidden = Boolean(feature);
  byId("detail-pane").hidden = !feature;
  byId("ramp").hidden = !feature;
  tooltip.hidden = true;
  if (feature) {
    byId("detail-pane").replaceChildren(detailOf(feature));
    byId("ramp-max").textContent = short(feature.max);
    byId("ramp").querySelector("i").style.background = rampGradient();
    byId("map-caption").textContent = `Largest activation of feature ${feature.feature} in each cell`;
    byId("detail-pane").parentElement.scrollTop = 0;
    const box = canvas.getBoundingClientRect();
    if (box.top < 0 || box.top > window.innerHeight * 0.6) {
      byId("explore-title").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
    }
  } else {
    byId("map-caption").textContent = `UMAP of ${count(content.nCells)} cell embeddings, coloured by ${content.labelColumn.toLowerCase()}`;
  }
  for (const row of byId("rows").children) {
    row.classList.toggle("chosen", Boolean(feature) && row.dataset.feature === String(feature.feature));
  }
  history.replaceState(null, "", feature ? `#feature-${feature.feature}` : location.pathname + location.search);
  drawMap();
}

function drawStreet() {
  byId("street").replaceChildren(...content.street.map((step) => make("li", {},
    make("span", { class: "name" }, step.name), make("span", { class: "figure" }, step.figure),
    make("span", { class: "unit" }, step.unit))));
}

function drawMeasures() {
  byId("measures").replaceChildren(...content.measures.map((measure) => make("div", { class: measure.ours ? "ours" : null },
    make("dt", {}, measure.name),
    make("dd", {}, make("div", { class: "figure" }, measure.figure), make("div", { class: "note" }, measure.note)))));
}

function drawCommands() {
  byId("commands").replaceChildren(...content.commands.map((entry) => make("li", {},
    make("div", {}, make("code", {}, entry.command), make("span", {}, entry.purpose)))));
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
drawStreet();
drawMeasures();
drawCommands();
drawLegend();
drawCurves();
drawTable();
const linked = /^#feature-(\d+)$/.exec(location.hash);
choose(content.features.find((feature) => linked && feature.feature === Number(linked[1])) || null);
addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen) choose(null); });
dark.addEventListener("change", () => { drawCurves(); choose(chosen); });
