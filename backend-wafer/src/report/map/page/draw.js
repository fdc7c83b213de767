// The canvas: regions as pictures of one pixel per tile, made once per template and colour mode.
const $ = id => document.getElementById(id);
const canvas = $("map"), g = canvas.getContext("2d"), mini = $("mini"), gm = mini.getContext("2d");
const S = {mode: "layer", cycle: 0, tile: null, hover: null, q: "", tab: "model", view: {x: 0, y: 0, s: 1}, playing: false};
const pictures = new Map();
let amountMax = 1;
const COLORS = P.target.colors || 24, kvMax = Math.max(1, ...P.templates.map(t => sramOf(t, "kv-cache")));

function picture(key, t, paint) {
  if (!pictures.has(key)) {
    const c = document.createElement("canvas");
    c.width = t.w; c.height = t.h;
    const context = c.getContext("2d"), image = context.createImageData(t.w, t.h);
    const colors = paint();
    for (let i = 0; i < t.w * t.h; i++) {
      const [r, gr, b, a] = colors(i % t.w, Math.floor(i / t.w), i);
      image.data.set([r, gr, b, a === undefined ? 255 : a], i * 4);
    }
    context.putImageData(image, 0, 0);
    pictures.set(key, c);
  }
  return pictures.get(key);
}
function rolePicture(t, phase) {
  return picture(`role ${P.templates.indexOf(t)} ${phase} ${dark()}`, t, () => {
    const roles = t.phases[phase].roles.map(r => [mask(t, r.p), roleColor(r.name)]);
    const none = [128, 128, 128, 60];
    return (x, y) => { const hit = roles.find(([m]) => covers(m, x, y)); return hit ? hit[1] : none; };
  });
}
// What a tile really holds: pinned bytes, and every other buffer at its reserved size.
function usedBytes(t) {
  if (!t.used) {
    const other = sramUsed(t) - sramOf(t, "weights");
    t.used = pinnedBytes(t, () => true).map(b => b + other);
  }
  return t.used;
}
function sramPicture(t) {
  return picture(`sram ${P.templates.indexOf(t)} ${dark()}`, t, () => {
    const used = usedBytes(t);
    return (x, y, i) => amount(used[i] / amountMax);
  });
}
// Which of the lanes that tokens are dealt to a tile is; null for none.
function laneOf(t, x, y) {
  if (!t.kv) return null;
  const {first, rows, columns} = t.kv, k = y - first, c = columns > 1 ? x % t.cell[0] : 0;
  return k < 0 || k >= rows || c >= columns ? null : c * rows + k;
}
function kvPicture(t) {
  return picture(`kv ${P.templates.indexOf(t)} ${dark()}`, t, () => {
    const none = dark() ? [52, 58, 64] : [216, 212, 204], size = sramOf(t, "kv-cache");
    const now = t.kv && P.claims.pos % (t.kv.rows * t.kv.columns), accent = hex(css("accent"));
    return (x, y) => {
      const lane = size ? laneOf(t, x, y) : null;
      return lane === null ? none : lane === now ? accent : amount(0.1 + 0.9 * size / USABLE);
    };
  });
}
function linkPicture(t) {
  return picture(`links ${P.templates.indexOf(t)} ${dark()}`, t, () => {
    const routed = routedColors(t);
    return (x, y, i) => amount(routed[i] / COLORS);
  });
}
function matches(t, r) {
  return pin => weightName(t, pin.w, r).toLowerCase().includes(S.q);
}
function weightPicture(t, r) {
  const hits = t.pins.map((pin, i) => matches(t, r)(pin) ? i : -1).filter(i => i >= 0);
  if (!hits.length) return null;
  return picture(`weight ${P.templates.indexOf(t)} ${hits} ${dark()}`, t, () => {
    const bytes = pinnedBytes(t, pin => hits.includes(t.pins.indexOf(pin))), most = bytes.reduce((a, b) => Math.max(a, b), 1);
    const none = dark() ? [52, 58, 64] : [216, 212, 204];
    return (x, y, i) => bytes[i] ? amount(0.22 + 0.4 * bytes[i] / most) : none;
  });
}
const X = x => S.view.x + x * S.view.s, Y = y => S.view.y + y * S.view.s;

