"use strict";
(() => {
  let data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const PAGE = 60;
  const SAFE_STATES = ["done", "running", "waiting", "failed", "cancelled"];

  // Text goes into the page as text, whatever it holds.
  function make(tag, options = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") element.className = value;
      else if (name === "text") element.textContent = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const clear = (element) => { element.replaceChildren(); return element; };
  const number = (value, digits = 0) => Number(value).toLocaleString("en", { maximumFractionDigits: digits });
  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
    const whole = Math.round(seconds), h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
    return h ? `${number(h)} h ${m} min` : `${m} min ${whole % 60} s`;
  }
  const two = (value) => String(value).padStart(2, "0");
  function clock(seconds, withDay = false) {
    const time = new Date(seconds * 1000);
    const hours = `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}`;
    return withDay ? `${time.toISOString().slice(0, 10)} ${hours} UTC` : hours;
  }
  const isGpu = () => data.run.device === "cuda";
  const worker = () => (isGpu() ? "GPU" : "worker");
  const mediaOf = (index, name) =>
    (data.media && data.media[index] && data.media[index][name]) ||
    `../../${encodeURIComponent(data.jobs.id[index])}/${name}`;

  // What can be watched of a film: its video, or what there is of it before it is done.
  function watchOf(index) {
    if (data.jobs.state[index] === "done") return { still: mediaOf(index, "poster.jpg"), video: mediaOf(index, "video.mp4"), seconds: data.jobs.video[index] };
    const preview = data.previews[index];
    if (!preview) return null;
    const [work, segments, seconds] = preview;
    const place = (name) => (data.media && data.media[index] && data.media[index][name]) || `../../_work/${encodeURIComponent(work)}/preview/${name}?n=${segments}`;
    return { still: place("sheet.jpg"), video: place("preview.mp4"), seconds, segments };
  }
  const partText = (index, watch) => `${number(watch.segments)} of ${data.jobs.segments[index] ?? "?"} segments, ${number(watch.seconds, 1)} s`;

  // --- head ---

  function showHead() {
    const { run, totals } = data, states = totals.states;
    by("title").textContent = run.id;
    const badge = by("state");
    badge.textContent = run.over ? run.state : "running";
    badge.className = `badge s-${SAFE_STATES.includes(run.state) ? run.state : "waiting"}`;
    const parts = [run.output];
    if (run.started) parts.push(`began ${clock(run.started, true)}`);
    parts.push(`written ${clock(run.written, true)}`);
    by("subtitle").textContent = parts.join("  ·  ");
    by("verdict").textContent = verdict();
    by("footer").textContent = `render_farm ${run.version || ""}  ·  ${run.manifest || "one prompt"}`;
    const tiles = [
      ["Films", `${number(states.done || 0)} of ${number(totals.jobs)}`, stateText()],
      ["Video", duration(totals.video_s), totals.already ? `${number(totals.already)} films were there already` : "made in this run"],
      ["Wall time", duration(totals.wall_s), `${number(totals.workers)} ${worker()}${totals.workers === 1 ? "" : "s"}`],
      [`${isGpu() ? "GPU" : "Worker"} hours`, number(totals.held_s / 3600, totals.held_s < 36000 ? 2 : 1), totals.busy_share === null ? "" : `busy ${number(totals.busy_share * 100, 1)} %`],
      ["Cost", totals.cost === null ? "–" : `${number(totals.cost, 2)} ${totals.currency || ""}`, totals.cost === null ? "gpu_price_per_hour is not set" : "of the hours held"],
      ["Yield", totals.video_s_per_held_h === null ? "–" : duration(totals.video_s_per_held_h), `of video per ${worker()} hour`],
      ["Lost work", duration(totals.lost_s), totals.attempts_again ? `${number(totals.attempts_again)} further attempts` : "no further attempts"],
    ];
    if (run.now) tiles.splice(1, 0, ["Time left", run.now.eta === null ? "–" : duration(run.now.eta), run.now.paused ? "paused" : run.now.note || `${number(run.now.steps, 1)} steps/s, ${number(run.now.busy)} of ${number(run.now.workers)} ${worker()}s busy`]);
    if (totals.deadlines) tiles.push(["Deadlines", `${number(totals.deadlines - totals.late)} of ${number(totals.deadlines)}`, totals.late ? `${number(totals.late)} late` : "all kept"]);
    clear(by("totals")).append(...tiles.map(([name, value, note]) =>
      make("div", {}, make("dt", { text: name }), make("dd", { text: value }, make("small", { text: note })))));
  }
  function stateText() {
    const shown = Object.entries(data.totals.states).filter(([state]) => state !== "done");
    return shown.length ? shown.map(([state, count]) => `${number(count)} ${state}`).join(", ") : "all done";
  }
  function verdict() {
    const { run, totals } = data, failed = totals.states.failed || 0, seams = data.seams.length;
    const seamy = seams ? ` ${number(seams)} ${seams === 1 ? "film has" : "films have"} a visible seam.` : "";
    if (!run.over) return `Running: ${number(totals.states.done || 0)} of ${number(totals.jobs)} films are done${failed ? `, ${number(failed)} failed` : ""}.${seamy}`;
    if (!failed && totals.states.done === totals.jobs) return `All ${number(totals.jobs)} films are done.${seamy}`;
    const causes = data.failures.length;
    if (failed) return `${number(failed)} of ${number(totals.jobs)} films failed, for ${causes === 1 ? "one cause" : `${number(causes)} causes`}.${seamy}`;
    return `Stopped: ${number(totals.states.done || 0)} of ${number(totals.jobs)} films are done.${seamy}`;
  }

  // --- failures ---

  function showFailures() {
    by("failures-section").hidden = !data.failures.length;
    clear(by("failures")).append(...data.failures.map((group) => {
      const count = group.job_ids.length;
      const card = make("div", { class: "card bad" },
        make("p", { class: "what", text: `${number(count)} ${count === 1 ? "film" : "films"}: ${group.error_class}` }),
        make("p", { text: group.message }),
        make("p", { class: "dim", text: group.advice }));
      if (group.retry) {
        const copy = make("button", { type: "button", text: "Copy", onclick: () => {
          const told = () => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
          if (navigator.clipboard) navigator.clipboard.writeText(group.retry).then(told, () => {});
        } });
        card.append(make("div", { class: "command" }, make("code", { text: group.retry }), copy));
      }
      const listed = make("details", {}, make("summary", { text: count === 1 ? "Which one" : "Which ones" }));
      listed.addEventListener("toggle", () => {
        if (listed.open && listed.childElementCount === 1) listed.append(make("p", { class: "jobs", text: group.job_ids.join(", ") }));
      });
      card.append(listed);
      return card;
    }));
  }

  // --- films ---

  const CHIPS = { seam: "visible seam", preview: "watchable" };
  const fits = (state, index, seamy) => state === "all" || (state === "seam" ? seamy.has(index) : state === "preview" ? index in data.previews : data.jobs.state[index] === state);
  const filter = { text: "", state: "all", sort: "order" };
  let shown = [], numShown = 0, haystack = null;

  function prepareFilms() {
    const jobs = data.jobs;
    haystack = null;
    const previews = Object.keys(data.previews).length;
    const all = { all: jobs.id.length, ...data.totals.states, ...(previews ? { preview: previews } : {}), ...(data.seams.length ? { seam: data.seams.length } : {}) };
    clear(by("states")).append(...Object.entries(all).map(([state, count]) =>
      make("button", { type: "button", "data-state": state, "aria-pressed": String(filter.state === state),
        text: `${CHIPS[state] || state} ${number(count)}`, onclick: () => choose(state) })));
  }
  function choose(state) {
    filter.state = state;
    for (const chip of by("states").children) chip.setAttribute("aria-pressed", String(chip.dataset.state === state));
    showFilms();
  }
  function showFilms() {
    const jobs = data.jobs, words = filter.text.toLowerCase().split(/\s+/).filter(Boolean), visible = new Set(data.seams);
    shown = [];
    if (words.length && !haystack)
      haystack = jobs.id.map((id, index) => `${id} ${jobs.prompt[index]} ${jobs.label[index]} ${jobs.model[index] || ""} ${jobs.error[index] || ""}`.toLowerCase());
    for (let index = 0; index < jobs.id.length; index++) {
      if (!fits(filter.state, index, visible)) continue;
      if (words.every((word) => haystack[index].includes(word))) shown.push(index);
    }
    if (filter.sort === "id") shown.sort((a, b) => (jobs.id[a] < jobs.id[b] ? -1 : 1));
    else if (filter.sort !== "order") shown.sort((a, b) => (jobs[filter.sort][b] ?? -1) - (jobs[filter.sort][a] ?? -1));
    clear(by("gallery"));
    numShown = 0;
    by("none").hidden = shown.length > 0;
    by("count").textContent = shown.length === jobs.id.length ? "" : `${number(shown.length)} of ${number(jobs.id.length)}`;
    showMore();
  }
  function showMore() {
    const next = shown.slice(numShown, numShown + PAGE);
    by("gallery").append(...next.map((index, place) => card(index, numShown + place)));
    numShown += next.length;
  }
  function card(index, place) {
    const jobs = data.jobs, state = jobs.state[index], shot = make("div", { class: "shot" });
    const watch = watchOf(index);
    if (watch) {
      const image = make("img", { src: watch.still, alt: "", loading: "lazy", decoding: "async" });
      image.addEventListener("error", () => image.replaceWith(make("span", { text: state === "done" ? "no poster here" : state })), { once: true });
      shot.append(image);
      if (state !== "done") shot.append(make("span", { class: "length part", text: partText(index, watch) }));
      else if (watch.seconds) shot.append(make("span", { class: "length", text: `${number(watch.seconds, 1)} s` }));
    } else shot.append(make("span", { class: `s-${state}`, text: state }));
    const name = make("button", { class: "name", type: "button", text: jobs.id[index] });
    const meta = make("div", { class: "meta" }, make("span", { text: `seed ${jobs.seed[index]}` }));
    if (jobs.size[index]) meta.append(make("span", { text: jobs.size[index] }));
    if (jobs.gpu[index]) meta.append(make("span", { text: `${duration(jobs.gpu[index])} rendering` }));
    if (jobs.seam[index] !== null) meta.append(make("span", { class: jobs.seam[index] >= data.visible_seam ? "seamy" : "", text: `seam ${number(jobs.seam[index], 2)}` }));
    const body = make("div", { class: "text" }, name, make("div", { class: "prompt", text: jobs.prompt[index] }),
      state === "failed" ? make("div", { class: "why", text: jobs.message[index] || jobs.error[index] || "failed" }) : null, meta);
    const film = make("li", { class: "film", "data-place": place, onclick: () => openFilm(place) }, shot, body);
    if (watch) {
      const play = () => {
        if (shot.querySelector("video")) return;
        const video = make("video", { src: watch.video, muted: true, loop: true, playsinline: true, preload: "auto" });
        video.muted = true;
        shot.append(video);
        video.play().catch(() => {});
      };
      const stop = () => {
        const video = shot.querySelector("video");
        if (video) { video.pause(); video.removeAttribute("src"); video.load(); video.remove(); }
      };
      film.addEventListener("mouseenter", play);
      film.addEventListener("mouseleave", stop);
      name.addEventListener("focus", () => { if (name.matches(":focus-visible")) play(); });
      name.addEventListener("blur", stop);
    }
    return film;
  }

  // --- one film ---

  let opened = -1;
  function openFilm(place) {
    const index = shown[place];
    if (index === undefined) return;
    while (place >= numShown) showMore();
    opened = place;
    const jobs = data.jobs, watch = watchOf(index);
    const media = clear(by("film-media"));
    if (watch) {
      const video = make("video", { src: watch.video, poster: watch.still, controls: true, loop: true, playsinline: true, autoplay: true });
      video.muted = true;
      video.addEventListener("error", () => { clear(media).append(make("span", { text: "The video is not beside this page: open it through render-farm serve." })); }, { once: true });
      media.append(video);
    } else media.append(make("span", { text: jobs.state[index] }));
    by("film-title").textContent = jobs.id[index];
    by("film-prompt").textContent = jobs.prompt[index].split(" | ").join("\n");
    const facts = [
      ["state", jobs.state[index]], ["to watch so far", watch && watch.segments ? partText(index, watch) : null], ["seed", jobs.seed[index]], ["length", jobs.video[index] === null ? null : duration(jobs.video[index])],
      ["size", jobs.size[index]], ["model", jobs.model[index]], ["segments", jobs.segments[index]], ["attempts", jobs.attempts[index]],
      ["rendering", jobs.gpu[index] === null ? null : duration(jobs.gpu[index])], ["from start to end", jobs.wall[index] === null ? null : duration(jobs.wall[index])],
      ["seam score", jobs.seam[index] === null ? null : number(jobs.seam[index], 2)], ["ended", jobs.finished[index] === null ? null : clock(jobs.finished[index], true)],
      ["owner and tags", jobs.label[index]], ["message", jobs.message[index]],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    clear(by("film-facts")).append(...facts.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: String(value) }))));
    by("film-previous").disabled = place === 0;
    by("film-next").disabled = place >= shown.length - 1;
    if (!by("film").open) by("film").showModal();
  }
  by("film").addEventListener("close", () => {
    clear(by("film-media"));
    const back = by("gallery").children[opened];
    if (back) back.querySelector(".name").focus({ preventScroll: false });
    opened = -1;
  });
  by("film").addEventListener("click", (event) => { if (event.target === by("film")) by("film").close(); });
  by("film-previous").addEventListener("click", () => openFilm(opened - 1));
  by("film-next").addEventListener("click", () => openFilm(opened + 1));

  // --- charts ---

  const SVG = "http://www.w3.org/2000/svg";
  function svg(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function showThroughput() {
    const { throughput } = data, values = throughput.video, box = clear(by("throughput"));
    by("throughput-section").hidden = !values.some((value) => value > 0);
    if (by("throughput-section").hidden) return;
    const width = Math.max(280, box.clientWidth - 28), height = 190, left = 54, bottom = 22, top = 8;
    const rates = values.map((value) => value / throughput.width * 3600), most = Math.max(...rates);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Finished video per hour over time; at most ${duration(most)} of video an hour` });
    for (let line = 0; line <= 2; line++) {
      const y = top + (height - bottom - top) * line / 2;
      chart.append(svg("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }), svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, perHour(most * (2 - line) / 2)));
    }
    const step = (width - left) / rates.length;
    rates.forEach((rate, index) => {
      const size = (height - bottom - top) * rate / most;
      if (!size) return;
      const bar = svg("rect", { class: "bar", x: left + index * step + .5, y: height - bottom - size, width: Math.max(1, step - 1), height: size, rx: Math.min(2, step / 3) });
      bar.append(svg("title", {}, `${clock(throughput.start + index * throughput.width)}: ${number(throughput.films[index])} films, ${duration(values[index])} of video`));
      chart.append(bar);
    });
    for (const share of width > 500 ? [0, .25, .5, .75, 1] : [0, .5, 1])
      chart.append(svg("text", { x: left + (width - left) * share, y: height - 5, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, clock(throughput.start + share * throughput.width * rates.length)));
    box.append(make("p", { class: "dim", text: "Finished video, per hour" }), chart);
  }
  function perHour(seconds) { return seconds >= 7200 ? `${number(seconds / 3600, 1)} h` : seconds >= 120 ? `${number(seconds / 60)} min` : `${number(seconds, 1)} s`; }

  const ROW = 22, AXIS = 22;
  let scale = null;
  function showGantt() {
    const { gantt } = data, canvas = by("gantt"), box = by("gantt-box");
    by("gantt-section").hidden = !gantt.workers.length;
    if (!gantt.workers.length) return;
    const names = gantt.workers.map((row) => row.name);
    const legend = clear(by("gantt-legend"));
    for (const [kind, text] of [["segment", "rendering"], ["finish", "decoding and publishing"], ["failed", "work that failed"], ["idle", "idle"]])
      legend.append(make("span", { class: `key k-${kind}` }), text);
    const width = Math.max(260, box.clientWidth - 28), left = width < 500 ? 76 : 110, height = AXIS + ROW * names.length;
    const dots = window.devicePixelRatio || 1;
    canvas.width = width * dots; canvas.height = height * dots; canvas.style.height = `${height}px`; canvas.style.width = `${width}px`;
    canvas.setAttribute("aria-label", `What ${names.length} ${worker()}s did over time; the table below says where idle time went`);
    const draw = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    draw.scale(dots, dots);
    draw.clearRect(0, 0, width, height);
    draw.font = "11px system-ui, sans-serif"; draw.textBaseline = "middle";
    const length = Math.max(1, (gantt.end - gantt.start) * 10), perTenth = (width - left) / length;
    scale = { left, perTenth };
    draw.fillStyle = color("--dim");
    for (const share of width > 500 ? [0, .25, .5, .75, 1] : [0, .5, 1]) {
      draw.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
      draw.fillText(clock(gantt.start + share * length / 10), left + (width - left) * share, AXIS / 2);
    }
    const colors = [color("--segment"), color("--finish"), color("--lost")], idle = color("--idle"), hollow = color("--hollow"), dim = color("--dim");
    gantt.workers.forEach((row, place) => {
      const y = AXIS + place * ROW;
      draw.fillStyle = hollow; draw.fillRect(left, y + 4, width - left, ROW - 8);
      draw.textAlign = "left"; draw.fillStyle = dim; draw.fillText(row.name, 0, y + ROW / 2, left - 8);
      draw.fillStyle = idle;
      for (const [start, span] of row.idle) draw.fillRect(left + start * perTenth, y + 8, Math.max(.5, span * perTenth), ROW - 16);
      for (const pass of [1, 0, 2]) {
        draw.fillStyle = colors[pass];
        const thin = pass === 1;
        for (const [start, span, kind] of row.spans)
          if (kind === pass) draw.fillRect(left + start * perTenth, thin ? y + ROW - 7 : y + 4, Math.max(.6, span * perTenth - (span * perTenth > 3 ? 1 : 0)), thin ? 3 : ROW - 11);
      }
    });
    const rows = gantt.reasons.map(([reason, seconds]) => [reason, duration(seconds), data.totals.held_s ? `${number(seconds / data.totals.held_s * 100, 1)} %` : ""]);
    clear(by("idle"));
    if (rows.length) by("idle").append(table(["Idle time went to", "Time", `Of the ${worker()} hours`], rows, [1, 2]));
  }
  function spanAt(event) {
    const bounds = by("gantt").getBoundingClientRect(), x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    const row = data.gantt.workers[Math.floor((y - AXIS) / ROW)];
    if (!row || !scale || y < AXIS) return null;
    const time = (x - scale.left) / scale.perTenth, slack = 2 / scale.perTenth;
    const hits = row.spans.filter(([start, span]) => time >= start - slack && time <= start + span + slack);
    if (hits.length) return { row, spans: hits };
    const gap = row.idle.find(([start, span]) => time >= start && time <= start + span);
    return gap ? { row, gap } : null;
  }
  by("gantt").addEventListener("mousemove", (event) => {
    const hit = spanAt(event), tip = by("tip");
    tip.classList.toggle("on", Boolean(hit));
    if (!hit) return;
    const words = ["segment", "finishing", "failed"];
    tip.textContent = hit.gap ? `idle ${duration(hit.gap[1] / 10)}: ${data.gantt.reasons[hit.gap[2]][0]}` : hit.spans.slice(0, 4).map(([, span, kind, job, segment]) =>
      `${data.jobs.id[job] ?? "?"}: ${words[kind]}${segment >= 0 && kind !== 1 ? ` ${segment + 1}` : ""}, ${duration(span / 10)}`).join("; ");
    const box = by("gantt-box").getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - 220)}px`;
    tip.style.top = `${event.clientY - box.top + by("gantt-box").scrollTop + 14}px`;
  });
  by("gantt").addEventListener("mouseleave", () => by("tip").classList.remove("on"));
  by("gantt").addEventListener("click", (event) => {
    const hit = spanAt(event);
    if (hit && hit.spans && hit.spans[0][3] >= 0) find(hit.spans[0][3]);
  });

  function find(index) {
    let place = shown.indexOf(index);
    if (place < 0) { filter.text = ""; by("search").value = ""; choose("all"); place = shown.indexOf(index); }
    openFilm(place);
  }

  // --- tables ---

  function table(head, rows, numeric = []) {
    const kind = (column) => (numeric.includes(column) ? "n" : "long");
    return make("div", { class: "card scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((text, column) => make("th", { class: kind(column), text, scope: "col" })))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, column) =>
        cell instanceof Node ? make("td", { class: kind(column) }, cell) : make("td", { class: kind(column), text: cell })))))));
  }
  const filmLink = (index) => make("button", { class: "link", type: "button", text: data.jobs.id[index], onclick: () => find(index) });
  function showTables() {
    const jobs = data.jobs;
    by("slowest-section").hidden = !data.slowest.length;
    clear(by("slowest")).append(table(["Film", "Start to end", "Rendering", "Segments", "Attempts"],
      data.slowest.map((index) => [filmLink(index), duration(jobs.wall[index]), duration(jobs.gpu[index]), jobs.segments[index] ?? "–", jobs.attempts[index] ?? "–"]), [1, 2, 3, 4]));
    by("seams-section").hidden = !data.seams.length;
    clear(by("seams")).append(table(["Film", "Seam score", "Prompt"], data.seams.map((index) => [filmLink(index), number(jobs.seam[index], 2), jobs.prompt[index].slice(0, 120)]), [1]));
    const changes = data.changes;
    by("changes-section").hidden = !changes;
    if (!changes) return;
    const box = clear(by("changes"));
    const show = (value) => (value === null || value === undefined ? "–" : number(value, 1));
    box.append(table(["", changes.run, data.run.id], changes.rows.map(([name, before, now]) => [name, show(before), show(now)]), [1, 2]));
    const notes = [];
    if (changes.new) notes.push(`${number(changes.new)} new films`);
    if (changes.gone) notes.push(`${number(changes.gone)} no longer there`);
    if (changes.changed) notes.push(`${number(changes.changed)} films have other pixels`);
    if (changes.repaired.length) notes.push(`now done: ${changes.repaired.join(", ")}`);
    if (changes.newly_failed.length) notes.push(`newly failed: ${changes.newly_failed.join(", ")}`);
    box.append(make("p", { class: "dim", text: notes.length ? notes.join("; ") + "." : "The same films." }));
  }

  // --- theme, keys, life ---

  const stored = (value) => { try { if (value) localStorage.setItem("render-farm-theme", value); return localStorage.getItem("render-farm-theme"); } catch { return null; } };
  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    by("theme").textContent = theme === "dark" ? "☀ Light" : "☾ Dark";
    showGantt();
  }
  const preferred = () => stored() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  function switchTheme() { const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; stored(next); setTheme(next); }
  by("theme").addEventListener("click", switchTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(preferred()));

  let typing = 0;
  by("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { filter.text = by("search").value; showFilms(); }, 80);
  });
  by("sort").addEventListener("change", () => { filter.sort = by("sort").value; showFilms(); });
  by("clear").addEventListener("click", () => { filter.text = ""; by("search").value = ""; choose("all"); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (by("film").open) {
      if (event.target.tagName === "VIDEO") return;
      if (event.key === "ArrowLeft") openFilm(opened - 1);
      if (event.key === "ArrowRight") openFilm(opened + 1);
      return;
    }
    if (writing) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.key === "/") { event.preventDefault(); by("search").focus(); }
    else if (event.key === "t") switchTheme();
    else if (event.key.startsWith("Arrow")) moveFocus(event);
  });
  function moveFocus(event) {
    const films = [...by("gallery").children];
    if (!films.length) return;
    const now = document.activeElement && document.activeElement.closest(".film");
    if (!now) { if (event.key === "ArrowRight") { event.preventDefault(); films[0].querySelector(".name").focus(); } return; }
    const columns = films.filter((film) => film.offsetTop === films[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const place = films.indexOf(now) + step;
    event.preventDefault();
    if (place >= films.length) showMore();
    const next = by("gallery").children[place];
    if (next) next.querySelector(".name").focus();
  }

  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting) && numShown < shown.length) showMore(); }, { rootMargin: "600px" }).observe(by("more"));

  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { showThroughput(); showGantt(); }, 120); });

  // What is below the films comes after the page can be used.
  function showAll(then) {
    showHead(); showFailures(); prepareFilms(); showFilms();
    setTimeout(() => { showThroughput(); setTheme(document.documentElement.dataset.theme || preferred()); showTables(); then(); });
  }
  async function refresh() {
    try {
      const answer = await fetch("report.json", { cache: "no-cache" });
      if (answer.ok) {
        const news = await answer.json();
        if (news.run.written !== data.run.written && !by("film").open && !by("gallery").contains(document.activeElement)) {
          const top = scrollY, many = numShown;
          data = { ...news, live: true };
          showAll(() => scrollTo(0, top));
          while (numShown < many && numShown < shown.length) showMore();
        }
      }
    } catch { /* the server is away; it is asked again */ }
    if (!data.run.over) setTimeout(refresh, 5000);
  }
  document.documentElement.dataset.theme = preferred();
  by("theme").textContent = document.documentElement.dataset.theme === "dark" ? "☀ Light" : "☾ Dark";
  showAll(() => { document.documentElement.dataset.ready = "1"; });
  if (data.live && !data.run.over) setTimeout(refresh, 5000);
})();
