// The legend of labels: each entry hides and shows its cells.
function drawLegend() {
  const sizes = content.labels.map((_, label) => cells.label.filter((code) => code === label).length);
  const order = content.labels.map((_, label) => label).sort((a, b) => sizes[b] - sizes[a]);
  byId("legend-title").textContent = content.labelColumn;
  byId("legend").replaceChildren(...order.map((label) => make("li", {},
    make("button", {
      type: "button",
      "aria-pressed": String(!hiddenLabels.has(label)),
      onclick: () => toggleLabel(label),
    },
    make("i", { style: { background: hue(label) } }), make("span", {}, content.labels[label]),
    make("span", {}, count(sizes[label]))))));
  byId("legend-all").hidden = hiddenLabels.size === 0;
}

function toggleLabel(label) {
  const position = Array.from(byId("legend").querySelectorAll("button")).indexOf(document.activeElement);
  if (!hiddenLabels.delete(label)) hiddenLabels.add(label);
  drawLegend();
  drawMap();
  byId("legend").querySelectorAll("button")[position]?.focus();
}

byId("legend-all").addEventListener("click", () => {
  hiddenLabels.clear();
  drawLegend();
  drawMap();
});
