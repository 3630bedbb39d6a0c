// Routes: #/ (the list, its state behind ?), #/feature/7, #/map, #/failures, #/genes, #/rates, #/licences.
const PAGES = [
  ["", "Features", (state) => showList(state)],
  ["map", "Map", () => showMap()],
  ["genes", "Your genes", () => showGenes()],
  ["rates", "Chance", () => showRates()],
  ["failures", "What does not hold", () => showFailures()],
  ["licences", "Licences", () => showLicences()],
];

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, value] = path.split("/");
  mapState.paint = null;
  byId("tabs").replaceChildren(...PAGES.map(([key, name]) => make("a", { href: `#/${key}`, "aria-current": key === page || (page === "feature" && key === "") ? "page" : null }, name)));
  const known = PAGES.find(([key]) => key === page);
  const shown = page === "feature" ? showFeature(Number(value)) : known ? known[2](new URLSearchParams(query || "")) : showMissing("There is no such page.");
  Promise.resolve(shown).catch((error) => showMissing(String(error.message)));
}

addEventListener("hashchange", route);
addEventListener("resize", () => { drawRows(); mapState.paint?.(); });
dark.addEventListener("change", () => mapState.paint?.());
load("table").then((value) => {
  table = value;
  stars.read();
  byId("footer").textContent = `${count(table.nFeatures)} features${table.nCells ? `, ${count(table.nCells)} cells` : ""}. Names are suggestions from the evidence shown; an association is not a meaning.`;
  route();
});
