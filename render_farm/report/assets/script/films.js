// The gallery: cards of films, found by words, states and order, more of them as one scrolls.

const CHIPS = { seam: "visible seam", found: "with findings", preview: "watchable" };
const fits = (state, index, seamy) => state === "all" || (state === "seam" ? seamy.has(index) : state === "found" ? data.jobs.findings[index].length > 0 : state === "preview" ? index in data.previews : data.jobs.state[index] === state);
const filter = { text: "", state: "all", sort: "order" };
let shown = [], numShown = 0, haystack = null;
const picked = new Set();
const cards = () => [...by("gallery").querySelectorAll(".film")];

function prepareFilms() {
  const jobs = data.jobs;
  haystack = null;
  const previews = Object.keys(data.previews).length;
  const all = { all: jobs.id.length, ...data.totals.states, ...(previews ? { preview: previews } : {}), ...(data.seams.length ? { seam: data.seams.length } : {}), ...(data.found.length ? { found: data.found.length } : {}) };
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
    haystack = jobs.id.map((id, index) => `${id} ${jobs.prompt[index]} ${jobs.label[index]} ${jobs.model[index] || ""} ${jobs.error[index] || ""} ${jobs.findings[index].join(" ")}`.toLowerCase());
  for (let index = 0; index < jobs.id.length; index++) {
    if (!fits(filter.state, index, visible)) continue;
    if (words.every((word) => haystack[index].includes(word))) shown.push(index);
  }
  if (filter.sort === "prompt") {
    const first = new Map();
    jobs.prompt.forEach((prompt, index) => { if (!first.has(prompt)) first.set(prompt, index); });
    shown.sort((a, b) => first.get(jobs.prompt[a]) - first.get(jobs.prompt[b]) || a - b);
  } else if (filter.sort === "id") shown.sort((a, b) => (jobs.id[a] < jobs.id[b] ? -1 : 1));
  else if (filter.sort !== "order") shown.sort((a, b) => (jobs[filter.sort][b] ?? -1) - (jobs[filter.sort][a] ?? -1));
  clear(by("gallery"));
  numShown = 0;
  by("none").hidden = shown.length > 0;
  by("count").textContent = shown.length === jobs.id.length ? "" : `${number(shown.length)} of ${number(jobs.id.length)}`;
  showMore();
}
function showMore() {
  const next = shown.slice(numShown, numShown + PAGE);
  next.forEach((index, place) => {
    const before = shown[numShown + place - 1];
    if (filter.sort === "prompt" && (before === undefined || data.jobs.prompt[before] !== data.jobs.prompt[index]))
      by("gallery").append(make("li", { class: "variants", text: data.jobs.prompt[index] }));
    by("gallery").append(card(index, numShown + place));
  });
  numShown += next.length;
  const left = shown.length - numShown;
  by("more").hidden = left === 0;
  by("more").textContent = left <= PAGE ? `Show the last ${number(left)}` : `Show ${PAGE} more of ${number(left)}`;
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
  if (jobs.findings[index].length) meta.append(make("span", { class: "seamy", text: jobs.findings[index].join(", ") }));
  meta.append(make("button", { class: "pick link", type: "button", "aria-pressed": String(picked.has(jobs.id[index])),
    text: picked.has(jobs.id[index]) ? "picked" : "pick", onclick: (event) => { event.stopPropagation(); pick(jobs.id[index], event.target); } }));
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

// The command that writes the rows of the films that were picked as a manifest.
function pick(id, button) {
  if (!picked.delete(id)) picked.add(id);
  button.setAttribute("aria-pressed", String(picked.has(id)));
  button.textContent = picked.has(id) ? "picked" : "pick";
  showPicked();
}
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
function showPicked() {
  const names = data.jobs.id.filter((id) => picked.has(id));
  const command = `render-farm pick ${[`${data.run.output.replace(/\/+$/, "")}/_runs/${data.run.id}`, ...names].map(quoted).join(" ")} -o chosen.parquet`;
  by("picked").hidden = !names.length;
  clear(by("picked")).append(...commandToCopy(command));
}
