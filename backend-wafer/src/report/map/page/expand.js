// The plan, and what any tile holds: predicates, spans and roles evaluated where somebody looks.
const P = JSON.parse(document.getElementById("plan").textContent);
// Wafers stand in rows on the plane that the map shows; regions and dead tiles are kept in its coordinates.
const PLANE = (() => {
  const {w, h, wafers} = P.target, gap = wafers > 1 ? Math.ceil(w * 0.08) : 0;
  const columns = Math.min(wafers, Math.max(1, Math.round(Math.sqrt(wafers * 1.7 * h / w)))), rows = Math.ceil(wafers / columns);
  return {gap, columns, rows, dx: w + gap, dy: h + gap, w: columns * (w + gap) - gap, h: rows * (h + gap) - gap};
})();
const W = PLANE.w, H = PLANE.h;
const wafers = Array.from({length: P.target.wafers}, (_, k) => ({x: k % PLANE.columns * PLANE.dx, y: Math.floor(k / PLANE.columns) * PLANE.dy}));
function toPlane(x, y) {
  const k = Math.min(Math.floor(x / P.target.w), P.target.wafers - 1);
  return {x: x - k * P.target.w + wafers[k].x, y: y + wafers[k].y};
}
// Back to the machine's coordinates; null between wafers.
function toMachine(x, y) {
  const column = Math.floor(x / PLANE.dx), row = Math.floor(y / PLANE.dy), k = row * PLANE.columns + column;
  const mx = x - column * PLANE.dx, my = y - row * PLANE.dy;
  return mx < 0 || my < 0 || mx >= P.target.w || my >= P.target.h || column >= PLANE.columns || k >= P.target.wafers ? null : {x: mx + k * P.target.w, y: my, wafer: k};
}
const place = (x, y) => { const p = toMachine(x, y); return p ? `${p.x}, ${p.y}` : ""; };
for (const r of P.regions) Object.assign(r, toPlane(r.x, r.y));
P.target.dead = P.target.dead.map(([x, y]) => { const p = toPlane(x, y); return [p.x, p.y]; });
// How the grid lies on wafers with dead tiles (plan/src/repair.rs): per wafer and row the columns skipped.
const R = P.repair;
const SKIPS = !R ? [] : R.wafers.map(w => {
  const row = [...w.first], rows = [];
  for (let y = 0, b = 0; y < P.target.h; y++) {
    for (; b < w.bends.length && w.bends[b][0] <= y; b++) row[w.bends[b][1]] = w.bends[b][2];
    rows.push(row.slice());
  }
  return rows;
});
const DEAD = new Set(R ? R.dead.map(([x, y]) => `${x} ${y}`) : []), DETOURS = new Map();
for (const d of R ? R.detours : []) DETOURS.set(d[1], [...(DETOURS.get(d[1]) || []), d]);
// Skipped tiles of a row of a wafer: the grid column before which each lies, and whether it is dead. Spares in
// the east that nothing needs are left out.
function seams(k, y) {
  return ((SKIPS[k] || [])[y] || []).map((s, i) => [s - i, DEAD.has(`${k * R.w + s} ${y}`)]).filter(([c, dead]) => dead || c < P.target.w);
}
// Where a tile of the grid (in the machine's coordinates) really lies.
function lies(x, y) {
  const k = Math.floor(x / P.target.w), c = x % P.target.w;
  return {x: k * R.w + c + ((SKIPS[k] || [])[y] || []).filter((s, i) => s - i <= c).length, y};
}
const USABLE = P.target.sram - P.target.reserved;
const PORTS = ["north", "east", "south", "west", "core"];
const CONTRIBUTORS = ["weights", "kv-cache", "activation", "receive", "scratch"];
const ELEMENT_BYTES = {f32: 4, f16: 2, bf16: 2, q8: 1 + 2 / 32, q4: 0.5 + 2 / 32};
const EMPTY = {name: "missing", w: 1, h: 1, cell: [1, 1], weights: [], buffers: [], pins: [], routes: [], kv: null, phases: [], predicates: [], programs: [], sram: []};
const templateOf = r => P.templates[r.t] || EMPTY;

function term(kind, m, n, p) {
  switch (kind) {
    case 0: return p;
    case 1: return p % m;
    case 2: return Math.floor(p / m);
    case 3: return (p % m) % n;
    default: return Math.floor(p / m) % n;
  }
}
const clauses = (list, p) => list.every(([kind, m, n, from, to]) => {
  const v = term(kind, m, n, p);
  return from <= to ? v >= from && v < to : v >= from || v < to;
});
const within = (range, v) => !range || (v >= range[0] && v < range[1]);

// A predicate evaluated once per column and per row of its template.
function mask(t, i) {
  t.masks = t.masks || [];
  if (!t.masks[i]) {
    const p = t.predicates[i];
    t.masks[i] = {
      x: Uint8Array.from({length: t.w}, (_, x) => clauses(p.x, x)),
      y: Uint8Array.from({length: t.h}, (_, y) => clauses(p.y, y)), d: p.d, a: p.a,
    };
  }
  return t.masks[i];
}
const covers = (m, x, y) => m.x[x] && m.y[y] && within(m.d, x - y) && within(m.a, x + y);
const holds = (t, i, x, y) => covers(mask(t, i), x, y);

