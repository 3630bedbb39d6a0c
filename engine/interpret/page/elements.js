// Building elements from text only: nothing from the content is ever parsed as HTML.
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const whole = new Intl.NumberFormat("en");
const count = (value) => whole.format(value);

function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === "inf") return "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return whole.format(Math.round(value));
  if (size < 0.001) return power(value);
  return String(Number(value.toPrecision(digits)));
}

function power(value) {
  const [mantissa, exponent] = value.toExponential(0).split("e");
  const raised = String(Number(exponent)).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  return `${mantissa}×10${raised}`;
}

// Probabilities: a floor of double precision is said to be below it, never to be zero.
const probability = (p) => (p === null ? "–" : p === 0 ? "< 10⁻³⁰⁰" : p >= 0.001 ? p.toFixed(3) : power(p));
const percent = (share) =>
  share === 0 ? "0 %" : share < 0.0001 ? "< 0.01 %" : `${Number((share * 100).toPrecision(share < 0.1 ? 2 : 3))} %`;
const fixed = (value, digits) => (value === null ? "–" : value.toFixed(digits));

function bars(kind, entries) {
  const longest = Math.max(...entries.map((entry) => entry.length), 1e-12);
  return make("ul", { class: `bars ${kind}` }, ...entries.map((entry) => make("li", { title: entry.title },
    make("span", { class: "name" }, entry.name),
    make("span", { class: "track" },
      make("i", { style: { width: `${(100 * entry.length) / longest}%`, background: entry.colour || "" } })),
    make("span", { class: "value" }, entry.value))));
}

function facts(pairs) {
  return make("dl", { class: "facts" },
    ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}
