// The page of one feature.
const card = (title, note, ...children) => make("section", { class: "pane card" }, make("h3", {}, title), note ? make("p", { class: "note" }, note) : null, ...children);
const grid = (heads, rows) => make("div", { class: "table-scroll" }, make("table", { class: "plain" },
  make("thead", {}, make("tr", {}, ...heads.map(([name, kind]) => make("th", { class: kind || null, scope: "col" }, name)))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, place) => make("td", { class: heads[place][1] || null }, cell)))))));
const linkTo = (feature) => make("a", { class: "open", href: `#/feature/${feature}` }, String(feature));
const oddsOf = (value) => short(limited(value));

function histogram(bins) {
  const highest = Math.max(...bins.map((bin) => bin[2]), 1), width = 460, height = 130;
  const root = draw("svg", { viewBox: `0 0 ${width} ${height + 22}`, class: "histogram", role: "img", "aria-label": "How many tokens it fires on how strongly" });
  bins.forEach(([low, high, tokens], place) => {
    const step = width / bins.length, tall = Math.max(1, (height * Math.log1p(tokens)) / Math.log1p(highest));
    const bar = draw("rect", { x: place * step + 1, y: height - tall, width: Math.max(step - 2, 1), height: tall, rx: 2 });
    bar.append(draw("title", {}, `${short(low)} to ${short(high)}: ${count(tokens)} tokens`));
    root.append(bar);
  });
  if (bins.length) {
    root.append(draw("text", { x: 0, y: height + 16 }, short(bins[0][0])), draw("text", { x: width, y: height + 16, "text-anchor": "end" }, short(bins.at(-1)[1])));
  }
  return root;
}

function network(edges) {
  const names = [...new Set(edges.flatMap(([a, b]) => [a, b]))];
  const degree = new Map(names.map((name) => [name, edges.filter(([a, b]) => a === name || b === name).length]));
  const moduleOf = new Map();
  for (const [a, b, , part] of edges) if (part >= 0) { moduleOf.set(a, part); moduleOf.set(b, part); }
  names.sort((a, b) => (moduleOf.get(a) ?? 99) - (moduleOf.get(b) ?? 99) || degree.get(b) - degree.get(a));
  const size = 420, radius = 150;
  const place = new Map(names.map((name, at) => [name, [size / 2 + radius * Math.cos((2 * Math.PI * at) / names.length), size / 2 + radius * Math.sin((2 * Math.PI * at) / names.length)]]));
  const root = draw("svg", { viewBox: `0 0 ${size} ${size}`, class: "network", role: "img", "aria-label": `Network of ${names.length} genes and ${edges.length} edges` });
  for (const [a, b, score, part] of edges) {
    const [x1, y1] = place.get(a), [x2, y2] = place.get(b);
    const line = draw("line", { x1, y1, x2, y2, class: part < 0 ? "between" : "", "stroke-opacity": 0.25 + 0.6 * (score / 1000) });
    line.append(draw("title", {}, `${a} – ${b}: ${score}`));
    root.append(line);
  }
  names.forEach((name) => {
    const [x, y] = place.get(name), left = x < size / 2 - 1;
    const dot = draw("circle", { cx: x, cy: y, r: 3 + Math.min(degree.get(name), 12) / 3 });
    dot.style.fill = moduleOf.has(name) ? hue(moduleOf.get(name)) : "var(--faint)";
    const angle = (Math.atan2(y - size / 2, x - size / 2) * 180) / Math.PI;
    root.append(dot, draw("text", { x: left ? x - 9 : x + 9, y: y + 3.5, "text-anchor": left ? "end" : "start", transform: `rotate(${left ? angle + 180 : angle} ${x} ${y})` }, name));
  });
  return root;
}

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

function cards(row, record) {
  const summary = record.summary || {};
  const parts = [
    card("How strongly", `Fires on ${percent(table.density[row])} of gene tokens, in ${count(table.cells[row])} of ${count(table.nCells)} cells; bars are on a log scale`, histogram(record.bins)),
    card("Genes", "Mean: activation where the gene occurs. Lift: how much likelier it fires there. Act. × expr.: sum of activation times log expression.", grid(
      [["Gene"], ["Mean", "number"], ["Lift", "number"], ["Act. × expr.", "number"], ["Fires on", "number middling"]],
      record.genes.map(([name, mean, lift, expression, n, of]) => [name, short(mean), short(limited(lift)), short(expression), `${count(n)} of ${count(of)}`]))),
  ];
  if (record.labels.length) parts.push(card("Cell labels", "AUROC: chance that a cell of the label has a larger activation than another cell; 0.5 says nothing.", grid(
    [["Label"], ["AUROC", "number"], ["FDR", "number"], ["Odds ratio", "number middling"], ["Fires in", "number middling"]],
    record.labels.map(([label, hits, of, odds, , auroc, fdr]) => [label, fixed(auroc, 3), probability(fdr), oddsOf(odds), `${count(hits)} of ${count(of)}`]))));
  if (record.edges?.length) {
    const [edges, expected, , q, known] = summary.network || [record.edges.length, null, null, null, 0];
    parts.push(card("Do its genes interact?", `${count(edges)} edges among ${count(known)} genes of the network; their degrees alone would give ${short(expected)} (q ${q === null ? "–" : probability(q)}). Colours are modules.`, network(record.edges)));
  }
  parts.push(card("Strongest cells", null, grid([["Cell"], ["Label"], ["Activation", "number"]], record.cells.map(([name, label, peak]) => [make("span", { class: "mono" }, name), label ?? "–", short(peak)]))));
  if (record.partners.length) parts.push(card("Fires together with", "Correlation over tokens; cosine of the directions they write.", grid(
    [["Feature"], ["Name"], ["Correlation", "number"], ["Cosine", "number"]],
    record.partners.map(([feature, correlation, cosine]) => [linkTo(feature), text(nameOf(rowOf(feature))), fixed(correlation, 2), cosine === null ? "–" : fixed(cosine, 2)]))));
  if (record.match) {
    const [share, sae, feature, similarity] = record.match;
    parts.push(card("In other autoencoders", null, facts([["Found again in", share === null ? "–" : percent(share)], ["Mean similarity", short(similarity)], ["Best match", sae < 0 ? "none" : `feature ${feature} of autoencoder ${sae}`]])));
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
