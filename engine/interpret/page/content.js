// The content Python wrote into the page, with what the other parts derive from it.
const content = JSON.parse(document.getElementById("content").textContent);
content.levels = Uint8Array.from(atob(content.levels), (byte) => byte.charCodeAt(0));
for (const feature of content.features) {
  const names = feature.genes.map((gene) => gene.name);
  const types = feature.labels.length ? [content.labels[feature.labels[0].label]] : [];
  feature.words = [String(feature.feature), ...names, ...types].join(" ").toLowerCase();
}
let chosen = null;
