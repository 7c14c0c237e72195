// What every worker did when: a bar for each segment, finishing and idle time, found by mouse and by keys.

const AXIS = 22, MOST_DOTS = 16_000_000, WORDS = ["segment", "finishing", "failed"];
let area = null, cursor = null, keyed = new WeakMap();

function showGantt() {
  const { gantt } = data;
  by("gantt-section").hidden = !gantt.workers.length;
  if (!gantt.workers.length) return;
  const legend = clear(by("gantt-legend"));
  for (const [kind, text] of [["segment", "rendering"], ["finish", "decoding and publishing"], ["failed", "work that failed"], ["idle", "idle"]])
    legend.append(make("span", { class: "pair" }, make("span", { class: `key k-${kind}` }), text));
  by("gantt").setAttribute("aria-label", `What ${gantt.workers.length} ${worker()}s did over time. Arrows move between bars, Enter opens the film. The table below says where idle time went.`);
  drawGantt();
  const rows = gantt.reasons.map(([reason, seconds]) => [reason, duration(seconds), data.totals.held_s ? `${number(seconds / data.totals.held_s * 100, 1)} %` : ""]);
  clear(by("idle"));
  if (rows.length) by("idle").append(table(["Idle time went to", "Time", `Of the ${worker()} hours`], rows, [1, 2]));
}

function drawGantt() {
  const { gantt } = data, canvas = by("gantt"), many = gantt.workers.length;
  const width = Math.max(260, by("gantt-box").clientWidth - 28), left = width < 500 ? 76 : 110;
  const row = many > 200 ? 10 : many > 80 ? 14 : 22, height = AXIS + row * many, length = Math.max(1, (gantt.end - gantt.start) * 10);
  const dots = Math.min(window.devicePixelRatio || 1, Math.sqrt(MOST_DOTS / (width * height)), 32_000 / height);
  area = { left, row, length, perTenth: (width - left) / length };
  canvas.width = width * dots; canvas.height = height * dots; canvas.style.height = `${height}px`; canvas.style.width = `${width}px`;
  const draw = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(name).trim();
  draw.scale(dots, dots);
  draw.font = `${Math.min(11, row)}px system-ui, sans-serif`; draw.textBaseline = "middle";
  draw.fillStyle = color("--dim");
  for (const share of width > 500 ? [0, .25, .5, .75, 1] : [0, .5, 1]) {
    draw.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
    draw.fillText(tick(gantt.start + share * length / 10, length / 10), left + (width - left) * share, AXIS / 2);
  }
  const colors = [color("--segment"), color("--finish"), color("--lost")], idle = color("--idle"), hollow = color("--hollow"), dim = color("--dim");
  const { perTenth } = area, edge = row > 12 ? 4 : 1, thin = row > 12 ? 3 : 2;
  gantt.workers.forEach((line, place) => {
    const y = AXIS + place * row;
    draw.fillStyle = hollow; draw.fillRect(left, y + edge, width - left, row - 2 * edge);
    draw.textAlign = "left"; draw.fillStyle = dim; draw.fillText(line.name, 0, y + row / 2, left - 8);
    draw.fillStyle = idle;
    for (const [start, span] of line.idle) draw.fillRect(left + start * perTenth, y + row * .36, Math.max(.5, span * perTenth), row * .28);
    for (const pass of [1, 0, 2]) {
      draw.fillStyle = colors[pass];
      for (const [start, span, kind] of line.spans)
        if (kind === pass) draw.fillRect(left + start * perTenth, pass === 1 ? y + row - edge - thin : y + edge, Math.max(.6, span * perTenth - (span * perTenth > 3 ? 1 : 0)), pass === 1 ? thin : row - 2 * edge - thin);
    }
  });
  const at = underCursor();
  if (!at || document.activeElement !== canvas) return;
  const x = left + at.bar.start * perTenth, y = AXIS + at.place * row;
  draw.strokeStyle = color("--text"); draw.lineWidth = 2;
  draw.strokeRect(Math.max(left, x - 2), y + 1, Math.max(4, at.bar.span * perTenth + 4), row - 2);
}

// --- bars ---

function barsOf(line) {
  if (!keyed.has(line))
    keyed.set(line, [
      ...line.spans.map(([start, span, kind, job, segment]) => ({ start, span, kind, job, segment })),
      ...line.idle.map(([start, span, reason]) => ({ start, span, reason })),
    ].sort((a, b) => a.start - b.start || b.span - a.span));
  return keyed.get(line);
}
function barText(bar) {
  if (bar.reason !== undefined) return `idle ${duration(bar.span / 10)}: ${data.gantt.reasons[bar.reason][0]}`;
  return `${data.jobs.id[bar.job] ?? "?"}: ${WORDS[bar.kind]}${bar.segment >= 0 && bar.kind !== 1 ? ` ${bar.segment + 1}` : ""}, ${duration(bar.span / 10)}`;
}
function tipAt(text, x, y) {
  const tip = by("tip"), box = by("gantt-box");
  tip.textContent = text;
  tip.classList.toggle("on", Boolean(text));
  tip.style.left = `${Math.max(4, Math.min(x + 12, box.clientWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + 14}px`;
}

