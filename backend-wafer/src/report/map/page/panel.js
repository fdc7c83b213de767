// The side panel: model, tile, weights. Text of the plan only ever becomes text nodes.
const number = n => Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",");
function bytes(b) {
  if (b < 1024) return `${number(b)} B`;
  const unit = Math.min(Math.floor(Math.log2(b) / 10), 3);
  return `${(b / 2 ** (10 * unit)).toFixed(1)} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}
const time = cycles => {
  const us = cycles / P.target.ghz / 1e3;
  return us < 1000 ? `${us.toFixed(us < 10 ? 2 : 1)} µs` : `${(us / 1e3).toFixed(2)} ms`;
};
// Of the empty <svg> of the page: no address needs to be spelled.
const SVG = document.createRange().createContextualFragment("<svg></svg>").firstChild.namespaceURI;
const range = ([a, b]) => b - a === 1 ? `${a}` : `${a}..${b}`;
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "on") node.addEventListener("click", value);
    else if (key === "style") Object.assign(node.style, value);
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
  return node;
}
function s(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const roleWord = role => role === "kv-cache" ? "KV cache" : role === "receive" ? "receive" : role;
const row = (cells, attributes) => h("tr", attributes, cells.map((c, i) => h("td", {class: typeof c === "object" && c && c.n !== undefined ? "n" : null}, typeof c === "object" && c && c.n !== undefined ? c.n : c)));
const head = names => h("tr", {}, names.map(n => h("th", {class: n.startsWith(">") ? "n" : null}, n.replace(">", ""))));
const heading = (text, note) => h("h3", {}, text, note ? h("span", {}, note) : null);
const dot = color => h("i", {class: "dot", style: {background: color}});

// Contributors of SRAM on one PE, whole and, when little is used, enlarged.
function sramBars(t) {
  const used = sramUsed(t), reserved = P.target.reserved, all = P.target.sram;
  const parts = CONTRIBUTORS.filter(role => sramOf(t, role) > 0);
  const piece = (role, width) => h("i", {title: `${roleWord(role)} ${bytes(sramOf(t, role))}`, style: {width: `${width}%`, background: `var(--${role})`}});
  const bars = [h("div", {class: "bar"},
    parts.map(role => piece(role, 100 * sramOf(t, role) / all)),
    h("i", {style: {width: `${100 * Math.max(all - reserved - used, 0) / all}%`}}),
    h("i", {class: "reserved", title: `reserved ${bytes(reserved)}`, style: {width: `${100 * reserved / all}%`}}))];
  if (used < 0.2 * all && used > 0) bars.push(h("div", {class: "soft"}, "the used part, enlarged"), h("div", {class: "bar"}, parts.map(role => piece(role, 100 * sramOf(t, role) / used))));
  const chip = (color, text, cls) => h("span", {class: "chip"}, h("i", {class: cls, style: color ? {background: color} : {}}), text);
  return [...bars, h("div", {class: "key"}, parts.map(role => chip(`var(--${role})`, `${roleWord(role)} ${bytes(sramOf(t, role))}`)),
    chip("var(--free)", `free ${bytes(Math.max(all - reserved - used, 0))}`), chip(null, `reserved ${bytes(reserved)}`, "reserved"))];
}

function panel() {
  const tabs = [["model", "Model"], ["tile", "Tile"], ["weights", "Weights"]];
  $("tabs").replaceChildren(...tabs.map(([id, text]) => h("button", {role: "tab", "aria-selected": S.tab === id, on: () => { S.tab = id; panel(); save(); }}, text)));
  const box = $("panel"), top = box.dataset.tab === S.tab ? box.scrollTop : 0;
  box.replaceChildren(...({tile: tilePanel, weights: weightsPanel, model: modelPanel}[S.tab] || modelPanel)());
  box.dataset.tab = S.tab;
  box.scrollTop = top;
}

function modelPanel() {
  const m = P.model, out = [h("p", {}, `${m.layers} layer${m.layers === 1 ? "" : "s"} of hidden size ${number(m.hidden)}, vocabulary ${number(m.vocab)}. Every distinct block is a template; a region is a rectangle of tiles that runs one. Click a region on the map or below.`)];
  P.templates.forEach((t, i) => {
    const regions = P.regions.filter(r => r.t === i), cycles = t.phases.reduce((a, p) => a + p.compute + p.comm, 0);
    out.push(h("div", {class: "card"},
      heading(t.name, `${regions.length} region${regions.length === 1 ? "" : "s"} of ${t.w} × ${t.h} PEs`), ...sramBars(t),
      CLAIMED && h("p", {class: "soft"}, `${number(cycles)} cycles per token each, in ${t.phases.length} phase${t.phases.length === 1 ? "" : "s"}`)));
  });
  out.push(heading("Regions, in the order of the activation", CLAIMED ? "cycles per token" : ""));
  out.push(h("table", {}, P.regions.map(r => row(
    [h("span", {class: "chip"}, dot(rgb(regionColor(r))), r.name), `${r.w} × ${r.h} at ${place(r.x, r.y)}`, {n: CLAIMED ? number(r.end - r.start) : ""}],
    {class: "go", on: () => { zoomTo(r); selectTile(r.x + (r.w >> 1), r.y + (r.h >> 1)); }}))));
  if (P.claims.bounds.length) out.push(heading("Lower bounds", "cycles per token"), h("table", {}, P.claims.bounds.map(([name, c]) => row([name, {n: number(c)}])), row(["claimed", {n: number(P.claims.token)}])));
  return out;
}

function tilePanel() {
  const p = S.tile || S.hover;
  if (!p) return [h("p", {}, "Point at a tile to see what it holds; click to keep it. Arrow keys move the kept tile.")];
  const r = regionAt(p.x, p.y);
  if (!r) return [h("h2", {}, `Tile ${place(p.x, p.y)}`), h("p", {class: "soft"}, P.target.dead.some(([x, y]) => x === p.x && y === p.y) ? "A dead tile: nothing is placed here." : "In no region: nothing is placed here.")];
  const t = templateOf(r), [x, y] = position(r, p.x, p.y);
  const cell = t.cell[0] > 1 ? `, column group ${Math.floor(x / t.cell[0])}` : "";
  return [h("h2", {}, `Tile ${place(p.x, p.y)}`),
    h("p", {}, h("span", {class: "chip"}, dot(rgb(regionColor(r))), `${r.name}`), h("span", {class: "soft"}, `  position ${x}, ${y} of ${r.w} × ${r.h}${cell}${r.mx || r.my ? ", mirrored" : ""}`)),
    ...liesAt(p), ...sramBars(t), ...programNow(r, t, x, y), ...pinsOf(r, t, x, y), ...cacheOf(t, x, y), ...outputOf(r, t, x, y), ...phasesOf(r, t, x, y), ...memoryOf(t, r), ...routerOf(r, t, x, y)];
}
// On a repaired wafer: the tile that stands for this one of the grid, and the links that are longer.
function liesAt(p) {
  if (!R) return [];
  const m = toMachine(p.x, p.y), at = lies(m.x, m.y), far = (DETOURS.get(m.y) || []).filter(([x]) => x === m.x);
  const below = m.y + 1 < P.target.h ? Math.abs(lies(m.x, m.y + 1).x - at.x) + 1 : 1, east = (m.x + 1) % P.target.w ? lies(m.x + 1, m.y).x - at.x : 1;
  const hops = axis => (far.find(d => d[2] === axis) || [])[3] || (axis ? below : east);
  return [h("p", {class: "soft"}, `Lies on tile ${at.x}, ${at.y} as built; to the east ${hops(0)} hop${hops(0) > 1 ? "s" : ""}, to the south ${hops(1)}.`)];
}
function programNow(r, t, x, y) {
  const step = STEPS[stepAt(S.cycle)];
  const name = step ? templateOf(P.regions[step.region]).phases[step.phase].name : "";
  const phase = step && step.region === r.id ? step.phase : Math.max(t.phases.findIndex(q => q.name === name), 0);
  const role = roleAt(t, phase, x, y);
  if (!role) return [];
  const color = (i, o) => i === null && o === null ? "" : i !== null && o !== null ? `  color ${waferColor(r, i)} to ${waferColor(r, o)}` : `  color ${waferColor(r, i === null ? o : i)}`;
  const lines = t.programs[role.program];
  return [heading(`In phase ${t.phases[phase].name}`, h("span", {class: "chip"}, dot(rgb(roleColor(role.name))), role.name)),
    lines.length ? h("ol", {class: "code"}, lines.map(([text, i, o]) => h("li", {}, text, h("span", {class: "soft"}, color(i, o))))) : h("p", {class: "soft"}, "Nothing to do: its router may still pass wavelets on.")];
}
// The tensor as a rectangle with this tile's slices in it.
function slicePicture(shape, slices) {
  const rows = shape.length > 1 ? shape[0] : 1, cols = shape[shape.length - 1], w = 76;
  const tall = Math.min(Math.max(w * Math.min(rows / cols, 1), 6), 76), wide = Math.max(Math.min(w, w * cols / Math.max(rows, 1)), 14);
  const svg = s("svg", {width: 78, height: tall + 2, viewBox: `-1 -1 78 ${tall + 2}`});
  svg.append(s("rect", {width: wide, height: tall, fill: "var(--free)", stroke: "var(--line)"}));
  for (const {a0, a1} of slices) {
    const bw = Math.max(wide * (a1[1] - a1[0]) / cols, 2.5), bh = Math.max(tall * (a0[1] - a0[0]) / rows, 2.5);
    svg.append(s("rect", {x: Math.min(wide * a1[0] / cols, wide - bw), y: Math.min(tall * a0[0] / rows, tall - bh), width: bw, height: bh, fill: "var(--accent)"}));
  }
  return svg;
}
// A name that breaks after its dots.
const dotted = name => h("span", {class: "code"}, name.split(".").flatMap((part, i) => i ? [".", h("wbr"), part] : [part]));
// All slices of one tensor in words; a product of ranges is written as one.
function sliceText(shape, slices) {
  const distinct = key => [...new Set(slices.map(p => range(p[key])))];
  const rows = distinct("a0"), columns = distinct("a1");
  if (shape.length < 2) return columns.join(", ");
  if (rows.length * columns.length === slices.length) return `rows ${rows.join(", ")} · columns ${columns.join(", ")}`;
  return slices.map(p => `[${range(p.a0)}, ${range(p.a1)}]`).join(", ");
}
const declared = new Map(P.weights.map(w => [w.name, w]));
// One row per weight that lies on the tile, with all its slices.
function weightRows(r, t, pins) {
  const groups = new Map();
  for (const p of pins) {
    const name = weightName(t, p.pin.w, r);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(p);
  }
  return [...groups].map(([name, slices]) => {
    const w = declared.get(name), shape = w ? w.shape : [1, 1], {pin, storage} = slices[0];
    const gain = pin.g !== null && t.weights[pin.g] ? `, times ${weightName(t, pin.g, r)}` : "";
    return h("tr", {class: `go${S.q && name.toLowerCase().includes(S.q) ? " on" : ""}`, title: "Show every tile that holds a part of it", on: () => search(name)},
      h("td", {}, dotted(name), h("div", {}, sliceText(shape, slices)),
        h("div", {class: "soft"}, `of ${shape.map(number).join(" × ")}, ${storage}${pin.tr ? ", transposed" : ""}${gain}`)),
      h("td", {}, slicePicture(shape, slices)), h("td", {class: "n"}, bytes(slices.reduce((sum, p) => sum + p.bytes, 0))));
  });
}
function pinsOf(r, t, x, y) {
  const pins = pinsAt(t, x, y);
  return [heading("Pinned weights", pins.length ? bytes(pins.reduce((sum, p) => sum + p.bytes, 0)) : "none on this tile"), h("table", {}, weightRows(r, t, pins))];
}
function cacheOf(t, x, y) {
  if (!t.kv) return [];
  const {rows, columns, slots, window, requests} = t.kv, k = laneOf(t, x, y), lanes = rows * columns, each = requests > 1 ? `, of each of ${number(requests)} requests` : "";
  const size = bytes(sramOf(t, "kv-cache"));
  if (k === null) return [heading("KV cache", size), h("p", {class: "soft"}, "This tile caches no tokens.")];
  const last = window ? null : Math.min(P.model.context - 1, k + (slots - 1) * lanes);
  return [heading("KV cache", size), h("p", {}, `Tokens ${k}, ${k + lanes}, ${k + 2 * lanes}, … ${last === null ? `in a ring of ${slots} (window ${number(window)})` : `up to ${number(last)}: at most ${slots}`}${each}.`)];
}
function outputOf(r, t, x, y) {
  const out = [];
  for (const o of P.outputs.logits) {
    if (o.region !== r.id || !holds(t, o.p, x, y)) continue;
    const from = affine(o.start, t.cell, x, y), to = Math.min(from + o.len, P.model.vocab);
    if (to > from) out.push(h("p", {}, `Logits ${range([from, to])} end here, in `, h("code", {}, (t.buffers[o.buffer] || {}).name || "?"), "."));
  }
  const token = P.outputs.token;
  if (token && token.region === r.id && token.x === x && token.y === y) out.push(h("p", {}, "The token of the largest logit leaves from here."));
  return out.length ? [heading("Result"), ...out] : [];
}
function phasesOf(r, t, x, y) {
  const now = STEPS[stepAt(S.cycle)];
  return [heading("Role in each phase", CLAIMED ? "compute + communication, cycles" : ""), h("table", {}, t.phases.map((phase, i) => {
    const role = roleAt(t, i, x, y), step = STEPS.find(q => q.region === r.id && q.phase === i);
    return row([phase.name, role ? h("span", {class: "chip"}, dot(rgb(roleColor(role.name))), role.name) : "none", {n: CLAIMED ? `${number(phase.compute)} + ${number(phase.comm)}` : ""}],
      {class: `go${now === step ? " on" : ""}`, title: phase.kind || "no communication", on: () => setCycle(step.start)});
  }))];
}
// SRAM over the phases: every buffer where it lies, as long as it lives.
function memoryOf(t) {
  if (!t.buffers.length) return [];
  const width = 372, height = 190, end = Math.max(...t.buffers.map(b => b.offset + b.bytes), 1), n = Math.max(t.phases.length, 1);
  const svg = s("svg", {width: "100%", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Buffers over phases"});
  svg.append(s("rect", {width, height, fill: "var(--free)", rx: 4}));
  for (const b of t.buffers) {
    const x = width * b.live[0] / n, w = width * (b.live[1] + 1 - b.live[0]) / n, hgt = Math.max(height * b.bytes / end, 1.2);
    const bar = s("rect", {x: x + 0.5, y: Math.min(height * b.offset / end, height - 1.2), width: Math.max(w - 1, 1), height: Math.max(hgt - 0.6, 0.8), fill: `var(--${b.role})`});
    bar.append(s("title", {}, `${b.name}: ${bytes(b.bytes)}`));
    svg.append(bar);
    if (hgt > 12 && w > b.name.length * 5.6) svg.append(s("text", {x: x + 5, y: height * b.offset / end + Math.min(hgt / 2 + 3.5, 13), style: "fill:#fff;paint-order:stroke;stroke:rgba(0,0,0,.55);stroke-width:2px"}, b.name));
  }
  return [heading("Buffers", `down: ${bytes(end)} of SRAM; right: ${t.phases.length} phases`), svg,
    h("table", {style: {marginTop: "6px"}}, head(["name", "shape", "phases", ">bytes", ">at"]), t.buffers.map(b => row(
      [h("span", {class: "chip"}, dot(`var(--${b.role})`), b.name), `${b.rows} × ${b.cols} ${b.storage}`, b.live[0] === b.live[1] ? `${b.live[0]}` : `${b.live[0]}–${b.live[1]}`, {n: number(b.bytes)}, {n: number(b.offset)}])))];
}
function routerOf(r, t, x, y) {
  const routes = t.routes.filter(([, p]) => holds(t, p, x, y));
  if (!routes.length) return [];
  const port = p => PORTS[mirrorPort(r, p)];
  return [heading("Router", `${routes.length} colors`), h("table", {}, head(["color", "from", "to"]), routes.map(([c, , input, outputs]) => row([`${waferColor(r, c)}`, port(input), outputs.map(port).join(", ")])))];
}

// Weights that differ only in their layer are one row.
const families = new Map();
for (const w of P.weights) {
  const key = w.name.replace(/\.\d+\./, ".*.");
  if (!families.has(key)) families.set(key, []);
  families.get(key).push(w);
}
function weightsPanel() {
  const out = [h("p", {}, S.q ? "Where it lies is coloured on the map; darker tiles hold more of it." : "Search above, or click a weight: the map shows every tile that holds a part of it.")];
  if (S.q) {
    const hits = P.weights.filter(w => w.name.toLowerCase().includes(S.q));
    const regions = P.regions.filter(r => templateOf(r).pins.some(matches(templateOf(r), r)));
    out.push(h("div", {class: "card"}, heading(S.q, `${hits.length} weight${hits.length === 1 ? "" : "s"}`),
      h("p", {}, regions.length ? `In ${regions.length} region${regions.length === 1 ? "" : "s"}: ` : "On no tile.", regions.slice(0, 12).map(r => h("button", {style: {padding: "0 6px", margin: "1px 3px 1px 0"}, on: () => zoomTo(r)}, r.name)), regions.length > 12 ? ` and ${regions.length - 12} more` : ""),
      h("p", {}, h("button", {on: () => search("")}, "Clear"))));
    const p = S.tile || S.hover, r = p && regionAt(p.x, p.y);
    if (r) {
      const t = templateOf(r), [x, y] = position(r, p.x, p.y), rows = pinsAt(t, x, y).filter(({pin}) => matches(t, r)(pin));
      out.push(heading(`On tile ${place(p.x, p.y)} (${r.name})`, rows.length ? "" : "none of it"), h("table", {}, weightRows(r, t, rows)));
    }
  }
  out.push(heading("All weights", `${P.weights.length} tensors`), h("table", {}, head(["name", "shape", ">copies"]), [...families].map(([key, list]) => {
    const w = list[0], on = S.q && list.some(v => v.name.toLowerCase().includes(S.q));
    return row([dotted(key), `${w.shape.map(number).join(" × ")} ${w.storage}`, {n: `${list.length > 1 ? `${list.length} × ` : ""}${number(w.copies)}`}],
      {class: `go${on ? " on" : ""}`, title: w.inline ? "Computed by the compiler" : "From the model", on: () => search(list.length > 1 ? key.split(".*.")[1] : key)});
  })));
  return out;
}
