// The run in a sentence and in numbers.

function showHead() {
  const { run, totals } = data, states = totals.states;
  by("title").textContent = run.id;
  const badge = by("state");
  badge.textContent = !run.over ? "running" : states.failed && states.failed < totals.jobs ? `${number(states.failed)} failed` : run.state;
  badge.className = `badge s-${SAFE_STATES.includes(run.state) ? run.state : "waiting"}`;
  const parts = [run.output];
  if (run.started) parts.push(`started ${clock(run.started, true)}`);
  parts.push(`written ${clock(run.written, true)}`);
  by("subtitle").textContent = parts.join("  ·  ");
  by("verdict").textContent = verdict();
  showShare();
  by("footer").textContent = `render_farm ${run.version || ""}  ·  ${run.manifest || "one prompt"}`;
  const tiles = [
    ["Films", `${number(states.done || 0)} of ${number(totals.jobs)}`, stateText()],
    ["Video", duration(totals.video_s), totals.already ? `${plural(totals.already, "film")} already there` : "made in this run"],
    ["Wall time", duration(totals.wall_s), `${number(totals.workers)} ${worker()}${totals.workers === 1 ? "" : "s"}`],
    [`${isGpu() ? "GPU" : "Worker"} hours`, number(totals.held_s / 3600, totals.held_s < 36000 ? 2 : 1), totals.busy_share === null ? "" : `busy ${number(totals.busy_share * 100, 1)} %`],
    ["Cost", totals.cost === null ? "–" : `${number(totals.cost, 2)} ${totals.currency || ""}`, totals.cost === null ? "gpu_price_per_hour is not set" : "of the hours held"],
    ["Yield", totals.video_s_per_held_h === null ? "–" : duration(totals.video_s_per_held_h), `of video per ${worker()} hour`],
    ["Lost work", duration(totals.lost_s), totals.attempts_again ? `${number(totals.attempts_again)} further attempts` : "no further attempts"],
  ];
  if (run.now) tiles.splice(1, 0, ["Time left", run.now.eta === null ? "–" : duration(run.now.eta), run.now.paused ? "paused" : run.now.note || `${number(run.now.steps, 1)} steps/s, ${number(run.now.busy)} of ${number(run.now.workers)} ${worker()}s busy`]);
  if (totals.deadlines) tiles.push(["Deadlines kept", `${number(totals.kept)} of ${number(totals.deadlines)}`, totals.late ? `${number(totals.late)} late` : totals.kept === totals.deadlines ? "all in time" : "none missed so far"]);
  clear(by("totals")).append(...tiles.map(([name, value, note]) =>
    make("div", {}, make("dt", { text: name }), make("dd", { text: value }, make("small", { text: note })))));
}
// All films as one bar, by state.
function showShare() {
  const parts = SAFE_STATES.filter((state) => data.totals.states[state]).map((state) => [state, data.totals.states[state]]);
  by("share").setAttribute("aria-label", parts.map(([state, count]) => `${number(count)} ${state}`).join(", "));
  clear(by("share")).append(...parts.map(([state, count]) => {
    const part = make("span", { class: `b-${state}`, title: `${number(count)} ${state}` });
    part.style.flexGrow = count;
    return part;
  }));
}
function stateText() {
  const shown = Object.entries(data.totals.states).filter(([state]) => state !== "done");
  return shown.length ? shown.map(([state, count]) => `${number(count)} ${state}`).join(", ") : "all done";
}
function verdict() {
  const { run, totals } = data, failed = totals.states.failed || 0, seams = data.seams.length;
  const seamy = seams ? ` ${number(seams)} ${seams === 1 ? "film has" : "films have"} a visible seam.` : "";
  const found = data.found.length ? ` The checks found something in ${plural(data.found.length, "film")}.` : "";
  if (!run.over) return `Running: ${number(totals.states.done || 0)} of ${plural(totals.jobs, "film")} done${failed ? `, ${number(failed)} failed` : ""}.${seamy}${found}`;
  if (!failed && totals.states.done === totals.jobs) return `${totals.jobs === 1 ? "The film is" : `All ${number(totals.jobs)} films are`} done.${seamy}${found}`;
  const causes = data.failures.length;
  const why = failed ? `${number(failed)} of ${plural(totals.jobs, "film")} failed, for ${causes === 1 ? "one cause" : `${number(causes)} causes`}.` : "";
  if (failed && !totals.states.cancelled) return why + seamy + found;
  if (run.state === "done") return `${number(totals.states.done || 0)} of ${plural(totals.jobs, "film")} done, ${number(totals.states.cancelled)} cancelled by name.${seamy}${found}`;
  return `Stopped: ${number(totals.states.done || 0)} of ${plural(totals.jobs, "film")} done. ${why}${seamy}${found}`;
}
