// What all parts use: the data, elements made of text, numbers and times for people, and where media lie.

let data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const PAGE = innerWidth < 600 ? 12 : 60;
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
// A command to paste into a shell, and the button that copies it.
function commandToCopy(command) {
  const copy = make("button", { type: "button", text: "Copy", onclick: () => {
    const told = () => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(command).then(told, () => {});
  } });
  return [make("code", { text: command }), copy];
}
const number = (value, digits = 0) => Number(value).toLocaleString("en", { maximumFractionDigits: digits });
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
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
// As fine as what is `span` seconds long needs it.
function tick(seconds, span) {
  const time = new Date(seconds * 1000);
  if (span < 900) return `${clock(seconds)}:${two(time.getUTCSeconds())}`;
  return span < 86400 ? clock(seconds) : `${two(time.getUTCMonth() + 1)}-${two(time.getUTCDate())} ${clock(seconds)}`;
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
