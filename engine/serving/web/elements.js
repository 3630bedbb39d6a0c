// Elements from text: nothing that comes from a server or a person is ever read as HTML.

export const byId = (id) => document.getElementById(id);

/** `element("td", { class: "number" }, "12")`; children are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function table(columns, rows) {
  const head = columns.map(({ title, number }) => element("th", { scope: "col", class: number && "number" }, title));
  const body = rows.map((row) =>
    element("tr", {}, ...columns.map(({ of, number }) => {
      const value = of(row);
      return element("td", { class: number && "number" }, value ?? "");
    })));
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

export function dot(rgb) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", "10");
  svg.setAttribute("height", "10");
  svg.setAttribute("aria-hidden", "true");
  const circle = document.createElementNS(svg.namespaceURI, "circle");
  for (const [key, value] of Object.entries({ cx: 5, cy: 5, r: 5, fill: `rgb(${rgb.join(" ")})` })) circle.setAttribute(key, value);
  svg.append(circle);
  return svg;
}

/** A bar of the ramp. */
export function ramp(colourOf) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 40 2");
  svg.setAttribute("width", "160");
  svg.setAttribute("height", "8");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (let step = 0; step < 40; step += 1) {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    for (const [key, value] of Object.entries({ x: step, y: 0, width: 1.1, height: 2, fill: `rgb(${colourOf(step / 39).join(" ")})` })) bar.setAttribute(key, value);
    svg.append(bar);
  }
  return svg;
}

export const round = (value, digits = 2) => (value === null || value === undefined || Number.isNaN(value) ? "" : Number(value).toFixed(digits));
/** Three figures, whatever the size. */
export const brief = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "");
export const many = (number) => Number(number).toLocaleString("en");
