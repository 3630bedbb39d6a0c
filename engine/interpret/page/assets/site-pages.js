// Failures, rates, licences.
function showMissing(message) {
  byId("main").replaceChildren(make("p", { class: "lead" }, message));
}

function showFailures() {
  const parts = FLAGS.filter((flag) => flag.key !== "batch" || table.batchesKnown).map((flag) => {
    const rows = [];
    for (let row = 0; row < table.nFeatures; row++) if (table.flags[row] & flag.bit) rows.push(row);
    const shown = rows.slice(0, 40);
    return card(`${flag.name[0].toUpperCase()}${flag.name.slice(1)}: ${count(rows.length)}`, `${percent(rows.length / table.nFeatures)} of the features: ${flag.about}.`,
      make("p", { class: "chips" }, ...shown.map((row) => linkTo(number(row))), rows.length > shown.length ? make("a", { class: "quiet", href: `#/?flag=${flag.key}` }, `all ${count(rows.length)}`) : null));
  });
  byId("main").replaceChildren(make("section", { class: "first" }, make("div", { class: "section-head" }, make("h2", {}, "What does not hold"),
    make("p", {}, `Features that a reader should not build on, and why. One that is not here is not thereby shown to mean something.${table.batchesKnown ? "" : " Nothing is known about batches: the site was made without --batch."}`)),
    make("div", { class: "cards" }, densities(), ...parts)));
}

// From one token in a million to all of them, a third of a power of ten a bar.
function densities() {
  const bins = new Array(18).fill(0);
  let alive = 0;
  for (const density of table.density) {
    if (!density) continue;
    alive++;
    bins[Math.min(17, Math.max(0, Math.floor((Math.log10(density) + 6) * 3)))]++;
  }
  return card("How often features fire", `${count(alive)} that fire at all, by the share of gene tokens they fire on, on a log scale.`, distribution("How many features fire on which share of tokens", bins, ["0.0001 %", "100 %"], [[5 / 6, "a tenth"]]));
}

async function showRates() {
  const { rates: rows } = await load("sources");
  if (!rows.length) return showMissing("This site was made without enrichment.");
  byId("main").replaceChildren(make("section", { class: "first" }, make("div", { class: "section-head" }, make("h2", {}, "How much of it is chance"),
    make("p", {}, "Every rate beside what gene labels shuffled among equally annotated, equally expressed genes give. A ratio near 1 means that the annotation of the genes explains the findings.")),
    make("div", { class: "pane card" }, grid(
      [["Subject"], ["Source"], ["Terms", "number middling"], ["Significant pairs", "number"], ["By chance", "number"], ["Chance / found", "number"], ["Features with a term", "number"], ["By chance", "number middling"]],
      rows.map(({ subject, source, numbers }) => [subject, source, count(numbers[0]), count(numbers[2]), numbers[3] === null ? "–" : short(numbers[3]), numbers[4] === null ? "–" : short(numbers[4]), `${count(numbers[6])} of ${count(numbers[5])}`, numbers[7] === null ? "–" : short(numbers[7])])))));
}

async function showLicences() {
  const { licences, hidden } = await load("sources");
  const link = (url) => (typeof url === "string" && /^https?:\/\//.test(url) ? make("a", { class: "open", href: url, rel: "noreferrer" }, url) : url ?? "–");
  byId("main").replaceChildren(make("section", { class: "first" }, make("div", { class: "section-head" }, make("h2", {}, "Sources and licences"),
    make("p", {}, table.public ? (hidden.length ? `Rows of ${hidden.join(", ")} are left out: they may not be shown to others.` : "Made for others: no source had to be left out.") : "Made for use in house. Before publishing it make it with --public: that leaves out sources that may not be shown to others.")),
    licences.length ? make("div", { class: "pane card" }, grid([["Source"], ["Release"], ["Licence"], ["Attribution", "middling"]], licences.map((row) => [make("span", {}, make("b", {}, row.source), make("div", { class: "note" }, row.title ?? "")), row.release ?? "–", make("span", {}, row.licence ?? "as the file's owner says", make("div", { class: "note" }, link(row.licence_url))), row.attribution ?? "–"]))) : make("p", { class: "lead" }, "No database went into this site.")));
}
