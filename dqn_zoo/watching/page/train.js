// The runs of the log folder as they grow.

import {ask, link, linkPages, lost} from "./connection.js";
import {mostDrawn, ofGroups, ofRuns} from "./lines.js";
import {by, say, whenSeen, whole} from "./page.js";

const tenths = new Intl.NumberFormat("en", {maximumFractionDigits: 1});
const pollEveryMs = 3000;
const panels = [
  {title: "Score: last 100 training games", column: "return_mean"},
  {title: "Score: evaluations", column: "mean", ofEvaluations: true},
  {title: "Loss", column: "loss"},
  {title: "Q-values of the minibatches", column: "q_mean"},
  {title: "Steps a second", column: "steps_per_second"},
  {title: "Memory, MB", column: "memory_mb"},
];

const curves = new Map();  // by run: what the server answered last
let drawn = new Set(), isChosen = false;  // by somebody; until then it is the newest run that trains, or the newest
let isOffered = false, rows = [], groups = null;
let plots = [], looks = "";  // the lines of the plots, as text

linkPages();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(() => plots.forEach(plot => plot.setSize(size(plot.root.parentElement)))).observe(by("curves"));
poll();

async function poll() {
  try {
    ({runs: rows} = await ask("runs"));
    const hasChanged = follow();
    list();
    if (hasChanged || !isOffered) await offer();
    if (await readAll() || hasChanged) draw();
    say("");
  } catch (error) {
    say(error instanceof TypeError ? lost : error.message);
  }
  setTimeout(() => whenSeen(poll), pollEveryMs);
}

// Draws what is there of what was chosen. Returns whether that is another choice than before.
function follow() {
  const before = String([...drawn]), keys = rows.map(row => row.key);
  const newest = rows.find(row => row.training) ?? rows[0];
  drawn = new Set(isChosen || !newest ? [...drawn].filter(key => keys.includes(key)) : [newest.key]);
  return String([...drawn]) !== before;
}

// Returns whether there is anything new.
async function readAll() {
  if (by("by").value) return readGroups();
  let hasChanged = false;
  for (const run of drawn) hasChanged = await read(run) || hasChanged;
  return hasChanged;
}

async function readGroups() {
  const setting = by("by").value, runs = [...drawn];
  const isOther = !groups || groups.of !== String([setting, ...runs]);
  const answer = await ask("groups", {by: setting, since: isOther ? "" : groups.stamp}, runs);
  if (!answer.panels || by("by").value !== setting) return false;
  groups = {...answer, of: String([setting, ...runs])};
  return true;
}

// The settings in which the runs that are drawn differ; what is chosen stays, if it is one of them.
async function offer() {
  const {settings} = await ask("settings", {}, [...drawn]), select = by("by"), chosen = select.value;
  isOffered = true;
  select.replaceChildren(select.options[0], ...settings.map(each => new Option(each, each, false, each === chosen)));
  select.disabled = !settings.length;
  if (select.value !== chosen) select.value = "";
  by("by-note").hidden = !select.value;
}

async function choose(change) {
  isChosen = true;
  try {
    change();
    await offer();
    await readAll();
    say("");
  } catch (error) {
    say(error.message);
  }
  draw();
}

async function read(run) {
  const before = curves.get(run);
  const answer = await ask("curves", {run, since: before?.stamp ?? ""});
  if (!answer.progress) return false;
  curves.set(run, answer);
  return true;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  const minutes = Math.ceil(seconds / 60), hours = Math.floor(minutes / 60);
  return hours ? `${hours} h ${minutes % 60} min` : `${minutes} min`;
}

const orDash = (value, format) => value === null || value === undefined ? "-" : format.format(value);

// Rows are changed in place: what has the focus keeps it.
function list() {
  by("none").hidden = rows.length > 0;
  by("runs").hidden = !rows.length;
  const body = by("runs").tBodies[0];
  const shown = new Map([...body.rows].map(row => [row.dataset.run, row]));
  const wanted = rows.map(row => fill(shown.get(row.key) ?? build(row.key), row));
  if (wanted.some((row, place) => row !== body.rows[place]) || wanted.length !== body.rows.length) body.replaceChildren(...wanted);
}

