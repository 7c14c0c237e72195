// One film in a dialog, with its neighbours.

let opened = -1, opener = null;
// Opens the film of a number, whatever is filtered; the focus then goes back to the element `from`.
function find(index, from = null) {
  let place = shown.indexOf(index);
  if (place < 0) { filter.text = ""; by("search").value = ""; choose("all"); place = shown.indexOf(index); }
  opener = from;
  openFilm(place);
}
function openFilm(place) {
  const index = shown[place];
  if (index === undefined) return;
  while (!opener && place >= numShown) showMore();  // so that the focus has a card to go back to
  opened = place;
  const jobs = data.jobs, watch = watchOf(index);
  const media = clear(by("film-media"));
  if (watch) {
    const video = make("video", { src: watch.video, poster: watch.still, controls: true, loop: true, playsinline: true, autoplay: true });
    video.muted = true;
    video.addEventListener("error", () => { clear(media).append(make("span", { text: "The video cannot be played. It is not beside this page (open it through render-farm serve), or it is damaged (render-farm check)." })); }, { once: true });
    media.append(video);
  } else media.append(make("span", { text: jobs.state[index] }));
  by("film-title").textContent = jobs.id[index];
  by("film-prompt").textContent = jobs.prompt[index].split(" | ").join("\n");
  const facts = [
    ["state", jobs.state[index]], ["to watch so far", watch && watch.segments ? partText(index, watch) : null], ["seed", jobs.seed[index]], ["length", jobs.video[index] === null ? null : duration(jobs.video[index])],
    ["size", jobs.size[index]], ["model", jobs.model[index]], ["segments", jobs.segments[index]], ["attempts", jobs.attempts[index]],
    ["rendering", jobs.gpu[index] === null ? null : duration(jobs.gpu[index])], ["from start to end", jobs.wall[index] === null ? null : duration(jobs.wall[index])],
    ["seam score", jobs.seam[index] === null ? null : number(jobs.seam[index], 2)], ["drift", jobs.drift[index]], ["found in its pictures", jobs.findings[index].join(", ")], ["ended", jobs.finished[index] === null ? null : clock(jobs.finished[index], true)],
    ["deadline", jobs.due[index] === null ? null : clock(jobs.due[index], true)], ["owner and tags", jobs.label[index]], ["message", jobs.message[index]],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  clear(by("film-facts")).append(...facts.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: String(value) }))));
  clear(by("film-rejected")).append(...(data.rejected[index] || []).map(([seed, found]) => {
    const image = make("img", { src: mediaOf(index, `rejected-${seed}.jpg`), alt: "", loading: "lazy" });
    image.addEventListener("error", () => image.remove(), { once: true });
    return make("figure", {}, image, make("figcaption", { text: ["Not published: seed " + seed, found].filter(Boolean).join(", ") }));
  }));
  by("film-previous").disabled = place === 0;
  by("film-next").disabled = place >= shown.length - 1;
  if (!by("film").open) by("film").showModal();
}
by("film").addEventListener("close", () => {
  clear(by("film-media"));
  const back = cards()[opened], name = back && back.querySelector(".name");
  const to = opener && opener.isConnected ? opener : name;
  if (to) to.focus({ preventScroll: false });
  opened = -1;
  opener = null;
});
by("film").addEventListener("click", (event) => { if (event.target === by("film")) by("film").close(); });
by("film-previous").addEventListener("click", () => openFilm(opened - 1));
by("film-next").addEventListener("click", () => openFilm(opened + 1));
