// Colours that people who confuse red and green can tell apart; every category also has a place in a list.

const HUES = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [148, 103, 189],
  [127, 127, 60], [23, 120, 140], [190, 60, 90], [110, 160, 60], [90, 90, 200], [160, 110, 70], [60, 170, 170],
  [200, 140, 180], [120, 80, 40],
];

/** Colour of category `number` (from 1 on); further rounds of the hues are lighter. */
export function categoryColour(number) {
  const [r, g, b] = HUES[(number - 1) % HUES.length];
  const light = Math.min(0.55, 0.28 * Math.floor((number - 1) / HUES.length));
  return [r, g, b].map((part) => Math.round(part + (255 - part) * light));
}

const RAMP = { light: [[226, 228, 224], [120, 190, 180], [11, 83, 90]], dark: [[48, 56, 63], [34, 128, 122], [168, 245, 220]] };

/** Colour of a share from 0 to 1. */
export function rampColour(share, isDark) {
  return between(isDark ? RAMP.dark : RAMP.light, share);
}

function between(stops, share) {
  const at = Math.min(share, 0.9999) * (stops.length - 1);
  const [from, to] = [stops[Math.floor(at)], stops[Math.floor(at) + 1]];
  return from.map((part, index) => Math.round(part + (to[index] - part) * (at - Math.floor(at))));
}

const SIGNED = { light: [[0, 90, 156], [228, 228, 224], [200, 82, 0]], dark: [[110, 182, 240], [48, 56, 63], [250, 160, 80]] };

/** Colour of a share from 0 to 1 where one half is zero. */
export function signedColour(share, isDark) {
  return between(isDark ? SIGNED.dark : SIGNED.light, share);
}

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/** 256 colours as RGBA bytes, one for each level; 0 is "no number" or "no category". */
export function palette(kind) {
  const colours = new Uint8Array(256 * 4);
  const missing = isDark() ? [52, 60, 68] : [214, 216, 212];
  for (let level = 0; level < 256; level += 1) {
    const number = kind === "signed" ? signedColour : rampColour;
    const colour = level === 0 ? missing : kind === "category" ? categoryColour(level) : number((level - 1) / 254, isDark());
    colours.set([...colour, 255], level * 4);
  }
  return colours;
}
