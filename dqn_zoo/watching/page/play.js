import {Connection, ask, link, linkPages} from "./connection.js";
import {Joystick} from "./joystick.js";
import {by, say, standStillUnseen, whenSeen, whole} from "./page.js";
import {Saliency} from "./saliency.js";
import {Frames, Screen} from "./screen.js";
import {Story} from "./story.js";
import {Values} from "./values.js";

const speeds = [[0.25, "1/4"], [0.5, "1/2"], [1, "1"], [2, "2"], [4, "4"], [8, "8"], [16, "16"]];

const values = new Values(by("actions"));
const frames = new Frames(by("frames"));
const story = new Story(by("line"), values.colour());
const screen = new Screen(by("screen"), show, answer);
const joystick = new Joystick(by("pad"), (action, at) => {
  presses.push(at);
  connection.tell({do: "press", action, press: presses.length - 1});
}, () => plays);
const saliency = new Saliency({
  canvas: by("saliency"), note: by("saliency-note"), button: by("look"), tell: on => connection.tell({do: "saliency", on}),
});
let presses = [], numAnswered = 0, newestAnswer = -1, delays = [];
let now = null, shown = [], looking = 0;  // the game that is shown, its moment, and how many steps ago that is
const waitForAGame = 4003;  // with which the server closes
const mostGames = 10;  // as many as the server can go back to
let greeting = "";  // of the next game that is opened
let isClosed = false, plays = true, opened = null, results = [];
let numAsked = 0;  // games and branches that the server has not answered for: until then no key means this one or that

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => story.colour(values.colour()));
by("speed").append(...speeds.map(([value, text]) => new Option(text, value, value === 1, value === 1)));

linkPages();
const connection = new Connection({
  opened: begin,
  notice: hear,
  picture: receive,
  closed: (reason, code) => {
    isClosed = true;
    opened = null;  // so that no key does anything
    say(reason);
    if (code === waitForAGame) setTimeout(() => whenSeen(() => location.reload()), 15_000);
    setState("not connected");
    for (const each of document.querySelectorAll("button, select, input")) each.disabled = true;
  },
});
const lookWhetherSeen = standStillUnseen(() => plays, toggle);

async function begin() {
  try {
    const {agents, first, visitors} = await ask("agents");
    if (visitors) welcome(visitors);
    else by("pages").hidden = by("films").hidden = false;
    const asked = new URLSearchParams(location.search).get("agent");
    const isListed = key => agents.some(each => each.key === key);
    const hasEnded = asked && !isListed(asked) && isListed(asked.replace(/, newest weights$/, ""));
    if (hasEnded) agents.unshift({key: asked});  // the newest weights of a run that has ended are its last
    const chosen = isListed(asked) ? asked : first;
    if (asked && chosen !== asked) greeting = `${asked} is not on the list any more: ${first} plays instead`;
    by("agent").append(...agents.map(each => new Option(each.key, each.key, each.key === chosen, each.key === chosen)));
    if (!isClosed) open();
  } catch (error) {
    say(error.message);
  }
}

// A page for anybody: without links and films, and a game that is left alone ends.
function welcome({games, minutes}) {
  document.body.classList.add("visitors");
  by("visitors").textContent = `${games === 1 ? "One visitor plays" : `Up to ${games} visitors play`} at a time; `
    + `a game that is left alone for ${minutes} minute${minutes === 1 ? "" : "s"} ends.`;
  by("visitors").hidden = false;
}

function open() {
  numAsked += 1;
  setState("loading ...");
  connection.tell({do: "open", agent: by("agent").value, seed: seed(), protocol: by("protocol").value || null});
}

function seed() {
  const asked = Math.trunc(Number(by("seed").value));
  return asked >= 0 && asked < 2 ** 31 ? asked : 0;
}

