// Time bar, input and state. The address's hash holds the state, so that a view can be passed on.
const timeCanvas = $("time"), gt = timeCanvas.getContext("2d");
function drawTime() {
  size(timeCanvas, gt);
  const w = timeCanvas.clientWidth, at = c => c / TOTAL * w, step = STEPS[stepAt(S.cycle)];
  for (const r of P.regions) {
    const active = step && step.region === r.id;
    gt.fillStyle = rgb(regionColor(r));
    gt.fillRect(at(r.start), 0, Math.max(at(r.end) - at(r.start) - 0.7, 0.5), 17);
    if (active) { gt.strokeStyle = css("accent"); gt.lineWidth = 2; gt.strokeRect(at(r.start) + 1, 1, Math.max(at(r.end) - at(r.start) - 2, 1), 15); }
    const width = at(r.end) - at(r.start), size = 10.5;
    gt.font = `600 ${size}px system-ui, sans-serif`; gt.textBaseline = "middle"; gt.textAlign = "center";
    if (gt.measureText(r.name).width < width - 6) { gt.fillStyle = inkOn(regionColor(r)); gt.fillText(r.name, at(r.start) + width / 2, 9); }
  }
  if (step) {
    const r = P.regions[step.region], phases = STEPS.filter(q => q.region === step.region), span = Math.max(r.end - r.start, 1);
    for (const q of phases) {
      const p = templateOf(r).phases[q.phase], x = (q.start - r.start) / span * w, width = q.len / span * w;
      const compute = CLAIMED && q.len ? p.compute / q.len : 1, on = q === step;
      gt.globalAlpha = on ? 1 : 0.45;
      gt.fillStyle = css("activation"); gt.fillRect(x, 21, Math.max(width * compute - 0.3, 0), 25);
      gt.fillStyle = css("scratch"); gt.fillRect(x + width * compute, 21, Math.max(width * (1 - compute) - 1, 0.4), 25);
      gt.globalAlpha = 1;
      gt.font = `${on ? "600 " : ""}11px system-ui, sans-serif`; gt.textAlign = "center";
      if (gt.measureText(p.name).width < width - 6) {
        gt.strokeStyle = css("page"); gt.lineWidth = 3; gt.lineJoin = "round"; gt.globalAlpha = 0.8;
        gt.strokeText(p.name, x + width / 2, 34); gt.globalAlpha = 1;
        gt.fillStyle = css("ink"); gt.fillText(p.name, x + width / 2, 34);
      }
    }
    gt.fillStyle = css("accent");
    gt.fillRect((S.cycle - r.start) / span * w - 1, 20, 2.5, 26);
  }
  gt.fillStyle = css("accent"); gt.fillRect(at(S.cycle) - 1, 0, 2.5, 18);
}
function clock() {
  const step = STEPS[stepAt(S.cycle)];
  if (!step) { $("now").textContent = "no phases"; return; }
  const r = P.regions[step.region], p = templateOf(r).phases[step.phase];
  const figures = CLAIMED ? `cycle ${number(S.cycle)} of ${number(TOTAL)} · ${time(S.cycle).replace(" ", "\u00a0")}` : `step ${number(S.cycle + 1)} of ${number(TOTAL)}; no cycles claimed`;
  $("now").replaceChildren(h("b", {title: p.kind || ""}, `${r.name} · ${p.name}`), h("span", {class: "soft"}, figures));
}
let last = -1;
function setCycle(cycle, quiet) {
  S.cycle = Math.min(Math.max(cycle, 0), TOTAL - 1);
  $("slide").value = S.cycle;
  clock(); drawTime();
  const step = stepAt(S.cycle);
  if (step !== last) {
    last = step;
    draw();
    legend();
    if (S.tab === "tile" && !(S.playing && !S.tile)) panel();
  }
  if (!quiet) save();
}
function move(steps) { const i = Math.min(Math.max(stepAt(S.cycle) + steps, 0), STEPS.length - 1); if (STEPS[i]) setCycle(STEPS[i].start); }
let shownAt = 0;
function frame(now) {
  if (!S.playing) return;
  const seconds = Math.min((now - shownAt) / 1000, 0.1), long = Math.max(15, Math.min(STEPS.length * 0.2, 40));
  shownAt = now;
  const next = S.cycle + TOTAL / long * seconds;
  setCycle(next >= TOTAL - 1 ? 0 : next, true);
  requestAnimationFrame(frame);
}
function play() {
  S.playing = !S.playing;
  $("play").textContent = S.playing ? "❚❚" : "▶\uFE0E";
  $("play").setAttribute("aria-label", S.playing ? "Pause" : "Play");
  shownAt = performance.now();
  if (S.playing) requestAnimationFrame(frame); else save();
}

