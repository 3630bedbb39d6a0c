// A map of up to millions of cells: two uint16 and one byte each on the graphics card, and nothing else.

import { palette } from "./colours.js";

const VERTEX = `#version 300 es
in vec2 place; in float level; in float chosen;
uniform vec2 centre, zoom; uniform float size, ranked, faded;
out float colour; out float dim;
void main() {
  vec2 at = (place - centre) * zoom;
  // High levels lie on top of low ones; chosen cells on top of all.
  float depth = (chosen > 0.5 ? 0.0 : 0.5) + 0.49 * (1.0 - ranked * level);
  gl_Position = vec4(at, depth, 1.0);
  gl_PointSize = size * (chosen > 0.5 ? 1.35 : 1.0);
  colour = level; dim = (faded > 0.5 && chosen < 0.5) ? 0.25 : 1.0;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in float colour; in float dim; uniform sampler2D colours; uniform vec3 ground; uniform float width; out vec4 drawn;
void main() {
  float out_by = length(gl_PointCoord - 0.5) * 2.0;
  if (out_by > 1.0) discard;
  vec3 own = texture(colours, vec2((colour * 255.0 + 0.5) / 256.0, 0.5)).rgb;
  // A soft rim of the ground's colour: cells that overlap stay apart to the eye. Small points have no room for it.
  float rim = width > 4.0 ? 1.0 - smoothstep(0.72, 1.0, out_by) : 1.0;
  drawn = vec4(mix(ground, own, dim * rim), 1.0);
}`;

export class Scatter {
  /** Throws where the browser has no WebGL2. */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("no WebGL2");
    this.gl = gl;
    this.program = program(gl);
    this.at = (name) => gl.getUniformLocation(this.program, name);
    this.n = 0;
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.faded = false;
    this.texture = gl.createTexture();
    gl.enable(gl.DEPTH_TEST);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** places: Uint16Array, x and y of every cell. */
  setPlaces(places) {
    this.places = places;
    this.n = places.length / 2;
    this.chosen = new Uint8Array(this.n);
    this.#attribute("place", places, 2, this.gl.UNSIGNED_SHORT);
    this.#attribute("chosen", this.chosen, 1, this.gl.UNSIGNED_BYTE);
    this.setLevels(new Uint8Array(this.n), "number");
  }

  /** The same cells in other places. */
  moveTo(places) {
    this.places = places;
    this.#attribute("place", places, 2, this.gl.UNSIGNED_SHORT);
    this.fit();
  }

  /** levels: a byte a cell; kind: "category", "number" or "signed". */
  setLevels(levels, kind) {
    this.levels = levels;
    this.kind = kind;
    this.#attribute("level", levels, 1, this.gl.UNSIGNED_BYTE);
    this.recolour();
  }

  recolour() {
    const gl = this.gl;
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, palette(this.kind));
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    this.draw();
  }

  /** Positions (not ids) of the chosen cells. */
  choose(positions) {
    this.chosen.fill(0);
    for (const position of positions) this.chosen[position] = 255;
    this.faded = positions.length > 0;
    this.#attribute("chosen", this.chosen, 1, this.gl.UNSIGNED_BYTE);
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.#drawNow());
  }

  #drawNow() {
    const { gl, canvas } = this;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    gl.viewport(0, 0, canvas.width, canvas.height);
    const ground = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map((part) => part / 255);
    gl.clearColor(ground[0], ground[1], ground[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.n) return;
    gl.useProgram(this.program);
    const [x, y] = this.#stretch();
    gl.uniform2f(this.at("centre"), this.view.x, this.view.y);
    gl.uniform2f(this.at("zoom"), x, y);
    gl.uniform1f(this.at("size"), this.#pointSize() * scale);
    gl.uniform1f(this.at("width"), this.#pointSize() * scale);
    gl.uniform1f(this.at("ranked"), this.kind === "number" ? 1 : 0);
    gl.uniform1f(this.at("faded"), this.faded ? 1 : 0);
    gl.uniform3f(this.at("ground"), ground[0], ground[1], ground[2]);
    gl.drawArrays(gl.POINTS, 0, this.n);
  }

  #pointSize() {
    const room = this.canvas.clientWidth * this.canvas.clientHeight;
    return Math.max(1.5, Math.min(10, 0.55 * Math.sqrt(room / Math.max(this.n, 1)))) * Math.min(3, Math.sqrt(this.view.zoom));
  }

  // Places are squeezed into the smaller side, so that distances mean the same both ways.
  #stretch() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const side = Math.min(w, h) * 0.92;
    return [(2 * this.view.zoom * side) / w, (2 * this.view.zoom * side) / h];
  }

  /** Place in 0..1 under a point of the screen. */
  placeAt(x, y) {
    const [sx, sy] = this.#stretch();
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [this.view.x + ((2 * x) / w - 1) / sx, this.view.y + (1 - (2 * y) / h) / sy];
  }

  move(dx, dy) {
    const [sx, sy] = this.#stretch();
    this.view.x -= (2 * dx) / this.canvas.clientWidth / sx;
    this.view.y += (2 * dy) / this.canvas.clientHeight / sy;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const [before, beforeY] = this.placeAt(x, y);
    this.view.zoom = Math.min(400, Math.max(0.5, this.view.zoom * factor));
    const [after, afterY] = this.placeAt(x, y);
    this.view.x += before - after;
    this.view.y += beforeY - afterY;
    this.draw();
  }

  fit() {
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.draw();
  }

  /** Positions of the cells inside a polygon of screen points. */
  inside(polygon) {
    const corners = polygon.map(([x, y]) => this.placeAt(x, y).map((part) => part * 65535));
    const xs = corners.map((corner) => corner[0]), ys = corners.map((corner) => corner[1]);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let cell = 0; cell < this.n; cell += 1) {
      const x = this.places[2 * cell], y = this.places[2 * cell + 1];
      if (x < left || x > right || y < low || y > high) continue;
      let isInside = false;
      for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
        if (ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i]) isInside = !isInside;
      }
      if (isInside) found.push(cell);
    }
    return found;
  }

  #attribute(name, values, parts, type) {
    const gl = this.gl, place = gl.getAttribLocation(this.program, name);
    this.buffers ??= {};
    this.buffers[name] ??= gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, parts, type, true, 0, 0);
  }
}

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}