function hear(notice) {
  if ((notice.error && !("saliency" in notice || "film" in notice)) || notice.opened || notice.branched) numAsked = Math.max(0, numAsked - 1);
  if (notice.error && !("saliency" in notice)) {
    say(notice.error);
    if (!("film" in notice)) {
      setPlays(false);
      rewound(looking);
    }
  }
  if (notice.opened) {
    opened = notice;
    results = [];
    screen.settle();
    say(greeting);
    greeting = "";
    values.begin(notice.actions, notice.atoms);
    story.clear();
    joystick.begin(notice.actions);
    tellSpeed();
    by("epsilon").value = notice.epsilon;
    by("seed").value = notice.seed;
    by("results").hidden = true;
    saliency.begin(notice);
    rewound(0);
    describe();
    document.title = `${notice.game}, dqn-watch`;
    setPlays(true);
    if (!numAsked) lookWhetherSeen();
  }
  if (notice.newer) {
    opened = {...opened, weights: notice.newer, steps: notice.steps};
    describe();
  }
  if (notice.ended) end(notice.ended);
  if (notice.branched) {
    story.forgetAfter(...notice.branched);
    const [game] = notice.branched;
    results = results.filter(each => each.game < game);
    listResults();
    rewound(0);
    setPlays(true);
    if (!numAsked) lookWhetherSeen();
  }
  if (notice.trail) {
    screen.settle();
    story.add(notice.trail);
    rewound(looking);
  }
  if ("saliency" in notice) saliency.show(notice, looking ? shown : null);
  if ("going_back" in notice) setState(`going back, ${Math.round(notice.going_back * 100)} %`);
  if ("filming" in notice) by("filming").textContent = `filming, ${Math.round(notice.filming * 100)} %`;
  if ("film" in notice) save(notice);
}

function describe() {
  const {game, recipe, weights, steps, protocol} = opened;
  const after = steps === null ? "" : ` after ${whole.format(steps)} steps of training`;
  by("about").textContent = `${game}: ${recipe}, ${weights}${after}; rules of ${protocol}`;
}

function save({film, name}) {
  by("filming").textContent = film ? `${name} is saved` : "";
  if (!film) return;
  const file = document.createElement("a");
  file.href = link(`films/${film}`);
  file.download = name;
  file.click();
}

function receive(picture) {
  screen.show(picture, joystick.isTaken || picture.is_past);
}

// Called when a picture comes to the canvas, and for those that were too late for it.
function show(picture) {
  connection.tell({do: "drawn"});
  if (picture.is_past && !looking) return;  // what was asked for before the game went on
  frames.show(picture.frames);
  values.show(picture);
  if (!picture.is_past) story.add(picture.trail);
  by("score").textContent = whole.format(picture.score);
  by("lives").textContent = picture.lives;
  by("steps").textContent = whole.format(picture.step);
  by("number").textContent = picture.game + 1;
  by("frames-note").textContent =
    `${picture.frames.length} frames of 84 x 84 pixels, a step apart, the newest last. A step is 4 frames of the game.`;
  by("actions-note").textContent = picture.atoms || picture.quantiles
    ? "The distribution of the return of each action; the stroke is its mean, by which the agent chooses."
    : "The value of each action, by which the agent chooses.";
  if ("press" in picture) newestAnswer = picture.press;
  now = picture.game;
  shown = [picture.game, picture.step];
  saliency.fit(picture.height);
  if (picture.is_past) saliency.look(shown);
}

// How long it took from a key to the picture in which it counts.
function answer() {
  for (; numAnswered <= newestAnswer; numAnswered += 1) delays.push(performance.now() - presses[numAnswered]);
  delays = delays.slice(-50);
}

function end({game, step, result}) {
  results = [{game, step, result}, ...results].slice(0, mostGames);
  listResults();
}

