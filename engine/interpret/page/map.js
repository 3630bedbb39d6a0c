// The UMAP on a canvas: coloured by label, or by the activation of the chosen feature.
const cells = content.cells;
const canvas = byId("map");
const tooltip = byId("map-tooltip");
const MARGIN = 14;
const hiddenLabels = new Set();
let place = null;

function levels(feature) {
  // One byte per cell: 0 silent, else 1..255 of the feature's largest activation.
  const start = feature.row * cells.x.length;
  return content.levels.subarray(start, start + cells.x.length);
}

function layOut(width, height) {
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = range(cells.x), [low, high] = range(cells.y);
  const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (high - low || 1));
  place = {
    x: cells.x.map((x) => width / 2 + (x - (left + right) / 2) * scale),
    y: cells.y.map((y) => height / 2 - (y - (low + high) / 2) * scale),
    radius: Math.max(1.6, Math.min(4.4, 90 / Math.sqrt(cells.x.length) * Math.min(1, width / 560))),
  };
}

function drawMap() {
  const box = canvas.getBoundingClientRect();
  if (!box.width) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, box.width, box.height);
  layOut(box.width, box.height);
  if (chosen) drawActivations(pen);
  else drawLabels(pen);
}

function dot(pen, cell, colour, alpha) {
  pen.globalAlpha = alpha;
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(place.x[cell], place.y[cell], place.radius, 0, 2 * Math.PI);
  pen.fill();
}

function drawLabels(pen) {
  cells.label.forEach((label, cell) => {
    if (label >= 0 && !hiddenLabels.has(label)) return;
    dot(pen, cell, style("--silent"), 0.6);
  });
  cells.label.forEach((label, cell) => {
    if (label >= 0 && !hiddenLabels.has(label)) dot(pen, cell, hue(label), 0.85);
  });
}

function drawActivations(pen) {
  const level = levels(chosen);
  const order = Array.from(level.keys()).sort((a, b) => level[a] - level[b]);
  const silent = style("--silent");
  for (const cell of order) dot(pen, cell, level[cell] ? ramp(level[cell] / 255) : silent, level[cell] ? 0.95 : 0.6);
}

function nearestCell(x, y) {
  let best = -1, closest = (place.radius + 7) ** 2;
  for (let cell = 0; cell < place.x.length; cell++) {
    if (!chosen && hiddenLabels.has(cells.label[cell])) continue;
    const away = (place.x[cell] - x) ** 2 + (place.y[cell] - y) ** 2;
    if (away < closest) [best, closest] = [cell, away];
  }
  return best;
}

function pointAt(event) {
  const box = canvas.getBoundingClientRect();
  const cell = place ? nearestCell(event.clientX - box.left, event.clientY - box.top) : -1;
  tooltip.hidden = cell < 0;
  if (cell < 0) return;
  const label = cells.label[cell] < 0 ? "no label" : content.labels[cells.label[cell]];
  const lines = [make("b", {}, label), cells.name[cell]];
  if (chosen) lines.push(make("br"), `feature ${chosen.feature}: ${short((levels(chosen)[cell] / 255) * chosen.max)}`);
  tooltip.replaceChildren(...lines);
  const right = place.x[cell] > box.width / 2, low = place.y[cell] > box.height / 2;
  tooltip.style.left = right ? "" : `${place.x[cell] + 12}px`;
  tooltip.style.right = right ? `${box.width - place.x[cell] + 12}px` : "";
  tooltip.style.top = low ? "" : `${place.y[cell] + 8}px`;
  tooltip.style.bottom = low ? `${box.height - place.y[cell] + 8}px` : "";
}

canvas.addEventListener("pointermove", pointAt);
canvas.addEventListener("pointerdown", pointAt);
canvas.addEventListener("pointerleave", () => { tooltip.hidden = true; });
new ResizeObserver(drawMap).observe(canvas);
