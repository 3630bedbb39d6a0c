// The page of one feature.
const card = (title, note, ...children) => make("section", { class: "pane card" }, make("h3", {}, title), note ? make("p", { class: "note" }, note) : null, ...children);
const grid = (heads, rows) => make("div", { class: "table-scroll" }, make("table", { class: "plain" },
  make("thead", {}, make("tr", {}, ...heads.map(([name, kind]) => make("th", { class: kind || null, scope: "col" }, name)))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, place) => make("td", { class: heads[place][1] || null }, cell)))))));
const linkTo = (feature) => make("a", { class: "open", href: `#/feature/${feature}` }, String(feature));
const oddsOf = (value) => short(limited(value));

function termsCard(record) {
  const terms = record.terms.map(([group, source, id, name, hit, sharp, k, K, genes, systems, ...numbers]) => ({ group, source, id, name, hit, sharp, k, K, genes, systems, numbers }));
  const groups = [...new Set(terms.map((term) => term.group))];
  const parts = groups.map((group) => {
    // Phenotypes by organ system, as far as their hierarchy says; a system stands where its best term does.
    const listed = terms.filter((term) => term.group === group).slice(0, 14);
    const order = [...new Set(listed.map((term) => term.systems))];
    const rows = order.flatMap((systems) => listed.filter((term) => term.systems === systems));
    return make("div", {}, make("h4", {}, group), grid(
      [["Term"], ["Shared", "number"], ["q", "number"], ["Odds ratio (95 %)", "number middling"], ["By chance", "number middling"]],
      rows.map((term) => {
        const [, q, odds, low, high, chance] = term.numbers;
        return [
          make("div", { class: term.hit ? "" : "weak" }, term.systems ? make("div", { class: "note" }, `${term.systems.replaceAll("|", ", ")} ›`) : null, make("b", {}, term.name), make("div", { class: "note" }, `${term.source}${term.id === term.name ? "" : ` · ${term.id}`}${term.sharp && term.numbers[6] !== null ? " · no narrower term explains it" : ""}`),
            make("details", {}, make("summary", {}, `${term.k} genes`), term.genes.replaceAll("|", ", "))),
          `${term.k} of ${count(term.K)}`, probability(q), `${oddsOf(odds)} (${oddsOf(low)}–${oddsOf(high)})`, chance === null ? "–" : percent(chance),
        ];
      })));
  });
  const found = terms.filter((term) => term.hit).length;
  return card("What its genes are known for", found ? "By kind of evidence; pale rows are not significant. q: over all features and all terms of the source. By chance: share of shuffles of the gene labels that find a term as strong." : "Nothing significant. The best of what was tested, for orientation:", ...parts);
}

function genesCard(record) {
  const ofCells = table.geneScore === "presence";
  const meaning = "Mean: activation where the gene occurs. Lift: how much likelier it fires there. Act. × expr.: sum of activation times log expression.";
  return card(ofCells ? "Genes of its cells" : "Genes", ofCells ? `Genes that the cells in which it is strong have and others lack; on many of them it does not fire. Presence: partial correlation over cells. ${meaning}` : meaning, grid(
    [["Gene"], ...(ofCells ? [["Presence", "number"]] : []), ["Mean", "number"], ["Lift", "number"], ["Act. × expr.", "number"], ["Fires on", "number middling"]],
    record.genes.map(([name, mean, lift, expression, n, of, score]) => [name, ...(ofCells ? [fixed(score, 2)] : []), short(mean), short(limited(lift)), short(expression), `${count(n)} of ${count(of)}`])));
}

