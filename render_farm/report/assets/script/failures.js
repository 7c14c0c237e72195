// What failed, by cause, and the command that tries it again.

function showFailures() {
  by("failures-section").hidden = !data.failures.length;
  clear(by("failures")).append(...data.failures.map((group) => {
    const count = group.job_ids.length;
    const card = make("div", { class: "card bad" },
      make("p", { class: "what", text: `${plural(count, "film")}: ${group.error_class}` }),
      make("p", { text: group.message }),
      make("p", { class: "dim", text: group.advice }));
    if (group.retry) card.append(make("div", { class: "command" }, ...commandToCopy(group.retry)));
    const listed = make("details", {}, make("summary", { text: count === 1 ? "Which one" : "Which ones" }));
    listed.addEventListener("toggle", () => {
      if (listed.open && listed.childElementCount === 1) listed.append(make("p", { class: "jobs", text: group.job_ids.join(", ") }));
    });
    card.append(listed);
    return card;
  }));
}
