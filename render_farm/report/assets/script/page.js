// Light and dark, keys, and what the page does while it lives.

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
  const films = cards();
  if (!films.length) return;
  const now = document.activeElement && document.activeElement.closest(".film");
  if (!now) { if (event.key === "ArrowRight") { event.preventDefault(); films[0].querySelector(".name").focus(); } return; }
  const columns = films.filter((film) => film.offsetTop === films[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const place = films.indexOf(now) + step;
  event.preventDefault();
  if (place >= films.length) showMore();
  const next = cards()[place];
  if (next) next.querySelector(".name").focus();
}

by("more").addEventListener("click", () => {
  const first = numShown;
  showMore();
  cards()[first].querySelector(".name").focus();
});

// Links to what there is on this page.
function showSections() {
  const there = [...document.querySelectorAll("main > section[id]")].filter((section) => !section.hidden);
  clear(by("sections")).append(...there.map((section) => make("a", { href: `#${section.id}`, text: section.querySelector("h2").textContent })));
}

let resizing = 0;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { showThroughput(); showGantt(); }, 120); });

// What is below the films comes after the page can be used.
function showAll(then) {
  showHead(); showFailures(); prepareFilms(); showFilms();
  setTimeout(() => { showThroughput(); setTheme(document.documentElement.dataset.theme || preferred()); showTables(); showSections(); then(); });
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
if (data.run.draft) filter.sort = by("sort").value = "prompt";
showAll(() => { document.documentElement.dataset.ready = "1"; });
if (data.live && !data.run.over) setTimeout(refresh, 5000);
