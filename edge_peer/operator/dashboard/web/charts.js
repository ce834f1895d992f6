/** Curves by round: a line a board, or with many boards the median and what lies around it. */
import { make, setText, shapeOf } from "./elements.js";
import { bytesText, percentile, secondsText } from "./numbers.js";
import { COLOURS, LINES_MAX, PERCENTILES } from "./palette.js";

const uPlot = globalThis.uPlot;
const HEIGHT = 240;
/** A line's marks are drawn so far apart at least, in pixels. */
const MARK_GAP = 44;

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** One chart of one measure. */
class Chart {
  /**
   * @param root The figure.
   * @param lines Makes [{label, values, index|style}] of rows and rounds; index: a board's place.
   */
  constructor(root, { lines, format, range, empty }) {
    this.root = root;
    this.holder = root.querySelector(".plot");
    this.legend = root.querySelector(".legend");
    this.lines = lines;
    this.format = format;
    this.range = range;
    this.empty = empty;
    this.shape = "";
    this.plot = null;
  }

  show(federation, theme) {
    const rounds = federation.rows.rounds;
    const lines = this.lines(federation, rounds).filter((line) => line.values.some((value) => value !== null));
    this.root.classList.toggle("empty", lines.length === 0);
    if (lines.length === 0) {
      setText(this.legend, this.empty);
      return;
    }
    const width = Math.max(200, this.holder.clientWidth);
    const shape = JSON.stringify([theme, lines.map((line) => [line.label, line.index, line.kind])]);
    const data = [rounds, ...lines.map((line) => line.values)];
    if (shape !== this.shape) {
      this.shape = shape;
      this.plot?.destroy();
      this.plot = new uPlot(this._options(lines, width), data, this.holder);
      this._legend(lines);
    } else {
      if (width !== this.plot.width) {
        this.plot.setSize({ width, height: HEIGHT });
      }
      this.plot.setData(data);
    }
  }

  _options(lines, width) {
    const ink = style("--ink-soft");
    const axis = { stroke: ink, grid: { stroke: style("--rule"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: (_, low, high) => [low, Math.max(high, low + 1)] }, y: { range: this.range } },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000], space: 40, size: 32 },
        { ...axis, values: (_, ticks) => ticks.map((tick) => this.format(tick)), size: 64 },
      ],
      series: [{}, ...lines.map((line) => this._series(line))],
      bands: lines.flatMap((line, place) =>
        line.kind === "upper" ? [{ series: [place + 1, place + 2], fill: style(line.fill) }] : [],
      ),
      hooks: { draw: [(plot) => lines.forEach((line, place) => this._marks(plot, line, place + 1))] },
    };
  }

  _series(line) {
    const look = {
      board: { stroke: style(`--board-${line.index % COLOURS}`), width: 1.5 },
      mean: { stroke: style("--ink"), width: 2.5 },
      int8: { stroke: style("--ink"), width: 2, dash: [6, 4] },
      upper: { width: 0 },
      lower: { width: 0 },
    }[line.kind];
    return { ...look, spanGaps: true, points: { show: false } };
  }

  /** Shapes beside colours: who cannot tell two colours apart can tell two shapes. */
  _marks(plot, line, series) {
    if (line.kind !== "board") {
      return;
    }
    const context = plot.ctx;
    const path = new Path2D(shapeOf(line.index, COLOURS));
    const size = 4 * devicePixelRatio;
    let left = -Infinity;
    context.save();
    context.fillStyle = style(`--board-${line.index % COLOURS}`);
    plot.data[series].forEach((value, place) => {
      const x = plot.valToPos(plot.data[0][place], "x", true);
      if (value === null || value === undefined || x - left < MARK_GAP * devicePixelRatio) {
        return;
      }
      left = x;
      context.save();
      context.translate(x, plot.valToPos(value, "y", true));
      context.scale(size, size);
      context.fill(path);
      context.restore();
    });
    context.restore();
  }

  _legend(lines) {
    const said = { mean: "all boards", int8: "all boards, int8" };
    const items = lines
      .filter((line) => ["mean", "int8"].includes(line.kind))
      .map((line) => make("span", { className: `key ${line.kind}`, textContent: line.label ?? said[line.kind] }));
    const single = lines.filter((line) => line.kind === "board").length;
    const words = single > 0 ? ["thin: each board, marked as in the table of boards"] : [];
    const bands = lines.some((line) => line.kind === "upper") ? ["shaded: half and nine tenths of the boards"] : [];
    this.legend.replaceChildren(...items, ...[...words, ...bands].map((text) => make("span", { textContent: text })));
  }
}

/** A line a board, or bands, and before them what is told of all. */
function spread(federation, rounds, measure) {
  const { rows } = federation;
  const peers = federation.peers;
  if (rows.peers.length <= LINES_MAX) {
    return peers.map((peer, index) => ({
      kind: "board",
      label: peer,
      index,
      values: rounds.map((round) => rows.value(peer, round, measure)),
    }));
  }
  const sorted = rounds.map((round) => rows.values(round, measure));
  const at = (share) => sorted.map((values) => (values.length > 0 ? percentile(values, share / 100) : null));
  const [low, lowHalf, , highHalf, high] = PERCENTILES;
  return [
    { kind: "upper", fill: "--band-wide", values: at(high) },
    { kind: "lower", values: at(low) },
    { kind: "upper", fill: "--band", values: at(highHalf) },
    { kind: "lower", values: at(lowHalf) },
  ];
}

function mean(federation, rounds, measure, label) {
  return { kind: "mean", label, values: rounds.map((round) => federation.rows.mean(round, measure)) };
}

const CHARTS = {
  accuracy: {
    lines: (it, rounds) => [
      ...spread(it, rounds, "accuracy"),
      mean(it, rounds, "accuracy", "all boards, float"),
      { ...mean(it, rounds, "int8", "all boards, int8"), kind: "int8" },
    ],
    format: (value) => value.toFixed(2),
    range: (_, low, high) => [Math.max(0, low - 0.02), Math.min(1, high + 0.02)],
    empty: "No board has told its accuracy yet.",
  },
  loss: {
    lines: (it, rounds) => [...spread(it, rounds, "loss"), mean(it, rounds, "loss", "all boards, float")],
    format: (value) => value.toFixed(2),
    range: (_, low, high) => [Math.max(0, low * 0.95), high * 1.05 || 1],
    empty: "No board has told its loss yet.",
  },
  bytes: {
    lines: (it, rounds) => [
      { kind: "mean", label: "sent by all boards", values: rounds.map((round) => it.rows.sum(round, "sent")) },
      { kind: "int8", label: "received by all boards", values: rounds.map((round) => it.rows.sum(round, "received")) },
    ],
    format: bytesText,
    range: (_, _low, high) => [0, high * 1.05 || 1],
    empty: "Boards tell their bytes with their histories, at most 40 seconds late.",
  },
  seconds: {
    lines: (it, rounds) => [
      ...spread(it, rounds, "trainingS"),
      { kind: "mean", label: "whole round, by this page's clock", values: rounds.map((round) => it.roundSeconds.get(round) ?? null) },
    ],
    format: secondsText,
    range: (_, _low, high) => [0, high * 1.05 || 1],
    empty: "Boards tell their seconds with their histories, at most 40 seconds late.",
  },
};

export class Charts {
  constructor(root) {
    this.charts = Object.entries(CHARTS).map(([name, options]) => new Chart(root.querySelector(`#chart-${name}`), options));
  }

  show(federation, theme) {
    for (const chart of this.charts) {
      chart.show(federation, theme);
    }
  }
}