function build(run) {
  const row = document.createElement("tr"), box = document.createElement("input"), play = document.createElement("a");
  row.dataset.run = run;
  box.type = "checkbox";
  box.setAttribute("aria-label", `draw ${run}`);
  box.addEventListener("change", () => toggle(run, box));
  row.insertCell().append(box);
  for (let cell = 0; cell < 7; cell += 1) row.insertCell();
  row.insertCell().append(play);
  return row;
}

function fill(row, data) {
  const [draw, name, ...numbers] = row.cells, play = numbers.pop().firstChild;
  draw.firstChild.checked = drawn.has(data.key);
  const texts = data.error ? [data.error, "", "", "", "", ""] : [
    `${orDash(data.steps, whole)} of ${whole.format(data.goal)}`, data.training ? duration(data.seconds_left) : data.finished ? "finished" : "stopped",
    orDash(data.speed, whole), orDash(data.return, tenths), orDash(data.evaluation, tenths),
    data.memory_mb ? `${whole.format(data.memory_mb)} MB` : "-",
  ];
  for (const [cell, text] of [[name, data.key], ...numbers.map((cell, place) => [cell, texts[place]])])
    if (cell.textContent !== text) cell.textContent = text;
  const agent = data.training ? `${data.key}, newest weights` : data.key;
  play.textContent = data.training ? "newest weights" : "its agent";
  play.setAttribute("aria-label", data.training ? `play the newest weights of ${data.key}` : `play the agent of ${data.key}`);
  play.href = link("", {agent});
  return row;
}

function toggle(run, box) {
  if (box.checked && drawn.size >= mostDrawn) {
    box.checked = false;
    say(`${mostDrawn} runs are drawn: leave one out first`);
    return;
  }
  choose(() => {
    if (box.checked) drawn.add(run);
    else drawn.delete(run);
    by("all").checked = drawn.size >= Math.min(rows.length, mostDrawn);
  });
}

by("all").addEventListener("change", () => choose(() => {
  drawn = new Set(by("all").checked ? rows.slice(0, mostDrawn).map(row => row.key) : []);
  list();
}));
by("by").addEventListener("change", () => choose(() => {}));

// --- Curves

function size(place) {
  return {width: Math.max(place.clientWidth, 200), height: 240};
}

function draw() {
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(`--${name}`).trim();
  const axis = {stroke: colour("soft"), grid: {stroke: colour("line"), width: 1}, ticks: {stroke: colour("line"), width: 1}};
  const runs = [...drawn].filter(run => curves.has(run)), isGrouped = Boolean(by("by").value && groups);
  const tables = panel => runs.map(run => {
    const table = curves.get(run)[panel.ofEvaluations ? "evaluations" : "progress"];
    return [table.steps, table[panel.column]];
  });
  const contents = panels.map(panel => isGrouped
    ? ofGroups(groups.groups, groups.panels[panel.column], colour) : ofRuns(runs, tables(panel), Boolean(panel.ofEvaluations), colour));
  const before = looks;
  looks = JSON.stringify([axis, contents.map(({series}) => series)]);
  if (looks === before) {
    renew(contents.map(({data}) => data));
    return;
  }
  plots.forEach(plot => plot.destroy());
  const figures = panels.map(panel => {
    const figure = document.createElement("figure"), title = document.createElement("figcaption"), place = document.createElement("div");
    title.textContent = panel.title;
    figure.append(title, place);
    return {figure, place};
  });
  by("curves").replaceChildren(...figures.map(each => each.figure));
  plots = figures.map(({place}, number) => {
    const {series, bands, data} = contents[number];
    return new uPlot({
      ...size(place),
      scales: {x: {time: false}},
      axes: [
        {...axis, values: (_, splits) => splits.map(each => new Intl.NumberFormat("en", {notation: "compact"}).format(each))},
        {...axis, size: 56},
      ],
      series: [{label: "steps"}, ...series],
      bands,
      cursor: {sync: {key: "steps"}, drag: {x: true, y: false}},
    }, data, place);
  });
}

// New rows do not move what somebody has zoomed into, which is the same steps in all plots.
function renew(tables) {
  const zoomed = plots.find(({data: [steps], scales: {x}}) => x.min > steps[0] || x.max < steps.at(-1));
  const range = zoomed && {min: zoomed.scales.x.min, max: zoomed.scales.x.max};
  plots.forEach((plot, place) => {
    plot.setData(tables[place], !range);
    if (range) plot.setScale("x", range);
  });
}
