// Two autoencoders side by side: which features both have, which only one.
const compared = { other: null, kind: "shared", query: "" };
const KINDS = [["shared", "in both"], ["ours", "only here"], ["theirs", "only there"]];

async function showCompare(value) {
  if (!table.stability) return showMissing("This site was made without a comparison of autoencoders.");
  const { ours, sameAbove, others } = await load("compare");
  const other = others.find((one) => String(one.number) === value) || others[0];
  const pairs = await load(`compare/${other.number}`);
  compared.other = other;
  const [share, back] = other.share;
  const pick = make("select", { id: "other", "aria-label": "Autoencoder", onchange: (event) => { location.hash = `#/compare/${event.target.value}`; } },
    ...others.map((one) => make("option", { value: one.number, selected: one === other }, one.name)));
  const measured = { decoder: "cosine of the directions they write", tokens: "correlation over the same tokens", cells: "correlation over the same cells" }[other.by];
  const sameLabel = pairs.labels && table.labels.length ? agreement(pairs, sameAbove) : null;
  const figures = facts([
    ["Features", `${count(table.nFeatures)} here, ${count(other.features)} there`],
    ["Hook point there", other.hook || "–"],
    ["Ours found there", percent(share)], ["Theirs found here", percent(back)],
    ["Each other's best", percent(other.mutual)], ["Found by chance", percent(other.chance)],
    ...(sameLabel === null ? [] : [["Pairs with one cell label", percent(sameLabel)]]),
    ...(other.cka === null ? [] : [["Cells look alike (CKA)", fixed(other.cka, 2)]]),
  ]);
  const bins = new Array(20).fill(0);
  for (const alike of pairs.similarity) bins[Math.min(19, Math.floor(Math.max(alike, 0) * 20))]++;
  const lists = virtual("Pairs of features", pairColumns(pairs), (pair) => ({
    "data-pair": `${pair.ours}/${pair.theirs}`, onclick: pair.ours < 0 ? null : () => { location.hash = `#/feature/${pair.ours}`; },
  }));
  byId("main").replaceChildren(make("section", { class: "first" },
    make("div", { class: "section-head" }, make("h2", {}, `${ours} beside ${other.name}`),
      make("p", {}, `Most alike by ${measured}; found means above ${sameAbove}. What does not come back from another seed may say more about the training than about cells.`)),
    make("div", { class: "cards" }, card("What they share", null, make("p", {}, pick), figures),
      card("How alike the best partner is", "Of our features, silent ones included; a bar is a twentieth.", distribution("Similarity to the most alike feature there", bins, ["0", "1"], [[sameAbove, "the same"]]))),
    make("div", { class: "pane table-pane pairs" },
      make("div", { class: "table-tools" },
        make("label", { class: "search" }, make("span", { class: "sr" }, "Search"), make("input", { id: "search", type: "search", value: compared.query, placeholder: "Gene, cell label, number or words", autocomplete: "off", oninput: (event) => { compared.query = event.target.value; fillPairs(pairs, sameAbove); } })),
        make("select", { id: "kind", "aria-label": "Which features", onchange: (event) => { compared.kind = event.target.value; fillPairs(pairs, sameAbove); } }, ...KINDS.map(([key, name]) => make("option", { value: key, selected: key === compared.kind }, name))),
        make("p", { id: "count", role: "status" })),
      lists.element, make("p", { class: "empty", id: "none", hidden: true }, "No feature matches."))));
  lists.heads(lists.columns.map((column) => ({ attributes: {}, content: column.name })));
  fillPairs(pairs, sameAbove);
}

// Share of the pairs that are each other's best, and alike enough, whose best cell label is the same.
function agreement(pairs, sameAbove) {
  const both = pairs.mutual.filter((row) => pairs.similarity[row] > sameAbove && labelOf(row) !== null);
  return both.length ? both.filter((row) => labelOf(row) === pairs.labels[pairs.best[row]]).length / both.length : null;
}

const genesThere = (pairs, theirs) => (theirs < 0 ? "–" : pairs.genes[theirs] || "–");
function pairColumns(pairs) {
  return [
    { name: "Here", width: "62px", cell: ({ ours }) => (ours < 0 ? "–" : linkTo(ours)) },
    { name: "Name or genes", width: "minmax(0, 1.6fr)", cell: ({ ours }) => text(ours < 0 ? null : nameOf(rowOf(ours))) },
    { name: "Cell label", width: "minmax(0, 1fr)", hide: "wide", cell: ({ ours }) => text(ours < 0 || !table.labels.length ? null : labelOf(rowOf(ours))) },
    { name: "Alike", width: "54px", number: true, cell: ({ alike }) => fixed(alike, 2) },
    { name: "Mutual", width: "58px", hide: "middling", cell: ({ mutual }) => (mutual ? "yes" : "no") },
    { name: "There", width: "58px", number: true, cell: ({ theirs }) => (theirs < 0 ? "–" : String(theirs)) },
    { name: "Its genes", width: "minmax(0, 1.3fr)", hide: "middling", cell: ({ theirs }) => text(genesThere(pairs, theirs)) },
    { name: "Its cell label", width: "minmax(0, 1fr)", hide: "wide", cell: ({ theirs }) => text(theirs < 0 || !pairs.labels ? null : pairs.labels[theirs]) },
  ];
}

function fillPairs(pairs, sameAbove) {
  const mutual = new Set(pairs.mutual), found = [];
  if (compared.kind === "theirs") {
    pairs.back.forEach((best, theirs) => {
      if (pairs.backSimilarity[theirs] <= sameAbove && pairs.density?.[theirs] !== 0) found.push({ ours: best < 0 ? -1 : number(best), theirs, alike: pairs.backSimilarity[theirs], mutual: best >= 0 && mutual.has(best) && pairs.best[best] === theirs });
    });
  } else {
    pairs.best.forEach((best, row) => {
      const same = pairs.similarity[row] > sameAbove;
      if (same === (compared.kind === "shared") && !(table.flags[row] & 1)) found.push({ ours: number(row), theirs: best, alike: pairs.similarity[row], mutual: mutual.has(row) });
    });
  }
  const words = compared.query.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = found.filter(({ ours, theirs }) => {
    const spoken = `${ours < 0 ? "" : textOf(rowOf(ours))} ${theirs} ${genesThere(pairs, theirs)} ${(pairs.labels && pairs.labels[theirs]) || ""}`.toLowerCase();
    return words.every((word) => spoken.includes(word));
  });
  shown.sort((a, b) => b.alike - a.alike || a.ours - b.ours || a.theirs - b.theirs);
  byId("count").textContent = `${count(shown.length)} of ${count(found.length)} features`;
  byId("none").hidden = shown.length > 0;
  view.show(shown);
}