function legend() {
  const chip = (color, text) => h("span", {class: "chip"}, h("i", {style: {background: color}}), text);
  const gradient = (stops, from, to) => [h("span", {}, from), h("span", {class: "ramp", style: {background: `linear-gradient(90deg, ${stops.map(rgb).join(",")})`}}), h("span", {}, to)];
  let parts;
  if (S.q) parts = [h("b", {}, "Holds the weight"), ...gradient([amount(0.22), amount(0.42), amount(0.62)], "less", "more"), chip(dark() ? "#343a40" : "#d8d4cc", "nothing of it")];
  else if (S.mode === "sram") parts = [h("b", {}, "SRAM used per tile"), ...gradient(amountStops(), "0", `${bytes(amountMax)} (${Math.round(100 * amountMax / USABLE)} % of the usable ${bytes(USABLE)})`)];
  else if (S.mode === "kv") {
    const kv = P.templates.map(t => t.kv).find(Boolean);
    parts = [h("b", {}, "KV cache per tile"), ...gradient(amountStops(), "0", `${bytes(USABLE)}, all there is`), ...(kv ? [h("span", {}, `here ${bytes(kvMax)}; token t lies on row t mod ${number(kv.rows)}${kv.columns > 1 ? `, column t / ${number(kv.rows)} mod ${number(kv.columns)} of each cell` : ""}${kv.requests > 1 ? `, ${number(kv.requests)} requests` : ""}`), chip("var(--accent)", `${kv.columns > 1 ? "place" : "row"} of token ${number(P.claims.pos)}`)] : ["this plan caches nothing"])];
  } else if (S.mode === "links") parts = [h("b", {}, "Colors routed through a tile"), ...gradient(amountStops(), "0", `${COLORS}, all there are`)];
  else if (S.mode === "role") {
    const step = STEPS[stepAt(S.cycle)], phase = step && templateOf(P.regions[step.region]).phases[step.phase];
    const names = phase ? [...new Set(phase.roles.map(r => r.name))] : [];
    parts = [h("b", {}, phase ? `Roles in phase ${phase.name}` : "Roles"), ...names.map(n => chip(rgb(roleColor(n)), n))];
  } else {
    const rest = P.regions.filter(r => r.layer === null).slice(0, 4);
    parts = [h("b", {}, "Layer"), ...(layers.length ? gradient(VIRIDIS, `${layers[0].layer}`, `${layers[layers.length - 1].layer}`) : []), ...rest.map(r => chip(rgb(regionColor(r)), r.name))];
  }
  const flow = [chip("var(--accent)", "where the token is now"), ...(P.target.dead.length ? [chip("var(--dead)", `dead tiles (${number(P.target.dead.length)}${P.target.dead_more ? "+" : ""})`)] : []), ...(R ? [chip("var(--dead)", `dead tiles (${number(R.dead.length)}${R.dead_more ? "+" : ""})`), chip("var(--reserved)", "spare tiles"), h("span", {class: "chip"}, `${number(R.detours.length)} detours: zoom in`)] : []),
    h("span", {class: "chip"}, "→ activation to the next region"),
    ...(CLAIMED ? [h("span", {class: "chip"}, "time bar:"), chip("var(--activation)", "compute"), chip("var(--scratch)", "communication")] : [])];
  $("legend").replaceChildren(h("div", {class: "row"}, parts), h("div", {class: "row soft"}, flow));
}
const MODES = [["layer", "Layer"], ["sram", "SRAM use"], ["kv", "KV cache"], ["role", "Role in phase"], ["links", "Link colors"]];
function modes() {
  $("modes").replaceChildren(...MODES.map(([id, text], i) =>
    h("button", {role: "radio", "aria-checked": S.mode === id && !S.q, title: `Colour by ${text} (${i + 1})`, on: () => setMode(id)}, text)));
}
function refresh() { modes(); legend(); panel(); clock(); draw(); drawTime(); }
function setMode(mode) { S.mode = mode; S.q = ""; $("find").value = ""; refresh(); save(); }
function search(text) {
  S.q = text.trim().toLowerCase();
  if ($("find").value.trim().toLowerCase() !== S.q) $("find").value = text;
  if (S.q) S.tab = "weights";
  refresh(); save();
}
function zoomTo(r) { fitTo(r.x, r.y, r.w, r.h, 50); draw(); save(); }
function selectTile(x, y) {
  S.tile = toMachine(x, y) ? {x, y} : null;
  if (S.tile && S.tab === "model") S.tab = "tile";
  draw(); panel(); save();
}
const tileAt = e => {
  const b = canvas.getBoundingClientRect();
  const x = Math.floor((e.clientX - b.left - S.view.x) / S.view.s), y = Math.floor((e.clientY - b.top - S.view.y) / S.view.s);
  return toMachine(x, y) ? {x, y} : null;
};
function tip(e, p) {
  const r = p && regionAt(p.x, p.y), box = $("tip");
  box.hidden = !p;
  if (!p) return;
  const t = r && templateOf(r), lines = [];
  if (r) {
    const [x, y] = position(r, p.x, p.y), step = STEPS[stepAt(S.cycle)];
    const role = step && step.region === r.id && roleAt(t, step.phase, x, y);
    lines.push(h("b", {}, r.name), `tile ${place(p.x, p.y)} · SRAM ${bytes(usedBytes(t)[y * t.w + x] || 0)}`, S.mode === "links" ? h("div", {}, `${routedColors(t)[y * t.w + x]} colors routed`) : "", role ? h("div", {}, `${role.name} in ${t.phases[step.phase].name}`) : "");
    if (S.q) for (const {pin, a0, a1} of pinsAt(t, x, y).filter(({pin}) => matches(t, r)(pin)).slice(0, 3)) lines.push(h("div", {class: "code"}, `${weightName(t, pin.w, r)} [${range(a0)}, ${range(a1)}]`));
  } else lines.push(`tile ${place(p.x, p.y)}: ${P.target.dead.some(([x, y]) => x === p.x && y === p.y) ? "dead" : "free"}`);
  box.replaceChildren(...lines);
  const stage = canvas.getBoundingClientRect(), x = e.clientX - stage.left, y = e.clientY - stage.top;
  box.style.left = `${Math.min(x + 14, stage.width - box.offsetWidth - 6)}px`;
  box.style.top = `${y + 18 + box.offsetHeight > stage.height ? y - box.offsetHeight - 10 : y + 18}px`;
}
function zoom(factor, x, y) {
  const s = Math.min(Math.max(S.view.s * factor, Math.min(canvas.clientWidth / W, canvas.clientHeight / H) * 0.4), 120), k = s / S.view.s;
  S.view = {s, x: x - (x - S.view.x) * k, y: y - (y - S.view.y) * k};
  draw(); save();
}

