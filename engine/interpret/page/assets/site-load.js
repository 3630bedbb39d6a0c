// Files of numbers are scripts that call syncytium(name, value): a page opened from disk may load those.
const loaded = new Map();
const waiting = new Map();
window.syncytium = (name, value) => {
  loaded.set(name, value);
  waiting.get(name)?.resolve(value);
  waiting.delete(name);
};

// Behind a server that may ask for a key, scripts cannot bring one: there the same files are fetched.
const served = document.body.hasAttribute("data-served");
const keyName = "syncytium-key";

async function fetched(name) {
  const key = sessionStorage.getItem(keyName);
  const response = await fetch(`data/${name}.js`, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (response.status === 401) throw new KeyWanted(Boolean(key));
  if (!response.ok) throw new Error(`data/${name}.js: the server answered ${response.status}`);
  const call = await response.text();
  return JSON.parse(call.slice(call.indexOf(",") + 1, call.lastIndexOf(")")));
}

class KeyWanted extends Error {
  constructor(refused) { super(refused ? "This key is not known to the server." : "This server asks for a key."); }
}

function askForKey(error) {
  const field = make("input", { id: "key", type: "password", autocomplete: "off", "aria-label": "API key" });
  const enter = () => { sessionStorage.setItem(keyName, field.value.trim()); location.reload(); };
  byId("main").replaceChildren(make("section", { class: "first" }, make("p", { class: "lead" }, error.message),
    make("p", { class: "search" }, field), make("p", {}, make("button", { type: "button", class: "quiet", onclick: enter }, "Enter"))));
}

function load(name) {
  if (loaded.has(name)) return Promise.resolve(loaded.get(name));
  if (!waiting.has(name)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    waiting.set(name, entry);
    const failed = (error) => { waiting.delete(name); entry.reject(error); };
    if (served) fetched(name).then((value) => window.syncytium(name, value), failed);
    // The table's script is in the page itself: it comes while this one is read.
    else if (name !== "table") {
      const script = make("script", { src: `data/${name}.js` });
      script.addEventListener("error", () => failed(new Error(`data/${name}.js is missing beside this page`)));
      document.head.append(script);
    }
  }
  return waiting.get(name).promise;
}

let table = null;
const FLAGS = [
  { bit: 1, key: "silent", name: "silent", about: "never fires on these cells" },
  { bit: 2, key: "everywhere", name: "everywhere", about: "fires on more than a tenth of all tokens: rarely about one thing" },
  { bit: 4, key: "gene", name: "single gene", about: "in effect one gene: it names an input" },
  { bit: 8, key: "redundant", name: "redundant", about: "another feature writes or fires almost the same" },
  { bit: 16, key: "unannotated", name: "unannotated", about: "no significant term, and no cell label it tells apart" },
  { bit: 32, key: "batch", name: "batch", about: "tells a batch from the others" },
];

const number = (row) => table.first + row;
const rowOf = (feature) => feature - table.first;
const labelOf = (row) => (table.label[row] < 0 ? null : table.labels[table.label[row]]);
const termOf = (row) => (table.terms === null || table.term[row] < 0 ? null : table.termNames[table.term[row]]);
const hasTerm = (row) => table.terms !== null && table.terms[row] > 0;
const nameOf = (row) => (table.name ? table.name[row] : genesOf(row).slice(0, 3).join(", "));
const limited = (value) => (value === null || value === undefined ? null : Math.abs(value) >= 1e300 ? "inf" : value);
function genesOf(row) {
  const width = table.topGenes.length / table.nFeatures;
  return table.topGenes.slice(row * width, (row + 1) * width).filter((gene) => gene >= 0).map((gene) => table.genes[gene]);
}

async function recordOf(feature) {
  let low = 0, high = table.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (table.starts[middle] <= feature) low = middle;
    else high = middle - 1;
  }
  return (await load(`features/${table.starts[low]}`))[feature];
}
