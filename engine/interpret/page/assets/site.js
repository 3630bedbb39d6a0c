// Routes: #/ (the list, its state behind ?), #/feature/7, #/map, #/genes, #/compare/1, #/rates, #/failures, #/licences.
const PAGES = [
  ["", "Features", (state) => showList(state)],
  ["map", "Map", () => showMap()],
  ["genes", "Your genes", () => showGenes()],
  ["compare", "Other autoencoders", (_, value) => showCompare(value)],
  ["rates", "Chance", () => showRates()],
  ["failures", "What does not hold", () => showFailures()],
  ["licences", "Licences", () => showLicences()],
];

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, value] = path.split("/");
  mapState.paint = view = null;
  byId("tabs").replaceChildren(...PAGES.filter(([key]) => key !== "compare" || table.stability).map(([key, name]) => make("a", { href: `#/${key}`, "aria-current": key === page || (page === "feature" && key === "") ? "page" : null }, name)));
  const known = PAGES.find(([key]) => key === page);
  const shown = page === "feature" ? showFeature(Number(value)) : known ? known[2](new URLSearchParams(query || ""), value) : showMissing("There is no such page.");
  Promise.resolve(shown).catch(failed);
}

const failed = (error) => (error instanceof KeyWanted ? askForKey(error) : showMissing(String(error.message)));

addEventListener("hashchange", route);
addEventListener("resize", () => { view?.draw(); mapState.paint?.(); });
dark.addEventListener("change", () => mapState.paint?.());
load("table").then((value) => {
  table = value;
  stars.read();
  byId("footer").textContent = `${count(table.nFeatures)} features${table.nCells ? `, ${count(table.nCells)} cells` : ""}. Names are suggestions from the evidence shown; an association is not a meaning.`;
  route();
}).catch(failed).then(() => { document.body.dataset.ready = ""; });