const affine = ([base, xq, xr, yq, yr], [cw, ch], x, y) =>
  base + xq * Math.floor(x / cw) + xr * (x % cw) + yq * Math.floor(y / ch) + yr * (y % ch);
function span([start, len, limit], cell, x, y) {
  const from = affine(start, cell, x, y), last = Math.max(affine(limit, cell, x, y), 0);
  return [from, Math.max(Math.min(from + len, last), from)];
}

// Wafer tile to template position and back: mirroring is its own inverse.
const position = (r, x, y) => [r.mx ? r.w - 1 - (x - r.x) : x - r.x, r.my ? r.h - 1 - (y - r.y) : y - r.y];
const point = (r, x, y) => ({x: r.x + (r.mx ? r.w - 1 - x : x), y: r.y + (r.my ? r.h - 1 - y : y)});
const regionAt = (x, y) => P.regions.find(r => x >= r.x && y >= r.y && x < r.x + r.w && y < r.y + r.h);
const waferColor = (r, c) => { const swap = r.colors.find(([from]) => from === c); return swap ? swap[1] : c; };
const mirrorPort = (r, p) => (r.mx && (p === 1 || p === 3)) || (r.my && (p === 0 || p === 2)) ? (p + 2) % 4 : p;
const weightName = (t, i, r) => r.layer === null ? t.weights[i] : t.weights[i].replaceAll("{layer}", r.layer);

function roleAt(t, phase, x, y) {
  return t.phases[phase] ? t.phases[phase].roles.find(role => holds(t, role.p, x, y)) : undefined;
}
function pinsAt(t, x, y) {
  return t.pins.filter(pin => holds(t, pin.p, x, y)).map(pin => {
    const a0 = span(pin.a0, t.cell, x, y), a1 = span(pin.a1, t.cell, x, y);
    const elements = (a0[1] - a0[0]) * (a1[1] - a1[0]);
    const storage = t.buffers[pin.b] ? t.buffers[pin.b].storage : "f32";
    return {pin, a0, a1, elements, storage, bytes: elements * ELEMENT_BYTES[storage]};
  }).filter(p => p.elements > 0);
}
// Bytes of pinned weights on every tile of a template (only of the pins that pass), row by row.
function pinnedBytes(t, wanted) {
  const out = new Float32Array(t.w * t.h);
  for (const pin of t.pins.filter(wanted)) {
    const m = mask(t, pin.p), per = ELEMENT_BYTES[(t.buffers[pin.b] || {}).storage] || 4;
    for (let y = 0; y < t.h; y++) {
      if (!m.y[y]) continue;
      for (let x = 0; x < t.w; x++) {
        if (!covers(m, x, y)) continue;
        const a = span(pin.a0, t.cell, x, y), b = span(pin.a1, t.cell, x, y);
        out[y * t.w + x] += (a[1] - a[0]) * (b[1] - b[0]) * per;
      }
    }
  }
  return out;
}
// Colors that the router of each tile is set for, row by row.
function routedColors(t) {
  if (t.routed) return t.routed;
  const sets = new Uint32Array(t.w * t.h);
  for (const [color, p] of t.routes) {
    const m = mask(t, p);
    for (let y = 0; y < t.h; y++) if (m.y[y]) for (let x = 0; x < t.w; x++) if (covers(m, x, y)) sets[y * t.w + x] |= 1 << color;
  }
  return t.routed = Uint8Array.from(sets, v => { let n = 0; for (; v; v &= v - 1) n++; return n; });
}
// Routes of one tile in the colors of a phase, found when somebody looks.
function routesIn(t, phase, x, y) {
  const p = t.phases[phase];
  const used = p.colors || (p.colors = new Set(p.roles.flatMap(role => t.programs[role.program].flatMap(([, i, o]) => [i, o]))));
  const seen = p.routes || (p.routes = new Map()), key = y * t.w + x;
  if (!seen.has(key)) seen.set(key, t.routes.filter(([color, q]) => used.has(color) && holds(t, q, x, y)));
  return seen.get(key);
}
const sramOf = (t, role) => { const s = t.sram.find(([name]) => name === role); return s ? s[1] : 0; };
const sramUsed = t => t.sram.reduce((sum, [, bytes]) => sum + bytes, 0);

// One token, phase by phase, in the order the activation visits the regions.
const CLAIMED = P.templates.some(t => t.phases.some(p => p.compute + p.comm > 0));
const STEPS = [];
let TOTAL = 0;
P.regions.forEach((r, region) => {
  r.start = TOTAL;
  r.id = region;
  templateOf(r).phases.forEach((p, phase) => {
    const len = CLAIMED ? p.compute + p.comm : 1;
    STEPS.push({region, phase, start: TOTAL, len});
    TOTAL += len;
  });
  r.end = TOTAL;
});
TOTAL = Math.max(TOTAL, 1);
function stepAt(cycle) {
  let low = 0, high = STEPS.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (STEPS[middle].start <= cycle) low = middle; else high = middle - 1;
  }
  return low;
}
