// Colours. Layers run along viridis, amounts along a yellow-brown ramp, categories are Okabe and Ito's: all
// three can be told apart with any colour vision.
const root = document.documentElement;
const VIRIDIS = [[72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [53, 183, 121], [122, 209, 81], [200, 222, 50]];
const AMOUNT = [[247, 240, 218], [250, 214, 138], [243, 166, 66], [214, 112, 24], [153, 66, 8], [88, 36, 8]];
const ROLE_COLORS = {root: "#d55e00", "group-root": "#e69f00", relay: "#56b4e9", end: "#0072b2", leaf: "#0072b2", sender: "#0072b2", all: "#009e73", member: "#009e73", arrival: "#cc79a7"};
const SPARE = ["#cc79a7", "#8c8c1f", "#6a51a3", "#7f5539", "#4d9078"];
const dark = () => root.dataset.theme === "dark";
// Asked for hundreds of times in a frame: looked up once per theme.
const named = new Map();
function css(name) {
  const key = `${root.dataset.theme} ${name}`;
  if (!named.has(key)) named.set(key, getComputedStyle(root).getPropertyValue("--" + name).trim());
  return named.get(key);
}
const rgb = c => `rgb(${c[0]},${c[1]},${c[2]})`;
function ramp(stops, v) {
  const at = Math.min(Math.max(v, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2), f = at - i;
  return stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * f));
}
const amountStops = () => dark() ? [...AMOUNT].reverse().map((c, i) => i === 0 ? [52, 36, 28] : c) : AMOUNT;
const amount = v => ramp(amountStops(), v);
const layers = P.regions.filter(r => r.layer !== null);
layers.forEach((r, i) => { r.rank = layers.length > 1 ? i / (layers.length - 1) : 0.5; });
const regionColor = r => r.layer !== null ? ramp(VIRIDIS, r.rank) : r.id === 0 ? [150, 143, 131] : [125, 119, 110];
const inkOn = c => 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] > 135 ? "#14171a" : "#ffffff";
const hex = s => [1, 3, 5].map(i => parseInt(s.slice(i, i + 2), 16));
const roleNames = [];
P.templates.forEach(t => t.phases.forEach(p => p.roles.forEach(r => { if (!roleNames.includes(r.name)) roleNames.push(r.name); })));
let spare = 0;
const roleTable = new Map(roleNames.map(name =>
  [name, name === "idle" || name === "outside" ? null : ROLE_COLORS[name] || SPARE[spare++ % SPARE.length]]));
const roleColor = name => roleTable.get(name) ? hex(roleTable.get(name)) : dark() ? [62, 69, 76] : [205, 201, 192];
