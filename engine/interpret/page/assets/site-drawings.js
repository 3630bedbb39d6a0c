// What is drawn of one feature or of all: bars, networks, trees.
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

// Counts in bins as bars; marks: places along the axis that mean something.
function distribution(label, counts, ends, marks = []) {
  const highest = Math.max(...counts, 1), width = 460, height = 110, step = width / counts.length;
  const root = draw("svg", { viewBox: `0 0 ${width} ${height + 22}`, class: "histogram", role: "img", "aria-label": label });
  counts.forEach((n, place) => {
    const tall = n ? Math.max(2, (height * n) / highest) : 0;
    const bar = draw("rect", { x: place * step + 1, y: height - tall, width: step - 2, height: tall, rx: 2 });
    bar.append(draw("title", {}, `${count(n)} features`));
    root.append(bar);
  });
  for (const [share, name] of marks) {
    const x = share * width;
    root.append(draw("line", { x1: x, x2: x, y1: 0, y2: height, class: "mark" }), draw("text", { x: x - 4, y: 10, "text-anchor": "end" }, name));
  }
  root.append(draw("text", { x: 0, y: height + 16 }, ends[0]), draw("text", { x: width, y: height + 16, "text-anchor": "end" }, ends[1]));
  return root;
}

// Rows of a tree, each with its depth, as nested lists. What leads to one thing only shares its line.
function tree(rows) {
  const root = { children: [] }, path = [root];
  for (const [depth, id, name, q, hit, shared, of, further] of rows) {
    const node = { id, name, q, hit, shared, of, further, children: [] };
    path[depth].children.push(node);
    path[depth + 1] = node;
  }
  const branch = (node) => {
    const names = [];
    while (!node.hit && node.children.length === 1) {
      names.push(node.name);
      [node] = node.children;
    }
    const size = node.hit ? 8 + Math.min(node.shared, 20) / 3 : 8;
    return make("li", {},
      make("i", { class: node.hit ? "hit" : null, style: { width: `${size}px`, height: `${size}px` } }),
      names.length ? make("span", { class: "note" }, `${names.join(" › ")} › `) : null,
      make("span", { class: node.hit ? null : "weak", title: node.id }, node.name),
      node.hit ? make("span", { class: "note" }, ` ${node.shared} of ${count(node.of)}, q ${probability(node.q)}`) : null,
      node.further.length ? make("span", { class: "note" }, `; also under ${node.further.join(", ")}`) : null,
      node.children.length ? make("ul", {}, ...node.children.map(branch)) : null);
  };
  return make("ul", { class: "tree" }, ...root.children.map(branch));
}
