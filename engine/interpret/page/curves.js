// Training curves as SVG, redrawn at the width they are given.
const PLOT = { left: 44, right: 10, top: 10, bottom: 26, height: 210 };

function ticks(low, high, wanted) {
  const rough = (high - low || 1) / wanted;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function drawCurve(curve, frame) {
  const width = frame.clientWidth, { left, right, top, bottom, height } = PLOT;
  if (!width) return;
  const xs = curve.series.flatMap((series) => series.x), ys = curve.series.flatMap((series) => series.y);
  const x0 = Math.min(...xs), x1 = Math.max(...xs);
  const y0 = Math.min(...ys, curve.from ?? Infinity), y1 = Math.max(...ys);
  const toX = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const toY = (y) => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const svg = draw("svg", { role: "img", "aria-label": curve.summary, height });
  for (const y of ticks(y0, y1, 4)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: toY(y), y2: toY(y) }),
      draw("text", { x: left - 8, y: toY(y) + 4, "text-anchor": "end" }, short(y)));
  }
  for (const x of ticks(x0, x1, Math.max(2, Math.floor(width / 110)))) {
    svg.append(draw("text", { x: toX(x), y: height - 6, "text-anchor": "middle" }, count(x)));
  }
  curve.series.forEach((series, index) => {
    const path = series.x.map((x, i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(series.y[i]).toFixed(1)}`).join("");
    svg.append(draw("path", { d: path, stroke: seriesColour(index) }));
  });
  const cursor = draw("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  const tip = make("div", { class: "tooltip", hidden: true });
  svg.addEventListener("pointermove", (event) => pointCurve(event, curve, { svg, cursor, tip, toX, toY, x0, x1, width }));
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); });
  frame.replaceChildren(svg, tip);
}

function pointCurve(event, curve, plot) {
  const at = event.clientX - plot.svg.getBoundingClientRect().left;
  const wanted = plot.x0 + ((at - PLOT.left) / (plot.width - PLOT.left - PLOT.right)) * (plot.x1 - plot.x0);
  const nearest = (series) => series.x.reduce((best, x, i) => (Math.abs(x - wanted) < Math.abs(series.x[best] - wanted) ? i : best), 0);
  const step = curve.series[0].x[nearest(curve.series[0])];
  plot.cursor.setAttribute("x1", plot.toX(step));
  plot.cursor.setAttribute("x2", plot.toX(step));
  plot.cursor.setAttribute("visibility", "visible");
  plot.tip.replaceChildren(make("b", {}, `${curve.xLabel} ${count(step)}`),
    ...curve.series.flatMap((series) => [`${series.name} ${short(series.y[nearest(series)], 4)}`, make("br")]));
  const toTheRight = plot.toX(step) < plot.width / 2;
  plot.tip.style.left = toTheRight ? `${plot.toX(step) + 10}px` : "";
  plot.tip.style.right = toTheRight ? "" : `${plot.width - plot.toX(step) + 10}px`;
  plot.tip.style.top = "10px";
  plot.tip.hidden = false;
}

const seriesColour = (index) => (index ? HUES[[0, 1, 4, 3][index % 4]] : style("--accent"));

function drawCurves() {
  byId("curves").replaceChildren(...content.curves.map((curve) => {
    const frame = make("div", { class: "plot" });
    new ResizeObserver(() => drawCurve(curve, frame)).observe(frame);
    return make("div", { class: "pane curve" }, make("h3", {}, curve.title), make("p", {}, curve.note), frame,
      curve.series.length > 1 ? make("div", { class: "keys" }, ...curve.series.map((series, index) =>
        make("span", {}, make("i", { style: { background: seriesColour(index) } }), series.name))) : null);
  }));
}
