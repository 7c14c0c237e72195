// Tables: the slowest films, visible seams, findings, what changed since the run before.

function table(head, rows, numeric = []) {
  const kind = (column) => (numeric.includes(column) ? "n" : "long");
  return make("div", { class: "card scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text, column) => make("th", { class: kind(column), text, scope: "col" })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, column) =>
      cell instanceof Node ? make("td", { class: kind(column) }, cell) : make("td", { class: kind(column), text: cell })))))));
}
const filmLink = (index) => make("button", { class: "link", type: "button", text: data.jobs.id[index], onclick: (event) => find(index, event.currentTarget) });
function showTables() {
  const jobs = data.jobs;
  by("slowest-section").hidden = !data.slowest.length;
  clear(by("slowest")).append(table(["Film", "Start to end", "Rendering", "Segments", "Attempts"],
    data.slowest.map((index) => [filmLink(index), duration(jobs.wall[index]), duration(jobs.gpu[index]), jobs.segments[index] ?? "–", jobs.attempts[index] ?? "–"]), [1, 2, 3, 4]));
  by("seams-section").hidden = !data.seams.length;
  clear(by("seams")).append(table(["Film", "Seam score", "Prompt"], data.seams.map((index) => [filmLink(index), number(jobs.seam[index], 2), jobs.prompt[index].slice(0, 120)]), [1]));
  by("found-section").hidden = !data.found.length;
  clear(by("found")).append(table(["Film", "Found", "State", "Prompt"], data.found.map((index) => [filmLink(index), jobs.findings[index].join(", "), jobs.state[index], jobs.prompt[index].slice(0, 120)])));
  const changes = data.changes;
  by("changes-section").hidden = !changes;
  if (!changes) return;
  const box = clear(by("changes"));
  const show = (value) => (value === null || value === undefined ? "–" : number(value, Math.abs(value) < 10 ? 2 : 1));
  box.append(table(["", changes.run, data.run.id], changes.rows.map(([name, before, now]) => [name, show(before), show(now)]), [1, 2]));
  const notes = [];
  if (changes.new) notes.push(plural(changes.new, "new film"));
  if (changes.gone) notes.push(`${number(changes.gone)} of the run before are not in this manifest`);
  if (changes.changed) notes.push(`other pixels: ${plural(changes.changed, "film")}`);
  if (changes.repaired.length) notes.push(`now done: ${changes.repaired.join(", ")}`);
  if (changes.newly_failed.length) notes.push(`newly failed: ${changes.newly_failed.join(", ")}`);
  box.append(make("p", { class: "dim", text: notes.length ? notes.join("; ") + "." : "The same films." }));
}