// The phase to show in a region: its own when the token is there, else the one of the same name.
function phaseOf(r, active) {
  if (!active || active.region === r.id) return active ? active.phase : 0;
  const {name} = templateOf(P.regions[active.region]).phases[active.phase];
  return Math.max(templateOf(r).phases.findIndex(p => p.name === name), 0);
}
function regionPicture(r, step) {
  const t = templateOf(r);
  if (S.q) return weightPicture(t, r);
  if (S.mode === "sram") return sramPicture(t);
  if (S.mode === "kv") return kvPicture(t);
  if (S.mode === "links") return linkPicture(t);
  if (S.mode === "role" && t.phases.length) return rolePicture(t, phaseOf(r, STEPS[step]));
  return null;
}
function drawRegion(r, step) {
  const x = X(r.x), y = Y(r.y), w = r.w * S.view.s, h = r.h * S.view.s;
  if (x > canvas.clientWidth || y > canvas.clientHeight || x + w < 0 || y + h < 0) return;
  const image = regionPicture(r, step), active = STEPS[step] && STEPS[step].region === r.id;
  if (image) {
    g.save();
    g.translate(r.mx ? x + w : x, r.my ? y + h : y);
    g.scale(r.mx ? -1 : 1, r.my ? -1 : 1);
    g.imageSmoothingEnabled = S.view.s < 1;
    g.drawImage(image, 0, 0, w, h);
    g.restore();
    if (S.mode === "role" && !S.q && !active) { g.fillStyle = css("shade"); g.fillRect(x, y, w, h); }
  } else {
    g.fillStyle = S.q ? (dark() ? "#343a40" : "#d8d4cc") : rgb(regionColor(r));
    g.fillRect(x, y, w, h);
  }
  const edge = Math.min(1.5, w * 0.2, h * 0.2);
  if (edge > 0.2) { g.strokeStyle = css("page"); g.lineWidth = edge; g.strokeRect(x, y, w, h); }
}
function label(r, step) {
  const w = r.w * S.view.s, h = r.h * S.view.s, plain = !S.q && S.mode === "layer";
  const size = Math.min(w * 0.64 / (r.name.length * 0.56), h * 0.26, 17);
  if (size < 7 || w > canvas.clientWidth * 2.5) return;
  const ink = plain ? inkOn(regionColor(r)) : css("ink"), x = X(r.x + r.w / 2);
  const y = Y(r.y) + Math.min(h * 0.28, size * 0.9 + 12), token = P.outputs.token;
  g.textAlign = "center"; g.textBaseline = "middle";
  const write = (text, font, y, soft) => {
    g.font = `${font} system-ui, sans-serif`;
    if (!plain) { g.strokeStyle = css("page"); g.lineWidth = 4; g.lineJoin = "round"; g.globalAlpha = 0.85; g.strokeText(text, x, y); g.globalAlpha = 1; }
    g.fillStyle = ink; g.globalAlpha = soft ? 0.85 : 1; g.fillText(text, x, y); g.globalAlpha = 1;
  };
  write(r.name, `600 ${size}px`, y);
  const clear = token && token.region === r.id ? h * 0.5 - 14 : h * 0.74 - 10;
  if (w > 96 && size > 10 && y + size + 8 < Y(r.y) + clear) {
    write(`${r.w} × ${r.h} PEs`, "11.5px", y + size + 3, true);
    if (y + size + 24 < Y(r.y) + clear) write(`${bytes(sramUsed(templateOf(r)))} per PE`, "11.5px", y + size + 18, true);
  }
}
// Zoomed in: the name at the corner of what is visible of the region.
function nameTag(r) {
  const x = X(r.x), y = Y(r.y), right = X(r.x + r.w), bottom = Y(r.y + r.h);
  if (right < 60 || bottom < 30 || x > canvas.clientWidth || y > canvas.clientHeight) return;
  sign(r.name, Math.max(x + 4, 10), Math.max(y - 10, 16), "left");
}
function arrow(x1, y1, x2, y2, color, width) {
  const l = Math.hypot(x2 - x1, y2 - y1), ux = (x2 - x1) / l, uy = (y2 - y1) / l, head = width * 3.2;
  for (const [ink, extra] of [[css("page"), 2.5], [color, 0]]) {
    g.strokeStyle = g.fillStyle = ink; g.lineWidth = width + extra; g.lineJoin = "round"; g.lineCap = "butt";
    g.beginPath(); g.moveTo(x1, y1); g.lineTo(x2 - ux * head, y2 - uy * head); g.stroke();
    g.beginPath(); g.moveTo(x2, y2);
    g.lineTo(x2 - ux * head - uy * head * 0.62, y2 - uy * head + ux * head * 0.62);
    g.lineTo(x2 - ux * head + uy * head * 0.62, y2 - uy * head - ux * head * 0.62); g.closePath();
    if (extra) g.stroke();
    g.fill();
  }
}
// From where in `a` to where in `b` a stream is drawn: straight through the border that they share.
function between(a, b) {
  const reach = 14 / S.view.s;
  const top = Math.max(a.y, b.y), bottom = Math.min(a.y + a.h, b.y + b.h);
  const left = Math.max(a.x, b.x), right = Math.min(a.x + a.w, b.x + b.w);
  const deep = (r, side) => Math.min(reach, side * 0.4);
  if (bottom > top) {
    const y = top + (bottom - top) * 0.74, east = b.x >= a.x + a.w;
    return [east ? a.x + a.w - deep(a, a.w) : a.x + deep(a, a.w), y, east ? b.x + deep(b, b.w) : b.x + b.w - deep(b, b.w), y];
  }
  if (right > left) {
    const x = left + (right - left) * (a.mx ? 0.08 : 0.92), south = b.y >= a.y + a.h;
    return [x, south ? a.y + a.h - deep(a, a.h) : a.y + deep(a, a.h), x, south ? b.y + deep(b, b.h) : b.y + b.h - deep(b, b.h)];
  }
  return [a.x + a.w / 2, a.y + a.h / 2, b.x + b.w / 2, b.y + b.h / 2];
}
function drawStreams(step) {
  const active = STEPS[step], pairs = new Set();
  for (const s of P.streams) {
    const a = P.regions[s.from], b = P.regions[s.to], key = `${s.from} ${s.to}`;
    if (!a || !b || pairs.has(key)) continue;
    pairs.add(key);
    if (Math.min(Math.max(a.w, a.h), Math.max(b.w, b.h)) * S.view.s < 14) continue;
    const [x1, y1, x2, y2] = between(a, b);
    if (Math.hypot(x2 - x1, y2 - y1) * S.view.s < 9) continue;
    const arriving = active && active.region === s.to && active.phase === 0;
    arrow(X(x1), Y(y1), X(x2), Y(y2), arriving ? css("accent") : css("ink"), arriving ? 4 : 2.4);
  }
}
function sign(text, x, y, align) {
  g.font = "600 12px system-ui, sans-serif"; g.textAlign = align; g.textBaseline = "middle";
  g.strokeStyle = css("page"); g.lineWidth = 4; g.lineJoin = "round"; g.strokeText(text, x, y);
  g.fillStyle = css("ink"); g.fillText(text, x, y);
}
function drawHost() {
  const first = P.regions[0];
  if (!first || S.view.s * Math.max(first.w, first.h) < 12) return;
  const x = first.mx ? X(first.x + first.w) : X(first.x), y = Y(first.y + first.h * 0.5), out = first.mx ? 1 : -1;
  arrow(x + out * 40, y, x - out * 4, y, css("ink"), 2.4);
  sign("token in", x + out * 44, y, out < 0 ? "right" : "left");
  const token = P.outputs.token, region = token && P.regions[token.region];
  if (!region) return;
  const p = point(region, token.x, token.y), px = X(p.x + 0.5), py = Y(p.y + 0.5), ring = Math.min(Math.max(5, S.view.s * 0.5), 10);
  g.lineWidth = 5; g.strokeStyle = css("page"); g.beginPath(); g.arc(px, py, ring, 0, 7); g.stroke();
  g.lineWidth = 2.4; g.strokeStyle = css("ink"); g.beginPath(); g.arc(px, py, ring, 0, 7); g.stroke();
  if (region.h * S.view.s > 40) sign("token out", px + ring + 6, py, "left");
}
// Dead tiles as a picture made once: `reach` tiles around each are coloured too, so that zoomed out none
// is lost between pixels. Of a very large machine one pixel stands for several tiles.
function deadPicture(reach) {
  const k = Math.ceil(Math.max(W, H) / 4096), w = Math.ceil(W / k), hgt = Math.ceil(H / k), key = `dead ${reach} ${dark()}`;
  if (!pictures.has(key)) {
    const c = document.createElement("canvas");
    c.width = w; c.height = hgt;
    const context = c.getContext("2d");
    const mark = (x, y, reach) => context.fillRect(Math.floor(x / k) - reach, Math.floor(y / k) - reach, 1 + 2 * reach, 1 + 2 * reach);
    const dead = [...P.target.dead];
    // A repaired wafer: the spares as lines that bend through the dead.
    context.fillStyle = css("reserved");
    if (R) for (const [at, i] of wafers.map((at, i) => [at, i])) for (let y = 0; y < P.target.h; y++) for (const [column, isDead] of seams(i, y)) {
      const x = at.x + Math.min(column, P.target.w - 1);
      if (isDead) dead.push([x, at.y + y]); else mark(x, at.y + y, 0);
    }
    context.fillStyle = css("dead");
    for (const [x, y] of dead) mark(x, y, reach);
    pictures.set(key, c);
  }
  return [pictures.get(key), k];
}
function drawDead() {
  if (!P.target.dead.length && !R) return;
  if (R && S.view.s >= 9) return drawSeams();
  const [image, k] = deadPicture(S.view.s < 1.5 ? 1 : 0);
  g.imageSmoothingEnabled = false;
  // Only the part in view: scaling all of it would cost as much as it is large.
  const x0 = Math.max(Math.floor(-S.view.x / S.view.s / k), 0), y0 = Math.max(Math.floor(-S.view.y / S.view.s / k), 0);
  const x1 = Math.min(Math.ceil((canvas.clientWidth - S.view.x) / S.view.s / k), image.width), y1 = Math.min(Math.ceil((canvas.clientHeight - S.view.y) / S.view.s / k), image.height);
  if (x1 > x0 && y1 > y0) g.drawImage(image, x0, y0, x1 - x0, y1 - y0, X(x0 * k), Y(y0 * k), (x1 - x0) * k * S.view.s, (y1 - y0) * k * S.view.s);
}
// Zoomed in on a repaired wafer: skipped tiles as bands between those they part, detours as lines with the number of their hops.
function drawSeams() {
  const rows = [Math.max(0, Math.floor(-S.view.y / S.view.s)), Math.min(H, Math.ceil((canvas.clientHeight - S.view.y) / S.view.s))];
  const visible = x => X(x) > -S.view.s && X(x) < canvas.clientWidth + S.view.s;
  wafers.forEach((at, k) => {
    for (let py = Math.max(rows[0], at.y); py < Math.min(rows[1], at.y + P.target.h); py++) {
      const y = py - at.y, seen = new Map();
      for (const [column, dead] of seams(k, y)) {
        const nth = seen.get(column) || 0, x = at.x + column;
        seen.set(column, nth + 1);
        if (!visible(x)) continue;
        g.fillStyle = css(dead ? "dead" : "reserved");
        g.fillRect(X(x) + (nth - 0.5) * S.view.s * 0.16, Y(py) + S.view.s * 0.1, S.view.s * 0.14, S.view.s * 0.8);
      }
      for (const [mx, , south, hops] of DETOURS.get(y) || []) {
        const p = toPlane(mx, y);
        if (Math.floor(mx / P.target.w) !== k || !visible(p.x)) continue;
        const cx = X(p.x + 0.5), cy = Y(p.y + 0.5), ex = cx + (south ? 0 : S.view.s), ey = cy + (south ? S.view.s : 0);
        g.strokeStyle = css("accent"); g.lineWidth = Math.max(1.5, S.view.s * 0.06); g.setLineDash([S.view.s * 0.2, S.view.s * 0.12]);
        g.beginPath(); g.moveTo(cx, cy); g.lineTo(ex, ey); g.stroke(); g.setLineDash([]);
        if (S.view.s >= 24) sign(S.view.s < 60 ? `${hops}` : `${hops} hops`, (cx + ex) / 2, (cy + ey) / 2, "center");
      }
    }
  });
}
function drawGrid() {
  if (S.view.s < 9) return;
  const x0 = Math.max(0, Math.floor(-S.view.x / S.view.s)), x1 = Math.min(W, Math.ceil((canvas.clientWidth - S.view.x) / S.view.s));
  const y0 = Math.max(0, Math.floor(-S.view.y / S.view.s)), y1 = Math.min(H, Math.ceil((canvas.clientHeight - S.view.y) / S.view.s));
  g.strokeStyle = css("page"); g.globalAlpha = 0.35; g.lineWidth = 1; g.beginPath();
  for (let x = x0; x <= x1; x++) { g.moveTo(X(x), Y(y0)); g.lineTo(X(x), Y(y1)); }
  for (let y = y0; y <= y1; y++) { g.moveTo(X(x0), Y(y)); g.lineTo(X(x1), Y(y)); }
  g.stroke(); g.globalAlpha = 1;
  if (S.view.s >= 20) drawRouters(x0, y0, x1, y1);
}
// Routers are drawn once per view, when it rests; while it moves, the picture moves along.
const routers = document.createElement("canvas"), gr = routers.getContext("2d");
let drawn = null, resting = 0;
function drawRouters(x0, y0, x1, y1) {
  const {x, y, s} = S.view, what = [stepAt(S.cycle), root.dataset.theme, canvas.clientWidth, canvas.clientHeight].join(" ");
  const fresh = drawn && drawn.what === what, same = fresh && drawn.x === x && drawn.y === y && drawn.s === s;
  if (!same && moving()) {
    clearTimeout(resting);
    resting = setTimeout(draw, REST + 20);
    if (!fresh) return;
  } else if (!same) {
    const d = window.devicePixelRatio || 1;
    routers.width = canvas.width; routers.height = canvas.height;
    gr.setTransform(d, 0, 0, d, 0, 0);
    for (let ty = y0; ty < y1; ty++) for (let tx = x0; tx < x1; tx++) drawTile(gr, tx, ty);
    drawn = {what, x, y, s};
  }
  const k = s / drawn.s;
  g.drawImage(routers, x - drawn.x * k, y - drawn.y * k, canvas.clientWidth * k, canvas.clientHeight * k);
}
// Whether the view has changed a moment ago.
const REST = 90;
let movedAt = -1e9, before = "";
function moving() {
  const view = `${S.view.x} ${S.view.y} ${S.view.s}`, now = performance.now();
  if (view !== before) { if (before) movedAt = now; before = view; }
  return now - movedAt < REST;
}
// Zoomed in: the router of a tile, for the colors that its region uses in the current phase.
function drawTile(g, x, y) {
  const r = regionAt(x, y);
  if (!r) return;
  const t = templateOf(r), index = phaseOf(r, STEPS[stepAt(S.cycle)]), phase = t.phases[index];
  const [px, py] = position(r, x, y), cx = X(x + 0.5), cy = Y(y + 0.5), half = S.view.s * 0.5;
  if (phase) {
    const step = port => [[0, -1], [1, 0], [0, 1], [-1, 0], [0, 0]][mirrorPort(r, port)];
    const lines = new Path2D(), tips = new Path2D(), e = S.view.s * 0.085;
    for (const [color, , input, outputs] of routesIn(t, index, px, py)) {
      const [ix, iy] = step(input), side = ((color % 5) - 2) * S.view.s * 0.08;
      for (const port of outputs) {
        const [ox, oy] = step(port), x = cx + (iy || oy ? side : 0), y = cy + (ix || ox ? side : 0);
        lines.moveTo(x + ix * half, y + iy * half); lines.lineTo(x, y); lines.lineTo(x + ox * half, y + oy * half);
        if (port === 4) { tips.moveTo(x + e, y); tips.arc(x, y, e, 0, 7); continue; }
        const tx = x + ox * half * 0.7, ty = y + oy * half * 0.7;
        tips.moveTo(tx + ox * e, ty + oy * e); tips.lineTo(tx - (oy + ox * 0.5) * e, ty + (ox - oy * 0.5) * e);
        tips.lineTo(tx + (oy - ox * 0.5) * e, ty - (ox + oy * 0.5) * e); tips.closePath();
      }
    }
    const thin = Math.max(1, S.view.s * 0.028);
    g.strokeStyle = css("surface"); g.lineWidth = thin * 2.6; g.lineJoin = "round"; g.stroke(lines); g.stroke(tips);
    g.strokeStyle = g.fillStyle = css("ink"); g.lineWidth = thin; g.stroke(lines); g.fill(tips);
  }
  if (S.view.s >= 50) {
    const role = S.view.s >= 80 && phase && roleAt(t, index, px, py);
    g.font = "10.5px system-ui, sans-serif"; g.textAlign = "left"; g.textBaseline = "top";
    g.strokeStyle = css("page"); g.lineWidth = 3; g.fillStyle = css("ink");
    const text = `${px}, ${py}`;
    g.strokeText(text, X(x) + 4, Y(y) + 4); g.fillText(text, X(x) + 4, Y(y) + 4);
    if (role) { g.textBaseline = "bottom"; g.strokeText(role.name, X(x) + 4, Y(y + 1) - 3); g.fillText(role.name, X(x) + 4, Y(y + 1) - 3); }
  }
}
function size(c, context) {
  const d = window.devicePixelRatio || 1, w = Math.round(c.clientWidth * d), h = Math.round(c.clientHeight * d);
  if (c.width !== w || c.height !== h) { c.width = w; c.height = h; }
  context.setTransform(d, 0, 0, d, 0, 0);
  context.clearRect(0, 0, c.clientWidth, c.clientHeight);
}
// Draws before the next frame, however often it is asked to.
let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    const begin = performance.now();
    asked = false;
    paint();
    // Whoever measures listens: scripts/map_frames.py.
    dispatchEvent(new CustomEvent("mapframe", {detail: performance.now() - begin}));
  });
}
function paint() {
  size(canvas, g);
  const step = stepAt(S.cycle);
  wafers.forEach((at, k) => {
    const box = [X(at.x), Y(at.y), P.target.w * S.view.s, P.target.h * S.view.s];
    g.fillStyle = css("wafer"); g.fillRect(...box);
    g.strokeStyle = css("line"); g.lineWidth = 1; g.strokeRect(...box);
    if (wafers.length > 1 && PLANE.gap * S.view.s > 11) sign(`wafer ${k}`, X(at.x), Y(at.y) - 8, "left");
  });
  for (const r of P.regions) drawRegion(r, step);
  drawDead();
  drawGrid();
  const active = STEPS[step] && P.regions[STEPS[step].region];
  if (active) {
    g.lineJoin = "miter";
    g.strokeStyle = css("page"); g.lineWidth = 6; g.strokeRect(X(active.x), Y(active.y), active.w * S.view.s, active.h * S.view.s);
    g.strokeStyle = css("accent"); g.lineWidth = 3; g.strokeRect(X(active.x), Y(active.y), active.w * S.view.s, active.h * S.view.s);
  }
  for (const r of P.regions) if (S.view.s < 9) label(r, step); else nameTag(r);
  drawStreams(step);
  drawHost();
  for (const [p, ink] of [[S.hover, css("ink")], [S.tile, css("accent")]]) {
    if (!p) continue;
    const side = Math.max(S.view.s, 7), x = X(p.x + 0.5) - side / 2, y = Y(p.y + 0.5) - side / 2;
    g.strokeStyle = css("page"); g.lineWidth = 4.5; g.strokeRect(x, y, side, side);
    g.strokeStyle = ink; g.lineWidth = 2.2; g.strokeRect(x, y, side, side);
  }
  drawMini();
}
// The whole wafer, with the part that the canvas shows.
function drawMini() {
  const s = Math.min(150 / W, 120 / H), w = Math.round(W * s), h = Math.round(H * s);
  mini.style.width = w + "px"; mini.style.height = h + "px";
  const shown = [-S.view.x / S.view.s, -S.view.y / S.view.s, canvas.clientWidth / S.view.s, canvas.clientHeight / S.view.s];
  mini.hidden = shown[0] <= 0 && shown[1] <= 0 && shown[0] + shown[2] >= W && shown[1] + shown[3] >= H;
  if (mini.hidden) return;
  size(mini, gm);
  gm.fillStyle = css("wafer");
  for (const at of wafers) gm.fillRect(at.x * s, at.y * s, P.target.w * s, P.target.h * s);
  for (const r of P.regions) { gm.fillStyle = rgb(regionColor(r)); gm.fillRect(r.x * s, r.y * s, Math.max(r.w * s, 0.6), Math.max(r.h * s, 0.6)); }
  const x = Math.max(shown[0] * s, 1), y = Math.max(shown[1] * s, 1);
  gm.strokeStyle = css("accent"); gm.lineWidth = 2;
  gm.strokeRect(x, y, Math.max(Math.min((shown[0] + shown[2]) * s, w - 1) - x, 7), Math.max(Math.min((shown[1] + shown[3]) * s, h - 1) - y, 7));
}
function fitTo(x, y, w, h, pad) {
  // Above the legend, unless there is room beside it.
  const full = Math.min((canvas.clientHeight - 30) / h, 60), beside = (canvas.clientWidth - full * w) / 2 > $("legend").offsetWidth + 24;
  const b = {w: canvas.clientWidth, h: canvas.clientHeight - (beside ? 0 : 74)};
  const s = Math.min((b.w - 2 * pad) / w, (b.h - 30) / h, 60);
  S.view = {s, x: (b.w - w * s) / 2 - x * s, y: 15 + (b.h - 30 - h * s) / 2 - y * s};
}
function bounds() {
  const x0 = Math.min(...P.regions.map(r => r.x)), y0 = Math.min(...P.regions.map(r => r.y));
  return [x0, y0, Math.max(...P.regions.map(r => r.x + r.w)) - x0, Math.max(...P.regions.map(r => r.y + r.h)) - y0];
}
const fitModel = () => P.regions.length ? fitTo(...bounds(), 120) : fitTo(0, 0, W, H, 20);
