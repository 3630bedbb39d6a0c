// One's own gene list: Fisher's exact test against the list of every feature, in the page.
const logFactorials = [0];
function logFactorial(n) {
  for (let k = logFactorials.length; k <= n; k++) logFactorials.push(logFactorials[k - 1] + Math.log(k));
  return logFactorials[n];
}
const logChoose = (n, k) => logFactorial(n) - logFactorial(k) - logFactorial(n - k);

// P(X >= hits) for a list of n and a set of K genes out of N.
function upperTail(hits, n, K, N) {
  if (hits <= 0) return 1;
  let sum = 0;
  for (let k = hits; k <= Math.min(n, K); k++) {
    if (n - k > N - K) continue;
    sum += Math.exp(logChoose(K, k) + logChoose(N - K, n - k) - logChoose(N, n));
  }
  return Math.min(sum, 1);
}

// Benjamini and Hochberg over all features, those without a shared gene included.
function rates(p) {
  const order = p.map((_, at) => at).sort((a, b) => p[b] - p[a]);
  const q = new Array(p.length);
  let least = 1;
  order.forEach((at, place) => {
    least = Math.min(least, (p[at] * p.length) / (p.length - place));
    q[at] = least;
  });
  return q;
}

async function testGenes(words) {
  const background = (await load("sources")).report?.n_background;
  const hits = new Map(), known = [];
  for (const word of new Set(words)) {
    const file = await load(`genes/${geneFile(word)}`);
    if (!Object.hasOwn(file, word)) continue;
    known.push(word);
    for (const feature of file[word]) hits.set(feature, [...(hits.get(feature) || []), word]);
  }
  const tested = [];
  for (let row = 0; row < table.nFeatures; row++) if (table.listed[row] > 0) tested.push(row);
  const p = tested.map((row) => upperTail((hits.get(number(row)) || []).length, table.listed[row], known.length, background));
  const q = rates(p);
  const found = tested.map((row, at) => ({ row, p: p[at], q: q[at], genes: hits.get(number(row)) || [] })).filter((one) => one.genes.length);
  return { known, found: found.sort((a, b) => a.p - b.p || a.row - b.row).slice(0, 50) };
}

function showGenes() {
  const answer = make("div", { id: "answer", "aria-live": "polite" });
  const field = make("textarea", { id: "own-genes", rows: "5", spellcheck: "false", placeholder: "CD3D CD3E IL7R ...", "aria-label": "Genes" });
  const ask = async () => {
    const words = field.value.split(/[\s,;|]+/).filter(Boolean);
    if (!words.length) return;
    const { known, found } = await testGenes(words);
    answer.replaceChildren(make("p", { class: "note" }, `${count(known.length)} of ${count(new Set(words).size)} genes are in the list of some feature. q: over all features.`),
      grid([["Feature"], ["Name"], ["Shared", "number"], ["q", "number"], ["Genes", "middling"]],
        found.map((one) => [linkTo(number(one.row)), text(nameOf(one.row)), count(one.genes.length), make("span", { class: one.q > table.alpha ? "weak" : "" }, probability(one.q)), one.genes.join(", ")])));
  };
  byId("main").replaceChildren(make("section", { class: "first" }, make("div", { class: "section-head" }, make("h2", {}, "Your own genes"),
    make("p", {}, table.terms === null ? "Needs the enrichment of these features: without it the site does not know which genes could have been listed." : "Which features list these genes more than chance would? Fisher's exact test, in this page; nothing leaves it. Names as in the data, capitals count.")),
    table.terms === null ? null : make("div", { class: "pane card" }, field, make("p", {}, make("button", { type: "button", class: "quiet", id: "ask", onclick: ask }, "Compare")), answer)));
}