function cards(row, record) {
  const summary = record.summary || {};
  const parts = [
    card("How strongly", `Fires on ${percent(table.density[row])} of gene tokens, in ${count(table.cells[row])} of ${count(table.nCells)} cells; bars are on a log scale`, histogram(record.bins)),
    genesCard(record),
  ];
  if (record.labels.length) parts.push(card("Cell labels", "AUROC: chance that a cell of the label has a larger activation than another cell; 0.5 says nothing.", grid(
    [["Label"], ["AUROC", "number"], ["FDR", "number"], ["Odds ratio", "number middling"], ["Fires in", "number middling"]],
    record.labels.map(([label, hits, of, odds, , auroc, fdr]) => [label, fixed(auroc, 3), probability(fdr), oddsOf(odds), `${count(hits)} of ${count(of)}`]))));
  if (record.edges?.length) {
    const [edges, expected, , q, known] = summary.network || [record.edges.length, null, null, null, 0];
    parts.push(card("Do its genes interact?", `${count(edges)} edges among ${count(known)} genes of the network; their degrees alone would give ${short(expected)} (q ${q === null ? "–" : probability(q)}). Colours are modules.`, network(record.edges)));
  }
  parts.push(card("Strongest cells", null, grid([["Cell"], ["Label"], ["Activation", "number"]], record.cells.map(([name, label, peak]) => [make("span", { class: "mono" }, name), label ?? "–", short(peak)]))));
  for (const [source, rows] of record.trees || []) parts.push(card(`Where its terms lie in ${source}`, "Filled: significant, the larger the more genes are shared. Hollow: what they lie under.", tree(rows)));
  if (record.partners.length) parts.push(card("Fires together with", "Correlation over tokens; cosine of the directions they write.", grid(
    [["Feature"], ["Name"], ["Correlation", "number"], ["Cosine", "number"]],
    record.partners.map(([feature, correlation, cosine]) => [linkTo(feature), text(nameOf(rowOf(feature))), fixed(correlation, 2), cosine === null ? "–" : fixed(cosine, 2)]))));
  if (record.near?.length) parts.push(card("Writes nearly the same", "Cosine of the directions they write: the nearest of all features, whether they fire together or not.", grid(
    [["Feature"], ["Name"], ["Cosine", "number"]], record.near.map(([feature, cosine]) => [linkTo(feature), text(nameOf(rowOf(feature))), fixed(cosine, 2)]))));
  if (record.others) {
    const { share, similarity, partners } = record.others;
    parts.push(card("In other autoencoders", `Found again in ${share === null ? "none that could be asked" : percent(share)} of them; mean similarity ${short(similarity)}.`, grid(
      [["Autoencoder"], ["Feature", "number"], ["Its genes", "middling"], ["Similarity", "number"], ["Mutual"]],
      partners.map(([other, name, feature, alike, mutual, genes]) => [make("a", { class: "open", href: `#/compare/${other}` }, name), feature < 0 ? "none" : String(feature), genes || "–", fixed(alike, 2), mutual ? "yes" : "no"]))));
  }
  for (const effect of record.steering || []) parts.push(card("When it is changed", `${effect.edit}; change of ${effect.what}`, grid([["Gene"], ["Change", "number"]], effect.genes.map(([name, change]) => [name, short(change)]))));
  return parts;
}

async function showFeature(feature) {
  const row = rowOf(feature);
  if (!Number.isInteger(row) || row < 0 || row >= table.nFeatures) return showMissing(`There is no feature ${feature}.`);
  const record = await recordOf(feature);
  const summary = record.summary || {};
  const against = FLAGS.filter((flag) => table.flags[row] & flag.bit);
  const star = make("button", { type: "button", class: "quiet", "aria-pressed": String(stars.all.has(feature)), onclick: () => { stars.turn(feature); star.setAttribute("aria-pressed", String(stars.all.has(feature))); star.textContent = stars.all.has(feature) ? "★ starred" : "☆ star"; } }, stars.all.has(feature) ? "★ starred" : "☆ star");
  byId("main").replaceChildren(make("article", { class: "feature" },
    make("div", { class: "feature-head" },
      make("p", { class: "note" }, make("a", { class: "open", href: "#/" }, "All features")),
      make("h2", { id: "feature-title", tabindex: "-1" }, `Feature ${feature}: ${nameOf(row)}`),
      summary.name ? make("p", { class: "note" }, `A suggestion by ${summary.by} from ${summary.basis.replaceAll("+", " and ")}; confidence ${fixed(summary.confidence, 2)}, an order and no probability.`) : null,
      make("p", { class: "flags" }, ...against.map((flag) => make("span", { class: "flag", title: flag.about }, flag.name)), star,
        row > 0 ? make("a", { class: "quiet", href: `#/feature/${feature - 1}` }, "Previous") : null,
        row + 1 < table.nFeatures ? make("a", { class: "quiet", href: `#/feature/${feature + 1}` }, "Next") : null)),
    record.terms ? termsCard(record) : null,
    make("div", { class: "cards flowing" }, ...cards(row, record))));
  scrollTo(0, 0);
}