let drag = null;
canvas.addEventListener("pointerdown", e => { drag = {x: e.clientX, y: e.clientY, view: {...S.view}, moved: false}; canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointermove", e => {
  if (drag) {
    const dx = e.clientX - drag.x, dy = e.clientY - drag.y;
    if (Math.hypot(dx, dy) > 3) { drag.moved = true; canvas.classList.add("drag"); }
    if (drag.moved) { S.view.x = drag.view.x + dx; S.view.y = drag.view.y + dy; draw(); }
    return;
  }
  const p = tileAt(e), same = p && S.hover && p.x === S.hover.x && p.y === S.hover.y;
  tip(e, p);
  if (same || (!p && !S.hover)) return;
  S.hover = p;
  draw();
  if (!S.tile && S.tab !== "model") panel();
});
canvas.addEventListener("pointerup", e => {
  const p = tileAt(e);
  if (drag && !drag.moved) selectTile(p && !(S.tile && p.x === S.tile.x && p.y === S.tile.y) ? p.x : -1, p ? p.y : -1);
  else save();
  drag = null; canvas.classList.remove("drag");
});
canvas.addEventListener("pointerleave", () => { S.hover = null; $("tip").hidden = true; draw(); });
canvas.addEventListener("dblclick", e => { const p = tileAt(e), r = p && regionAt(p.x, p.y); if (r) zoomTo(r); });
canvas.addEventListener("wheel", e => { e.preventDefault(); const b = canvas.getBoundingClientRect(); zoom(Math.exp(-e.deltaY * 0.0016), e.clientX - b.left, e.clientY - b.top); }, {passive: false});
mini.addEventListener("click", e => {
  const b = mini.getBoundingClientRect(), x = (e.clientX - b.left) / b.width * W, y = (e.clientY - b.top) / b.height * H;
  S.view.x = canvas.clientWidth / 2 - x * S.view.s; S.view.y = canvas.clientHeight / 2 - y * S.view.s; draw(); save();
});
timeCanvas.addEventListener("click", e => {
  const b = timeCanvas.getBoundingClientRect(), f = (e.clientX - b.left) / b.width, step = STEPS[stepAt(S.cycle)];
  if (e.clientY - b.top < 19 || !step) setCycle(f * TOTAL);
  else { const r = P.regions[step.region]; setCycle(r.start + f * (r.end - r.start)); }
});
$("slide").addEventListener("input", e => setCycle(+e.target.value));
$("find").addEventListener("input", e => search(e.target.value));
$("play").addEventListener("click", play);
$("prev").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("fit-model").addEventListener("click", () => { fitModel(); draw(); save(); });
$("fit-wafer").addEventListener("click", () => { fitTo(0, 0, W, H, 20); draw(); save(); });
$("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; refresh(); save(); });
$("help").addEventListener("click", () => { const k = $("keys"); k.hidden = !k.hidden; $("help").setAttribute("aria-expanded", !k.hidden); });
const KEYS = [["1 … 5", "colour by layer, SRAM, KV, role, links"], ["/", "find a weight"], ["space", "play or pause"], ["[ ]", "previous, next phase"], ["{ }", "previous, next region"], ["arrows", "move the tile (map focused)"], ["+ -", "zoom"], ["0 9", "fit model, wafer"], ["T", "light or dark"], ["Esc", "let go of tile and search"]];
$("keys").append(h("table", {}, KEYS.map(([k, what]) => h("tr", {}, h("td", {}, h("kbd", {}, k)), h("td", {}, what)))));
function keepInView() {
  const p = S.tile, m = 40, w = canvas.clientWidth, hgt = canvas.clientHeight;
  S.view.x += Math.max(m - X(p.x), 0) - Math.max(X(p.x) - (w - m), 0);
  S.view.y += Math.max(m - Y(p.y), 0) - Math.max(Y(p.y) - (hgt - m), 0);
}
function region(steps) {
  const step = STEPS[stepAt(S.cycle)], r = step && P.regions[Math.min(Math.max(step.region + steps, 0), P.regions.length - 1)];
  if (r) setCycle(r.start);
}
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = e.target.id === "find";
  if (e.key === "Escape") { S.tile = null; $("find").value = ""; $("keys").hidden = true; search(""); canvas.focus(); return; }
  if (typing) return;
  const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
  if (arrows && e.target === canvas) {
    const far = e.shiftKey ? 10 : 1, from = S.tile || (P.regions[0] ? {x: P.regions[0].x, y: P.regions[0].y} : {x: 0, y: 0});
    S.tile = {x: Math.min(Math.max(from.x + arrows[0] * far, 0), W - 1), y: Math.min(Math.max(from.y + arrows[1] * far, 0), H - 1)};
    keepInView(); selectTile(S.tile.x, S.tile.y);
    e.preventDefault();
    return;
  }
  const middle = f => zoom(f, canvas.clientWidth / 2, canvas.clientHeight / 2);
  const act = {"1": () => setMode("layer"), "2": () => setMode("sram"), "3": () => setMode("kv"), "4": () => setMode("role"), "5": () => setMode("links"), "/": () => $("find").focus(), "[": () => move(-1), "]": () => move(1), "{": () => region(-1), "}": () => region(1),
    "+": () => middle(1.4), "=": () => middle(1.4), "-": () => middle(1 / 1.4), "0": () => $("fit-model").click(), "9": () => $("fit-wafer").click(), "t": () => $("theme").click(), "?": () => $("help").click(),
    " ": e.target.tagName === "BUTTON" ? null : play}[e.key];
  if (act) { act(); e.preventDefault(); }
});

