// Twelve hues that stay apart on light and dark grounds; further labels walk the colour circle.
const HUES = [
  "#3f7fbf", "#e08a2e", "#4fa35a", "#d8574f", "#9a6fc4", "#2fa9a4",
  "#d9b430", "#a3714f", "#e07bab", "#7f9a3b", "#6d86e0", "#8b939b",
];
const hue = (label) => (label < HUES.length ? HUES[label] : `hsl(${(label * 137.5) % 360} 48% 55%)`);

const dark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Activation ramps run away from the ground: towards dark on light, towards bright on dark.
const RAMPS = {
  light: [[191, 222, 214], [86, 170, 160], [22, 110, 120], [16, 54, 84]],
  dark: [[38, 84, 92], [42, 140, 136], [110, 204, 168], [240, 246, 178]],
};

function ramp(share) {
  const stops = dark.matches ? RAMPS.dark : RAMPS.light;
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const mix = place - below;
  const channel = (i) => Math.round(stops[below][i] * (1 - mix) + stops[below + 1][i] * mix);
  return `rgb(${channel(0)} ${channel(1)} ${channel(2)})`;
}

const rampGradient = () => `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ")})`;