function listResults() {
  by("results").hidden = !results.length;
  by("results").tBodies[0].replaceChildren(...results.map(each => {
    const row = document.createElement("tr"), button = document.createElement("button");
    for (const text of [each.game + 1, whole.format(each.result), whole.format(each.step)]) row.insertCell().textContent = text;
    button.type = "button";
    button.textContent = "Save";
    button.setAttribute("aria-label", `save a film of game ${each.game + 1}`);
    button.addEventListener("click", () => film(each.game));
    row.insertCell().append(button);
    return row;
  }));
}

function setState(text) {
  by("state").textContent = text;
}

function setPlays(now) {
  plays = now;
  by("play").textContent = plays ? "Pause" : "Play";
  setState(plays ? "" : "paused");
}

function tellSpeed() {
  connection.tell({do: "speed", times: Number(by("speed").value)});
}

// The last minute: what is looked at stands still; "Play" goes on in the present.
function rewound(back) {
  looking = back;
  by("rewind").min = -Math.max(0, story.length - 1);
  by("rewind").value = -back;
  by("rewind").setAttribute("aria-valuetext", back ? `${(back / 15).toFixed(1)} seconds ago` : "now");
  by("branch").disabled = !back || numAsked > 0;
  story.look(back);
}

function rewind() {
  if (!opened) return;
  if (numAsked) return rewound(looking);
  const back = -Number(by("rewind").value);
  if (plays) setPlays(false);
  rewound(back);
  connection.tell({do: "look", back});
  setState(back ? `${(back / 15).toFixed(1)} s ago` : "paused");
}

function film(game, seconds = null) {
  if (!opened || game === null) return;
  by("filming").textContent = "filming ...";
  connection.tell({do: "film", game, seconds});
}

function toggle() {
  if (!opened || numAsked) return;
  setPlays(!plays);
  rewound(0);
  connection.tell({do: plays ? "play" : "pause"});
}

function oneStep() {
  if (!opened || numAsked) return;
  rewound(0);
  setPlays(false);
  connection.tell({do: "step"});
}

function branch() {
  if (!opened || numAsked) return;
  numAsked += 1;
  rewound(looking);
  connection.tell({do: "branch"});
}

// In the middle of a game, and back.
function takeOver() {
  if (!opened) return;
  joystick.take(!joystick.isTaken);
  connection.tell({do: "hand", to: joystick.isTaken ? "you" : "agent"});
  by("hand").setAttribute("aria-pressed", String(joystick.isTaken));
  by("hand").textContent = joystick.isTaken ? "Hand back" : "Take over";
  if (joystick.isTaken && !plays && !looking) toggle();
}

by("play").addEventListener("click", toggle);
by("hand").addEventListener("click", takeOver);
by("rewind").addEventListener("input", rewind);
by("branch").addEventListener("click", branch);
by("film-end").addEventListener("click", () => film(now, 30));
by("film-game").addEventListener("click", () => film(now));
by("step").addEventListener("click", oneStep);
by("speed").addEventListener("change", tellSpeed);
by("agent").addEventListener("change", open);
by("seed").addEventListener("change", open);
by("protocol").addEventListener("change", open);
by("epsilon").addEventListener("change", () => {
  const chance = Math.min(1, Math.max(0, Number(by("epsilon").value) || 0));
  by("epsilon").value = chance;
  connection.tell({do: "epsilon", chance});
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]), select")) return;
  if ("psj".includes(event.key.toLowerCase()) && event.repeat) return;
  if (event.key === "p" || event.key === "P") toggle();
  else if (event.key === "n" || event.key === "N") oneStep();
  else if (event.key === "s" || event.key === "S") saliency.toggle();
  else if (event.key === "j" || event.key === "J") takeOver();
});

setInterval(() => {
  if (!looking) rewound(0);
  by("rate").textContent = opened && plays ? screen.rate : "-";
  const sorted = [...delays].sort((first, second) => first - second);
  by("delay").textContent = sorted.length ? `${Math.round(sorted[Math.floor(sorted.length / 2)])} ms` : "-";
  by("delay-box").hidden = !joystick.isTaken;
  story.draw();
}, 100);
