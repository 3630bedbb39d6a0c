// The map's canvas: lasso, moving, zooming, and keys for those who use no pointer.

import { byId, element } from "./elements.js";
import { showFirstCells } from "./hits.js";
import { Scatter } from "./scatter.js";
import { tried } from "./speech.js";
import { choose, onChange, state, useLayout } from "./state.js";

export function startMap() {
  let map;
  try {
    map = new Scatter(byId("map"));
  } catch {
    // Said to the person; the table of cells takes the map's place.
    byId("map-missing").hidden = false;
    document.body.dataset.drawn = "no";
    showFirstCells();
    return null;
  }
  map.setPlaces(state.layout);
  onChange((what) => {
    if (what === "layout") map.moveTo(state.layout);
    if (what === "colour" && state.colour) map.setLevels(state.colour.levels, kindOf(state.colour));
    if (what === "chosen") map.choose(state.chosen);
  });
  layouts();
  pointers(map);
  keys(map);
  byId("fit").addEventListener("click", () => map.fit());
  document.body.dataset.drawn = "yes";
  return map;
}

const kindOf = (colour) => (colour.categories.length ? "category" : colour.isSigned ? "signed" : "number");

function layouts() {
  const names = state.facts.cells.layouts, select = byId("layout");
  select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  select.hidden = names.length < 2;
  select.addEventListener("change", tried(() => useLayout(select.value)));
}

function pointers(map) {
  const canvas = byId("lasso"), pen = canvas.getContext("2d");
  let line = null, last = null, isPanning = false;
  const tool = (pan) => {
    isPanning = pan;
    canvas.classList.toggle("pan", pan);
    byId("tool-pan").setAttribute("aria-pressed", pan);
    byId("tool-lasso").setAttribute("aria-pressed", !pan);
  };
  byId("tool-pan").addEventListener("click", () => tool(true));
  byId("tool-lasso").addEventListener("click", () => tool(false));
  const clear = () => {
    canvas.width = canvas.clientWidth;
    canvas.height = canvas.clientHeight;
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = [event.offsetX, event.offsetY];
    line = isPanning || event.button !== 0 ? null : [last];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const at = [event.offsetX, event.offsetY];
    if (!line) map.move(at[0] - last[0], at[1] - last[1]);
    else {
      line.push(at);
      clear();
      pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
      pen.lineWidth = 2;
      pen.beginPath();
      line.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    }
    last = at;
  });
  canvas.addEventListener("pointerup", () => {
    const drawn = line;
    line = last = null;
    clear();
    if (drawn) choose(drawn.length > 3 ? map.inside(drawn) : []);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
  }, { passive: false });
}

function keys(map) {
  const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  byId("map").addEventListener("keydown", (event) => {
    if (steps[event.key]) map.move(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") map.zoom(1.25);
    else if (event.key === "-") map.zoom(0.8);
    else if (event.key === "Escape") choose([]);
    else return;
    event.preventDefault();
  });
}
