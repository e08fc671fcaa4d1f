// One account: who holds its instances, what waits and for what, and what the cloud refused.

import uPlot from "/dashboard/vendor/uplot/uplot.js";
import { ask, confirmed, tell } from "/dashboard/ask.js";
import { count, el, quantile, seconds, svg } from "/dashboard/words.js";

const KEPT = 300; // pictures, one a second: five minutes
const RECENT = 60; // what "in the last minute" means, in pictures
const COLOURS = 8;
const GATES = {
  account: "instances", function: "function limit", tenant: "tenant limit", rate: "send rate",
  ramp: "ramp", resource: "resource", paused: "a pause", retry_after: "Retry-After",
  circuit: "a 403 to end", retry: "retry delay", delay: "its time",
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const sum = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);
const less = (now, then) => Object.fromEntries(Object.entries(now).map(([key, n]) => [key, n - (then[key] ?? 0)]).filter(([, n]) => n > 0));

export class Account {
  constructor(name) {
    this.name = name;
    this.history = [];
    this.tenants = [];
    this.shown = "";
    this.charts = [];
    this.root = el("section", { "aria-label": `Account ${name}` });
    this.parts = Object.fromEntries(["head", "use", "bar", "legend", "tiles", "charts", "tables"].map((part) => [part, el("div", { class: part })]));
    this.root.append(...Object.values(this.parts));
    this.makeCharts();
    new ResizeObserver(() => this.resize()).observe(this.parts.charts);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.makeCharts(); this.resize(); this.draw(); });
  }

  show(view, counts, at) {
    const last = this.history.at(-1);
    // After a restart the counts begin again, and differences mean nothing.
    if (last && (counts.accepted < last.counts.accepted || sum(counts.ended) < sum(last.counts.ended))) this.history = [];
    this.history.push({ at, view, counts });
    if (this.history.length > KEPT) this.history.shift();
    const then = this.history.at(-1 - Math.min(RECENT, this.history.length - 1));
    const before = this.history.at(-2) ?? then;
    const throttles = less(counts.throttles, then.counts.throttles);
    const blocked = less(counts.blocked_s, before.counts.blocked_s);
    this.root.classList.toggle("paused", view.paused);
    this.root.classList.toggle("throttled", sum(throttles) > 0);
    this.head(view, counts, throttles);
    this.use(view);
    this.tiles(view, counts, then, throttles, blocked);
    this.tables(view, counts, throttles, less(counts.blocked_s, then.counts.blocked_s));
    this.draw();
  }

  /** Leave what has not changed alone, so that the focus stays where it is. */
  replace(part, key, ...made) {
    const node = this.parts[part];
    if (node.dataset.key === key) return;
    const scrolled = [...node.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
    const focused = node.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    node.dataset.key = key;
    node.replaceChildren(...made.filter(Boolean));
    node.querySelectorAll(".scroll").forEach((one, i) => one.scrollTo(...(scrolled[i] ?? [0, 0])));
    if (focused) node.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  head(view, counts, throttles) {
    const key = JSON.stringify([view.paused, counts.circuit_open, sum(throttles) > 0]);
    this.replace("head", key,
      el("h2", {}, view.name),
      el("span", { class: "place" }, `${view.provider} · ${view.account_id} · ${view.region}`),
      view.paused && el("span", { class: "badge warn" }, "PAUSED"),
      counts.circuit_open && el("span", { class: "badge bad" }, "DENIED (403)"),
      sum(throttles) > 0 && el("span", { class: "badge bad" }, "THROTTLED"),
      this.toggle(view.name, view.paused, null));
  }

  /** A button that pauses or resumes the account, or one of its functions. */
  toggle(account, paused, fn) {
    const verb = paused ? "resume" : "pause";
    const what = fn === null ? `account ${account}` : `function ${fn}`;
    const path = `/v1/accounts/${encodeURIComponent(account)}${fn === null ? "" : `/functions/${encodeURIComponent(fn)}`}/${verb}`;
    const onclick = async () => {
      const meaning = paused ? "What waits will be sent again." : "Nothing of it is sent until it is resumed. What runs goes on, and new work is accepted.";
      if (!(await confirmed(`${paused ? "Resume" : "Pause"} ${what}?`, meaning, paused ? "Resume" : "Pause"))) return;
      try { await ask("POST", path); tell(`${what}: ${verb}d`); } catch (error) { tell(`${what}: ${error.message}`, true); }
    };
    return el("button", { type: "button", class: fn === null ? "" : "small", "data-focus": `${verb} ${fn ?? ""}`, "aria-label": `${verb} ${what}`, onclick }, paused ? "Resume …" : "Pause …");
  }

  use(view) {
    const held = Object.entries(view.tenants).map(([name, tenant]) => [name, tenant.in_use]);
    for (const [name] of held) if (!this.tenants.includes(name)) this.tenants.push(name);
    held.sort((a, b) => this.tenants.indexOf(a[0]) - this.tenants.indexOf(b[0]));
    const scale = Math.max(view.quota, view.in_use, 1);
    const most = view.quota - view.headroom;
    const adaptive = view.adaptive_limit !== undefined;
    const notOurs = view.headroom > 0 ? `, ${count(view.headroom)} of it left to others` : "";
    this.replace("use", `${view.in_use}/${view.limit}/${view.quota}/${view.headroom}`,
      el("span", {}, `${count(view.in_use)} of ${count(view.limit)} `),
      el("small", {}, `instances in use · quota ${count(view.quota)}${notOurs}`));
    const bar = svg("svg", { class: "bar", viewBox: "0 0 1000 40", preserveAspectRatio: "none", role: "img" });
    bar.append(svg("title", {}, `${view.in_use} of ${view.limit} instances in use: ${held.map(([name, n]) => `${name} ${count(n)}`).join(", ") || "none"}`));
    bar.append(svg("rect", { class: "rail", x: 0, y: 6, width: 1000, height: 28, rx: 4 }));
    // What several share one instance is counted in parts; the bar is of whole instances.
    const parts = held.reduce((all, [, n]) => all + n, 0);
    let x = 0;
    for (const [name, n] of held) {
      const width = (1000 * n * (parts > 0 ? view.in_use / parts : 0)) / scale;
      bar.append(svg("rect", { class: `c${this.tenants.indexOf(name) % COLOURS}`, x, y: 6, width, height: 28 }));
      x += width;
    }
    const mark = (at, kind) => bar.append(svg("line", { class: `mark ${kind}`, x1: at, x2: at, y1: 0, y2: 40, "vector-effect": "non-scaling-stroke" }));
    const marks = [["quota", view.quota], ["limit", most], ...(adaptive ? [["adaptive", view.limit]] : [])];
    for (const [kind, at] of marks) mark((1000 * at) / scale, kind);
    this.replace("bar", JSON.stringify([held, marks, view.in_use]), bar);
    const lines = marks.reverse().map(([kind, at]) => el("span", {}, el("i", { class: `line ${kind}`, "aria-hidden": "true" }), `${kind === "adaptive" ? "adaptive limit" : kind} ${count(at)}\u2003`));
    this.replace("legend", JSON.stringify([held, marks]), ...lines, ...held.filter(([, n]) => n > 0).map(([name, n]) =>
      el("span", {}, el("i", { class: `swatch c${this.tenants.indexOf(name) % COLOURS}`, "aria-hidden": "true" }), `${name} ${count(n)}\u2003`)));
  }

  tiles(view, counts, then, throttles, blocked) {
    const span = Math.max(1, (Date.parse(this.history.at(-1).at) - Date.parse(then.at)) / 1000);
    const waits = counts.queue_wait[1].map((n, i) => n - (then.counts.queue_wait[1][i] ?? 0));
    const began = counts.start_delay[1].map((n, i) => n - (then.counts.start_delay[1][i] ?? 0));
    const [gate] = Object.entries(blocked).sort((a, b) => b[1] - a[1])[0] ?? [null];
    const tile = (name, value, kind = "") => el("div", { class: `tile ${kind}` }, el("b", {}, value), el("span", {}, name));
    const ended = sum(counts.ended) - sum(then.counts.ended);
    this.replace("tiles", String(this.history.at(-1).at),
      tile("due now", count(view.queued.due)),
      tile("due later", count(view.queued.delayed)),
      tile("oldest due", view.queued.due ? seconds(view.oldest_age_s) : "–", view.oldest_age_s > 300 ? "warn" : ""),
      tile("from due to sent, 95 % below", seconds(quantile(counts.queue_wait[0], waits, 0.95))),
      began.some((n) => n > 0) && tile("start delay in the cloud, 95 % below", seconds(quantile(counts.start_delay[0], began, 0.95))),
      tile("due work waits for", gate === null ? "nothing" : GATES[gate] ?? gate),
      tile("throttles, last minute", count(sum(throttles)), sum(throttles) ? "bad" : ""),
      tile("ended a second", count(ended / span)),
      tile("dead", count(counts.dead), counts.dead ? "warn" : ""));
  }

  tables(view, counts, throttles, blocked) {
    const tenants = Object.entries(view.tenants).sort();
    const functions = Object.entries(view.functions).sort();
    const gates = Object.entries(blocked).sort((a, b) => b[1] - a[1]);
    const refused = Object.entries(counts.throttles).sort((a, b) => b[1] - a[1]);
    this.replace("tables", JSON.stringify([tenants, functions, refused, throttles, gates]),
      table("Tenants", ["tenant", "weight", "reserved", "limit", "in use", "waiting", "oldest due"], tenants.map(([name, t]) =>
        [swatched(name, this.tenants.indexOf(name) % COLOURS), count(t.weight), count(t.reserved), t.limit ?? "–", count(t.in_use), count(t.queued), t.oldest_age_s > 0 ? seconds(t.oldest_age_s) : "–"])),
      table("Functions", ["function", "limit", "in use", "waiting", ""], functions.map(([name, f]) =>
        [f.paused ? `${name} (paused)` : name, f.limit ?? "–", count(f.in_use), count(f.queued), this.toggle(view.name, f.paused, name)])),
      gates.length > 0 && table("What due work waited for, last minute", ["gate", "time"], gates.map(([gate, s]) => [GATES[gate] ?? gate, seconds(s)])),
      refused.length > 0 && table("Throttles by the cloud's reason", ["reason", "last minute", "in all"], refused.map(([reason, n]) =>
        [reason, count(throttles[reason] ?? 0), count(n)])));
  }

  makeCharts() {
    for (const [chart, holder] of this.charts) { chart.destroy(); holder.remove(); }
    this.charts = [];
    const axis = (more) => ({ stroke: () => colour("--dim"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui", ...more });
    const make = (title, series) => {
      const holder = el("div", {}, el("h3", {}, title));
      this.parts.charts.append(holder);
      const chart = new uPlot({
        width: 300, height: 150, cursor: { show: false }, legend: { live: false, show: series.length > 1 },
        scales: { x: { time: false, range: [-KEPT, 0] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.08)] } },
        axes: [
          axis({ size: 26, splits: [-300, -240, -180, -120, -60, 0], values: (_, at) => at.map((s) => (s ? `${s / 60} min` : "now")) }),
          axis({ size: 48, values: (_, at) => at.map(count) }),
        ],
        series: [{}, ...series.map(([label, stroke, fill, dash]) => ({ label, stroke: () => colour(stroke), width: 1.5, dash, points: { show: false }, fill: fill && (() => `${colour(stroke)}33`) }))],
      }, [[], ...series.map(() => [])], holder);
      this.charts.push([chart, holder]);
    };
    make("Instances", [["in use", "--t0", true], ["limit", "--ink"], ["quota", "--dim", false, [4, 4]]]);
    make("Waiting", [["due", "--t1", true], ["later", "--t7"]]);
    make("Throttles a second", [["throttles", "--bad", true]]);
  }

  draw() {
    const h = this.history;
    const now = Date.parse(h.at(-1)?.at) / 1000;
    const x = h.map((one) => Date.parse(one.at) / 1000 - now);
    const rate = h.map((one, i) => (i ? Math.max(0, sum(one.counts.throttles) - sum(h[i - 1].counts.throttles)) / Math.max(0.5, x[i] - x[i - 1]) : 0));
    const data = [
      [x, h.map((one) => one.view.in_use), h.map((one) => one.view.limit), h.map((one) => one.view.quota)],
      [x, h.map((one) => one.view.queued.due), h.map((one) => one.view.queued.delayed)],
      [x, rate],
    ];
    this.charts.forEach(([chart], i) => chart.setData(data[i]));
  }

  resize() {
    for (const [chart, holder] of this.charts) chart.setSize({ width: Math.max(200, holder.clientWidth), height: 150 });
  }
}

function swatched(name, i) {
  return el("span", {}, el("i", { class: `swatch c${i}`, "aria-hidden": "true" }), name);
}

function table(title, names, rows) {
  const cell = (value, i) => el("td", { class: i && !(value instanceof Node) ? "n" : undefined }, value);
  return el("div", { class: "scroll" }, el("h3", {}, title), rows.length === 0 ? el("p", { class: "quiet" }, "none") : el("table", {},
    el("thead", {}, el("tr", {}, ...names.map((name, i) => el("th", { class: i && name ? "n" : undefined }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell))))));
}
