// The charts of the live page: of each path one line, in its colour, over the last minutes.
"use strict";

const SAMPLES = 180; // Three minutes.
const STATES = ["dead", "disconnecting", "connecting", "degraded", "active"];
const scaled = (value, factor) =>
  (value === null || value === undefined ? null : value * factor);
const CHARTS = [
  ["Rate", "Mbit/s", (path) => scaled(path.bytes_per_second, 8e-6)],
  ["Round trip", "ms", (path) => scaled(path.rtt, 1e3)],
  ["Window", "KiB", (path) => scaled(path.window, 1 / 1024)],
  ["Queue", "ms", (path) => scaled(path.queue_seconds, 1e3)],
  ["Outstanding", "KiB", (path) => scaled(path.outstanding, 1 / 1024)],
  ["State", "", (path) => (STATES.includes(path.status) ? STATES.indexOf(path.status) : null)],
];

class Charts {
  #body;
  #colour;
  #samples = []; // Each with its time, and the paths by number.
  #drawn = []; // Of each chart: the plot, and what shows it.
  #drawnFor = "";

  constructor(body, colour) {
    this.#body = body;
    this.#colour = colour;
    const redraw = () => this.#draw(true);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    new ResizeObserver(() => this.#fit()).observe(body);
  }

  // Of another session.
  clear() {
    this.#samples = [];
    this.#draw(true);
  }

  add(paths) {
    const at = new Map(paths.map((path) => [path.path, path]));
    this.#samples.push([Date.now() / 1000, at]);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    this.#draw(false);
  }

  // Lines and colours only change with the paths and the scheme; then all is made again.
  #draw(again) {
    const last = this.#samples[this.#samples.length - 1];
    const paths = last ? [...last[1].keys()].sort((a, b) => a - b) : [];
    if (again || this.#drawnFor !== String(paths)) {
      for (const { plot } of this.#drawn) plot.destroy();
      this.#drawn = paths.length ? CHARTS.map((chart) => this.#make(chart, paths)) : [];
      this.#drawnFor = String(paths);
      this.#body.replaceChildren(...this.#drawn.map(({ figure }) => figure));
      this.#fit();
    }
    const times = this.#samples.map(([time]) => time);
    this.#drawn.forEach(({ plot, figure, box }, number) => {
      const [title, unit, pick] = CHARTS[number];
      const lines = paths.map((path) => this.#samples.map(([, at]) => {
        const sample = at.get(path);
        return sample === undefined ? null : pick(sample);
      }));
      plot.setData([times, ...lines]);
      const text = title + ": " + this.#at(plot, unit, times.length - 1);
      put(figure.firstChild, title + (unit && " (" + unit + ")"));
      mark(box, "aria-label", text);
    });
  }

  // What the lines are at one time, in words.
  #at(plot, unit, sample) {
    return plot.series.slice(1).map((line, at) => {
      const value = plot.data[at + 1][sample];
      const shown = value === null || value === undefined ? "–"
        : unit ? value.toFixed(1) + " " + unit : STATES[value];
      return line.label + " " + shown;
    }).join(", ");
  }

  #make([, unit], paths) {
    const style = getComputedStyle(document.documentElement);
    const [dim, grid] = ["--dim", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { stroke: dim, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 },
      font: "12px system-ui, sans-serif" };
    const clock = { space: 90, size: 30,
      values: (_, times) => times.map((time) => new Date(time * 1000).toLocaleTimeString()) };
    const states = { splits: () => STATES.map((_, at) => at),
      values: () => STATES, size: 100, gap: 4 };
    const stepped = unit ? undefined : uPlot.paths.stepped({ align: 1 });
    const series = paths.map((path) => ({ label: "path " + path, stroke: this.#colour(path),
      width: 2, points: { show: false }, paths: stepped }));
    // A line along the frame is seen, and one that stands still has a height.
    const range = unit ? (_, low, high) => [0, Math.max(high * 1.05, 0.1)]
      : [-0.5, STATES.length - 0.5];
    const figure = element("figure");
    // Arrows move along the time, as a pointer does.
    const box = element("div", undefined, { role: "img", tabindex: "0", class: "chart" });
    const readout = element("p", "", { class: "readout", "aria-live": "off" });
    figure.append(element("figcaption"), box, readout);
    const told = (plot) => {
      const at = plot.cursor.idx;
      const time = at === null || at === undefined ? undefined : plot.data[0][at];
      put(readout, time === undefined ? ""
        : new Date(time * 1000).toLocaleTimeString() + ": " + this.#at(plot, unit, at));
    };
    const plot = new uPlot({
      width: 300, height: 150, padding: [null, 34, null, null], legend: { show: false },
      series: [{}, ...series],
      axes: [{ ...axis, ...clock }, unit ? { ...axis, size: 48 } : { ...axis, ...states }],
      scales: { y: { range } }, cursor: { drag: { x: false, y: false }, sync: { key: "time" } },
      hooks: { setCursor: [told] },
    }, [[], ...paths.map(() => [])], box);
    const move = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined || !plot.data[0].length) return;
      event.preventDefault();
      const last = plot.data[0].length - 1;
      const at = Math.min(Math.max((plot.cursor.idx ?? last + (step < 0 ? 1 : 0)) + step, 0), last);
      plot.setCursor({ left: plot.valToPos(plot.data[0][at], "x"), top: 0 });
    };
    box.addEventListener("keydown", move);
    box.addEventListener("focus", () => mark(readout, "aria-live", "polite"));
    box.addEventListener("blur", () => {
      mark(readout, "aria-live", "off");
      plot.setCursor({ left: -10, top: -10 });
    });
    return { plot, figure, box };
  }

  #fit() {
    for (const { plot, box } of this.#drawn) {
      const width = box.clientWidth;
      if (width > 0 && width !== plot.width) plot.setSize({ width, height: 150 });
    }
  }
}
