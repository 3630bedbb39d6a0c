// Who fires with whom: a dot a feature, near the features it fires with.
const mapState = { by: "label" };
function colourOf(row, places, at) {
  if (mapState.by === "label") return table.label[row] < 0 ? style("--silent") : hue(table.label[row]);
  if (mapState.by === "term") return hasTerm(row) ? ramp(1 - (table.nullShare[row] ?? 0)) : style("--silent");
  if (mapState.by === "against") return table.flags[row] ? hue(Math.log2(table.flags[row] & -table.flags[row])) : style("--silent");
  return hue(places.group[at]);
}

async function showMap() {
  const places = await load("map");
  if (!places.feature.length) return showMissing("No features fire together often enough for a map.");
  const ways = [["label", "cell label"], ["group", "group"], ...(table.terms ? [["term", "has a term"]] : []), ["against", "what speaks against it"]];
  const canvas = make("canvas", { id: "map", role: "img", "aria-label": `Map of ${places.feature.length} features` });
  const tip = make("div", { class: "tooltip", hidden: true });
  const keys = make("p", { class: "keys", id: "map-keys" });
  byId("main").replaceChildren(make("section", { class: "first" }, make("div", { class: "section-head" },
    make("h2", {}, "Which features fire together"), make("p", {}, "Features that fire on the same tokens lie close. Distances between far groups mean little. Click a dot for its page.")),
    make("div", { class: "pane map-pane" },
      make("div", { class: "table-tools" }, make("label", { class: "check" }, "Colour by ", make("select", { onchange: (event) => { mapState.by = event.target.value; paint(); } }, ...ways.map(([value, name]) => make("option", { value, selected: mapState.by === value }, name))))),
      make("div", { class: "map-frame tall" }, canvas, tip), keys)));
  const dots = places.feature.map((feature, at) => ({ feature, row: rowOf(feature), x: places.x[at], y: places.y[at], at }));
  const spot = (dot) => [14 + dot.x * (canvas.clientWidth - 28), 14 + dot.y * (canvas.clientHeight - 28)];
  function paint() {
    const scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.globalAlpha = dots.length > 4000 ? 0.6 : 0.85;
    const radius = dots.length > 4000 ? 2 : 4;
    for (const dot of dots) {
      const [x, y] = spot(dot);
      pen.fillStyle = colourOf(dot.row, places, dot.at);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
    const named = mapState.by === "label" ? table.labels.slice(0, 14).map((name, at) => [name, hue(at)]) : mapState.by === "against" ? FLAGS.map((flag, at) => [flag.name, hue(at)]) : [];
    keys.replaceChildren(...named.map(([name, colour]) => make("span", { class: "type" }, make("i", { style: { background: colour } }), text(name))));
  }
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = null, closest = 144;
    for (const dot of dots) {
      const [x, y] = spot(dot), gap = (x - px) ** 2 + (y - py) ** 2;
      if (gap < closest) [best, closest] = [dot, gap];
    }
    return best;
  };
  canvas.addEventListener("mousemove", (event) => {
    const dot = nearest(event);
    tip.hidden = !dot;
    if (!dot) return;
    const [x, y] = spot(dot);
    tip.replaceChildren(make("b", {}, `Feature ${dot.feature}`), nameOf(dot.row));
    Object.assign(tip.style, { left: `${Math.min(x + 12, canvas.clientWidth - 220)}px`, top: `${y + 12}px` });
  });
  canvas.addEventListener("click", (event) => { const dot = nearest(event); if (dot) location.hash = `#/feature/${dot.feature}`; });
  mapState.paint = paint;
  paint();
}
