// Finished video by time.

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
    bar.append(svg("title", {}, `${tick(throughput.start + index * throughput.width, throughput.width * rates.length)}: ${plural(throughput.films[index], "film")}, ${duration(values[index])} of video`));
    chart.append(bar);
  });
  for (const share of width > 500 ? [0, .25, .5, .75, 1] : [0, .5, 1])
    chart.append(svg("text", { x: left + (width - left) * share, y: height - 5, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, tick(throughput.start + share * throughput.width * rates.length, throughput.width * rates.length)));
  box.append(make("p", { class: "dim", text: "Finished video, per hour" }), chart);
}
function perHour(seconds) { return seconds >= 7200 ? `${number(seconds / 3600, 1)} h` : seconds >= 120 ? `${number(seconds / 60)} min` : `${number(seconds, 1)} s`; }