// --- by mouse ---

function barAt(event) {
  const bounds = by("gantt").getBoundingClientRect(), place = Math.floor((event.clientY - bounds.top - AXIS) / area.row), line = data.gantt.workers[place];
  if (!line) return null;
  const time = (event.clientX - bounds.left - area.left) / area.perTenth, slack = 2 / area.perTenth;
  const hits = barsOf(line).filter(({ start, span, reason }) => time >= start - (reason === undefined ? slack : 0) && time <= start + span + (reason === undefined ? slack : 0));
  const work = hits.filter((bar) => bar.reason === undefined);
  return hits.length ? { place, bars: work.length ? work : hits } : null;
}
by("gantt").addEventListener("mousemove", (event) => {
  const hit = barAt(event), box = by("gantt-box").getBoundingClientRect();
  tipAt(hit ? hit.bars.slice(0, 4).map(barText).join("; ") : "", event.clientX - box.left, event.clientY - box.top + by("gantt-box").scrollTop);
});
by("gantt").addEventListener("mouseleave", () => tipAt("", 0, 0));
by("gantt").addEventListener("click", (event) => {
  const hit = barAt(event);
  if (!hit) return;
  goTo(hit.place, hit.bars[0]);
  openBar();
});

// --- by keys ---

// Found anew each time: the data of a live page are replaced.
function underCursor() {
  if (!cursor) return null;
  const place = data.gantt.workers.findIndex((line) => line.name === cursor.worker), bars = place < 0 ? [] : barsOf(data.gantt.workers[place]);
  if (!bars.length) return null;
  const same = bars.findIndex((bar) => bar.start === cursor.start && bar.kind === cursor.kind);
  const index = same >= 0 ? same : nearest(bars, cursor.start);
  return { place, bars, index, bar: bars[index] };
}
function nearest(bars, time) {
  const distance = ({ start, span }) => Math.max(start - time, time - start - span, 0);
  return bars.reduce((best, bar, index) => (distance(bar) < distance(bars[best]) ? index : best), 0);
}
function goTo(place, bar) {
  const { name } = data.gantt.workers[place], box = by("gantt-box"), top = AXIS + place * area.row, padding = 14;
  cursor = { worker: name, start: bar.start, kind: bar.kind };
  if (top < box.scrollTop + AXIS) box.scrollTop = top - AXIS;
  else if (top + area.row + 2 * padding > box.scrollTop + box.clientHeight) box.scrollTop = top + area.row + 2 * padding - box.clientHeight;
  by("gantt-said").textContent = `${name}, ${tick(data.gantt.start + bar.start / 10, area.length / 10)}: ${barText(bar)}`;
  drawGantt();
}
function openBar() {
  const at = underCursor();
  if (at && at.bar.job >= 0) find(at.bar.job, by("gantt"));
}
function leaveGantt() {
  cursor = null;
  by("gantt-said").textContent = "";
  drawGantt();
}
function moveCursor(key) {
  const lines = data.gantt.workers, at = underCursor();
  if (!at) {
    const first = lines.findIndex((line) => barsOf(line).length);
    if (first >= 0) goTo(first, barsOf(lines[first])[0]);
    return;
  }
  const { bars, index, bar } = at, along = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: bars.length - 1 }[key];
  const jump = { PageUp: -.1, PageDown: .1 }[key], step = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (along !== undefined) goTo(at.place, bars[along] ?? bar);
  else if (jump) goTo(at.place, bars[nearest(bars, bar.start + jump * area.length)]);
  else {
    let place = at.place + step;
    while (lines[place] && !barsOf(lines[place]).length) place += step;
    if (lines[place]) goTo(place, barsOf(lines[place])[nearest(barsOf(lines[place]), bar.start + bar.span / 2)]);
  }
}
by("gantt").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(Arrow(Left|Right|Up|Down)|Home|End|PageUp|PageDown)$/.test(event.key)) moveCursor(event.key);
  else if (event.key === "Enter" || event.key === " ") openBar();
  else if (event.key === "Escape" && cursor) leaveGantt();
  else return;
  event.preventDefault();
  event.stopPropagation();
});
by("gantt").addEventListener("focus", () => { if (by("gantt").matches(":focus-visible") && !cursor) moveCursor("Home"); else drawGantt(); });
by("gantt").addEventListener("blur", () => { tipAt("", 0, 0); drawGantt(); });