// State in the hash, e.g. #mode=role&cycle=1200&tile=40,7&q=q_proj&view=1.5,-20,10&theme=dark&tab=tile
let saving = 0;
function save() {
  clearTimeout(saving);
  saving = setTimeout(() => {
    tell();
    const q = new URLSearchParams({mode: S.mode, cycle: Math.round(S.cycle), tab: S.tab, view: [S.view.s, S.view.x, S.view.y].map(v => +v.toFixed(3)).join(",")});
    const tile = S.tile && toMachine(S.tile.x, S.tile.y);
    if (tile) q.set("tile", `${tile.x},${tile.y}`);
    if (S.q) q.set("q", S.q);
    if (root.dataset.chosen || dark() !== matchMedia("(prefers-color-scheme: dark)").matches) q.set("theme", root.dataset.theme);
    try { history.replaceState(null, "", "#" + q); } catch { /* some viewers forbid it: nothing is lost but the address */ }
  }, 200);
}
function load() {
  const q = new URLSearchParams(location.hash.slice(1)), numbers = key => (q.get(key) || "").split(",").map(Number);
  const theme = q.get("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = theme === "dark" ? "dark" : "light";
  if (MODES.some(([id]) => id === q.get("mode"))) S.mode = q.get("mode");
  if (["model", "tile", "weights"].includes(q.get("tab"))) S.tab = q.get("tab");
  S.q = (q.get("q") || "").toLowerCase(); $("find").value = S.q;
  legend();
  const [x, y] = numbers("tile");
  if (q.has("tile") && x >= 0 && y >= 0 && x < P.target.w * P.target.wafers && y < P.target.h) S.tile = toPlane(Math.floor(x), Math.floor(y));
  const [scale, vx, vy] = numbers("view");
  if (parent === window) fitModel(); else fitTo(0, 0, W, H, 20);
  if (q.has("region")) { const r = P.regions.find(r => r.name === q.get("region")); if (r) fitTo(r.x, r.y, r.w, r.h, 50); }
  if (q.has("view") && scale > 0 && Number.isFinite(vx + vy)) S.view = {s: scale, x: vx, y: vy};
  $("slide").max = TOTAL - 1;
  setCycle(+q.get("cycle") || 0, true);
}
function stats() {
  const used = P.regions.reduce((a, r) => a + r.w * r.h, 0), c = P.claims, rate = cycles => P.target.ghz * 1e9 / cycles;
  const short = v => v >= 100 ? number(Math.floor(v)) : v.toFixed(1), add = (value, name, title) => $("stats").append(h("div", {title}, h("dd", {}, value), h("dt", {}, name)));
  if (c.token) {
    add(short(rate(c.token)), "tokens/s claimed", `${number(c.token)} cycles per token at position ${number(c.pos)}, ${P.target.ghz} GHz`);
    add(time(c.token), "per token");
  }
  if (c.prefill) add(short(rate(c.prefill)), "tokens/s of prompt");
  const all = P.target.w * P.target.h * P.target.wafers;
  add(number(used), `of ${number(all)} PEs (${(100 * used / all).toFixed(used * 10 < all ? 1 : 0)} %)`);
  add(bytes(P.regions.reduce((a, r) => a + r.w * r.h * sramUsed(templateOf(r)), 0)), "of SRAM");
  add(number(P.model.context), "tokens of context");
  const t = P.target, wafers = t.wafers > 1 ? `${t.wafers} wafers of ` : "";
  $("sub").textContent = `${P.model.layers} layer${P.model.layers === 1 ? "" : "s"}, hidden size ${number(P.model.hidden)}, on ${wafers}${t.w} × ${t.h} PEs at ${t.ghz} GHz`;
}
amountMax = Math.max(1, ...P.templates.map(sramUsed));
stats();
load();
refresh();
addEventListener("resize", () => { draw(); drawTime(); });
addEventListener("hashchange", () => { load(); refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", e => { root.dataset.theme = e.matches ? "dark" : "light"; refresh(); });
// Beside another map, both show the same: the view around its middle, mode, search and share of the time.
let told = "";
function tell() {
  if (parent === window) return;
  const {x, y, s} = S.view, w = canvas.clientWidth / 2, hgt = canvas.clientHeight / 2;
  const state = {mode: S.mode, q: S.q, time: S.cycle / TOTAL, s, x: (w - x) / s, y: (hgt - y) / s};
  const text = JSON.stringify(state);
  if (text !== told) { told = text; parent.postMessage({map: "state", state}, "*"); }
}
addEventListener("message", e => {
  if (parent === window || e.source !== parent || !e.data || e.data.map !== "state") return;
  const {mode, q, time, s, x, y} = e.data.state;
  if (MODES.some(([id]) => id === mode)) S.mode = mode;
  S.q = String(q); $("find").value = S.q;
  S.view = {s, x: canvas.clientWidth / 2 - x * s, y: canvas.clientHeight / 2 - y * s};
  refresh(); setCycle(time * TOTAL, true);
  told = JSON.stringify(e.data.state);
});
if (parent !== window) parent.postMessage({map: "ready"}, "*");
root.dataset.ready = "true";
