"use strict";

const REFRESH_MS = 2000;
const TOKEN_KEY = "optserve-token";

const find = (id) => document.getElementById(id);
const state = { selected: location.hash.slice(1) && decodeURIComponent(location.hash.slice(1)), charts: new Map(), timer: 0 };

class Unauthorized extends Error {}

/** Reads JSON from the server. Throws Unauthorized if it wants another token. */
async function read(path) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const response = await fetch(path, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  const body = await response.json();
  if (response.status === 401) throw new Unauthorized(body.error);
  return response.ok ? body : { error: body.error };
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${number(count, 3)} ${units[unit]}`;
}

function ago(seconds) {
  if (seconds === null) return "–";
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

const moment = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB");

/** Reads and shows everything; then again after a while. */
async function refresh() {
  clearTimeout(state.timer);
  try {
    const list = await read("dashboard/sessions");
    if (list.error) throw new Error(list.error);
    showList(list);
    if (state.selected) {
      const session = await read(`dashboard/session?id=${encodeURIComponent(state.selected)}`);
      session.error ? hideDetail() : showDetail(session);
    }
    find("status").textContent = `updated ${new Date().toLocaleTimeString("en-GB")}`;
    find("status").className = "";
  } catch (error) {
    if (error instanceof Unauthorized) return askForToken(error.message);
    find("status").textContent = `no answer: ${error.message}`;
    find("status").className = "lost";
  }
  state.timer = setTimeout(refresh, REFRESH_MS);
}

function askForToken(message) {
  const tried = sessionStorage.getItem(TOKEN_KEY);
  sessionStorage.removeItem(TOKEN_KEY);
  find("main").hidden = true;
  find("login").hidden = false;
  find("login-error").textContent = tried ? message : "";
  find("status").textContent = "a token is needed";
  find("token").focus();
}

function showList(list) {
  find("login").hidden = true;
  find("main").hidden = false;
  find("namespace").textContent = list.namespace ? `namespace ${list.namespace}` : "";
  const wanted = find("filter").value.trim();
  const shown = list.sessions.filter((session) => session.id.includes(wanted));
  find("no-sessions").hidden = list.sessions.length > 0;
  if (!state.selected && shown.length) select(shown[0].id);
  find("sessions").replaceChildren(...shown.map((session) => {
    const button = element("button");
    button.setAttribute("aria-current", String(session.id === state.selected));
    button.append(element("span", session.id, "id"), element("span", `step ${number(session.step)}`));
    const facts = [session.optimizer, `${number(session.elements)} parameters`, session.state];
    if (session.workers) facts.push(session.workers === 1 ? "1 worker" : `${session.workers} workers`);
    button.append(element("span", facts.join(" · "), "more"));
    button.addEventListener("click", () => { select(session.id); refresh(); });
    const item = element("li");
    item.append(button);
    return item;
  }));
}

function select(id) {
  if (id === state.selected) return;
  state.selected = id;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  removeCharts();
}

function removeCharts() {
  for (const { plot, box } of state.charts.values()) { plot.destroy(); box.remove(); }
  state.charts.clear();
}

function hideDetail() {
  find("detail").hidden = true;
  state.selected = "";
  removeCharts();
}

function showDetail(session) {
  find("detail").hidden = false;
  find("name").textContent = session.id;
  find("state").textContent = session.state;
  find("state").className = `badge ${session.state}`;
  const facts = [
    ["step", number(session.step)],
    ["steps/s", number(session.steps_per_second, 3)],
    ["last step", session.time === null ? "–" : ago(session.now - session.time)],
    ["learning rate", number(session.learning_rate)],
    ["gradient norm", number(session.gradient_norm)],
    ["skipped", number(session.skipped)],
    ["durable step", number(session.durable_step)],
    ["optimizer", session.optimizer],
    ["tensors", number(session.tensors)],
    ["parameters", number(session.elements)],
    ["memory", bytes(session.resident_bytes)],
    ["created", moment(session.created)],
  ];
  find("facts").replaceChildren(...facts.map(([term, value]) => {
    const box = element("div");
    box.append(element("dt", term), element("dd", value));
    return box;
  }));
  showCharts(session);
  showTable("workers", ["worker", "state", "rank", "contributions", "last step", "staleness", "steps/s", "last seen"],
    session.members.map((one) => [
      one.worker, element("span", one.state, `badge ${one.state}`), one.rank, number(one.contributions),
      number(one.last_step), number(one.staleness), number(one.steps_per_second, 3), ago(one.seconds_since),
    ]), "No worker has joined.");
  showTable("snapshots", ["step", "time", "size", "kind"],
    session.snapshots.map((one) => [
      number(one.step), moment(one.time), bytes(one.byte_count), one.kept ? "asked for" : "automatic",
    ]), "No snapshot.");
  find("spec").textContent = JSON.stringify(session.spec, null, 2);
}

function showTable(id, names, rows, empty) {
  const head = element("tr");
  head.append(...names.map((name) => element("th", name)));
  const body = rows.map((row) => {
    const line = element("tr");
    line.append(...row.map((cell) => {
      const made = element("td");
      made.append(cell);
      return made;
    }));
    return line;
  });
  if (!rows.length) {
    const cell = element("td", empty, "empty");
    cell.colSpan = names.length;
    const line = element("tr");
    line.append(cell);
    body.push(line);
  }
  find(id).replaceChildren(head, ...body);
}

function showCharts(session) {
  const steps = session.steps;
  const wanted = Object.entries(session.metrics).map(([name, points]) => [name, points, [["value", points.value]], 1]);
  if (steps.step.length) {
    wanted.push(["learning rate", steps, [["rate", steps.learning_rate]], 1]);
    const norms = [["norm", steps.gradient_norm]];
    if (steps.clipped_gradient_norm.some((norm, i) => norm !== steps.gradient_norm[i])) {
      norms[0][0] = "before clipping";
      norms.push(["after clipping", steps.clipped_gradient_norm]);
    }
    const positive = steps.gradient_norm.every((norm) => norm === null || norm > 0);
    wanted.push(["gradient norm", steps, norms, positive ? 3 : 1]);
    if (steps.staleness.some(Boolean)) wanted.push(["staleness", steps, [["steps", steps.staleness]], 1]);
  }
  const kept = new Set(wanted.map(([name]) => name));
  for (const [name, { plot, box }] of state.charts) {
    if (!kept.has(name)) { plot.destroy(); box.remove(); state.charts.delete(name); }
  }
  for (const [name, points, series, scale] of wanted) showChart(name, points, series, scale);
}

/** Draws curves over steps or time; distr is 1 for a linear scale and 3 for a logarithmic one. */
function showChart(name, points, series, distr) {
  const axis = find("axis").value;
  const key = `${axis} ${distr} ${series.map(([label]) => label)}`;
  const data = [points[axis], ...series.map(([, values]) => values)];
  const known = state.charts.get(name);
  if (known && known.key === key) { known.plot.setData(data); return; }
  const box = known ? known.box : element("div", undefined, "chart");
  if (known) known.plot.destroy(); else { box.append(element("h4", name)); find("charts").append(box); }
  const style = getComputedStyle(document.documentElement);
  const color = (variable) => style.getPropertyValue(variable).trim();
  const colors = [color("--accent"), color("--warn")];
  const lines = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const plot = new uPlot({
    width: Math.max(240, box.clientWidth - 16),
    height: 210,
    scales: { x: { time: axis === "time" }, y: { distr } },
    axes: [lines, { ...lines, size: 64, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : number(tick, 3)) }],
    series: [
      { label: axis },
      ...series.map(([label], i) => ({
        label, stroke: colors[i], width: 1.5, spanGaps: false, value: (_, value) => number(value), points: { show: points.step.length < 40 },
      })),
    ],
  }, data, box);
  state.charts.set(name, { plot, box, key });
}

function resizeCharts() {
  for (const { plot, box } of state.charts.values()) plot.setSize({ width: Math.max(240, box.clientWidth - 16), height: 210 });
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, find("token").value.trim());
  find("token").value = "";
  refresh();
});
find("filter").addEventListener("input", refresh);
find("axis").addEventListener("change", refresh);
addEventListener("resize", resizeCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { removeCharts(); refresh(); });
addEventListener("visibilitychange", () => { document.hidden ? clearTimeout(state.timer) : refresh(); });
refresh();
