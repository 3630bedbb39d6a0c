// Words are looked for in what the table shows, in all listed genes and in all significant terms.
const GENE_FILES = 32;
function geneFile(gene) {
  let sum = 0;
  for (const letter of gene) sum = (Math.imul(sum, 31) + letter.codePointAt(0)) >>> 0;
  return sum % GENE_FILES;
}

const texts = { rows: null };
function textOf(row) {
  texts.rows ||= new Array(table.nFeatures);
  texts.rows[row] ||= [number(row), nameOf(row), genesOf(row).join(" "), labelOf(row) || "", (hasTerm(row) && termOf(row)) || ""].join(" ").toLowerCase();
  return texts.rows[row];
}

// Features that list a gene of exactly this name, in any of the ways symbols are written.
async function featuresOfGene(word) {
  const found = new Set();
  for (const gene of new Set([word, word.toUpperCase(), word[0].toUpperCase() + word.slice(1).toLowerCase()])) {
    const file = await load(`genes/${geneFile(gene)}`);
    if (Object.hasOwn(file, gene)) for (const feature of file[gene]) found.add(rowOf(feature));
  }
  return found;
}

async function featuresOfTerm(given) {
  if (table.terms === null) return new Set();
  const words = given.map((word) => word.replaceAll("_", " "));
  const terms = await load("terms");
  const found = new Set();
  terms.names.forEach((name, place) => {
    const text = name.toLowerCase().replaceAll("_", " ");
    if (words.every((word) => text.includes(word))) for (const feature of terms.features[place]) found.add(rowOf(feature));
  });
  return found;
}

// Rows that a query finds, or null for all of them.
async function search(query) {
  const words = query.trim().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const lower = words.map((word) => word.toLowerCase());
  const ofTerm = lower.some((word) => word.length > 2) ? await featuresOfTerm(lower) : new Set();
  const ofGenes = await Promise.all(words.map(featuresOfGene));
  const found = [];
  for (let row = 0; row < table.nFeatures; row++) {
    const text = textOf(row);
    if (ofTerm.has(row) || lower.every((word, place) => text.includes(word) || ofGenes[place].has(row))) found.push(row);
  }
  return found;
}
