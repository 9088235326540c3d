import {Connection, ask} from "./connection.js";
import {Joystick} from "./joystick.js";
import {Frames, Screen} from "./screen.js";
import {Story} from "./story.js";
import {Values} from "./values.js";

const by = id => document.getElementById(id);
const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const speeds = [[0.25, "1/4"], [0.5, "1/2"], [1, "1"], [2, "2"], [4, "4"], [8, "8"], [16, "16"]];

const values = new Values(by("actions"));
const frames = new Frames(by("frames"));
const story = new Story(by("line"), values.colour());
const screen = new Screen(by("screen"), show, answer);
const joystick = new Joystick(by("pad"), (action, at) => {
  presses.push(at);
  connection.tell({do: "press", action, press: presses.length - 1});
});
let presses = [], numAnswered = 0, newestAnswer = -1, delays = [];
let plays = true, opened = null, results = [];

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => story.colour(values.colour()));
by("speed").append(...speeds.map(([value, text]) => new Option(text, value, value === 1, value === 1)));

const connection = new Connection({
  opened: begin,
  notice: hear,
  picture: receive,
  closed: reason => {
    say(reason);
    setState("not connected");
    for (const each of document.querySelectorAll("button, select, input")) each.disabled = true;
  },
});

async function begin() {
  try {
    const {agents, first} = await ask("agents");
    by("agent").append(...agents.map(each => new Option(each.key, each.key, each.key === first, each.key === first)));
    open();
  } catch (error) {
    say(error.message);
  }
}

function open() {
  setState("loading ...");
  connection.tell({do: "open", agent: by("agent").value, seed: seed()});
}

function seed() {
  const asked = Math.trunc(Number(by("seed").value));
  return asked >= 0 && asked < 2 ** 31 ? asked : 0;
}

function hear(notice) {
  if (notice.error) {
    say(notice.error);
    setPlays(false);
  }
  if (notice.opened) {
    opened = notice;
    results = [];
    say("");
    values.begin(notice.actions, notice.atoms);
    story.clear();
    screen.waiting = [];
    joystick.begin(notice.actions);
    tellSpeed();
    by("epsilon").value = notice.epsilon;
    by("seed").value = notice.seed;
    by("results").hidden = true;
    const steps = notice.steps === null ? "" : ` after ${whole.format(notice.steps)} steps of training`;
    by("about").textContent = `${notice.game}: ${notice.recipe}, ${notice.weights}${steps}; rules of ${notice.protocol}`;
    document.title = `${notice.game}, dqn-watch`;
    setPlays(true);
  }
}

function receive(picture) {
  screen.show(picture, joystick.isTaken);
}

// Called when a picture comes to the canvas, and for those that were too late for it.
function show(picture) {
  connection.tell({do: "drawn"});
  frames.show(picture.frames);
  values.show(picture);
  story.add(picture.trail);
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
  if (picture.result !== null) end(picture);
}

// How long it took from a key to the picture in which it counts.
function answer() {
  for (; numAnswered <= newestAnswer; numAnswered += 1) delays.push(performance.now() - presses[numAnswered]);
  delays = delays.slice(-50);
}

function end({game, step, result}) {
  results = [{game, step, result}, ...results].slice(0, 10);
  by("results").hidden = false;
  by("results").tBodies[0].replaceChildren(...results.map(each => {
    const row = document.createElement("tr");
    for (const text of [each.game + 1, whole.format(each.result), whole.format(each.step)]) row.insertCell().textContent = text;
    return row;
  }));
}

function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
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

function toggle() {
  if (!opened) return;
  setPlays(!plays);
  connection.tell({do: plays ? "play" : "pause"});
}

function oneStep() {
  if (!opened) return;
  setPlays(false);
  connection.tell({do: "step"});
}

// In the middle of a game, and back.
function takeOver() {
  if (!opened) return;
  joystick.take(!joystick.isTaken);
  connection.tell({do: "hand", to: joystick.isTaken ? "you" : "agent"});
  by("hand").setAttribute("aria-pressed", String(joystick.isTaken));
  by("hand").textContent = joystick.isTaken ? "Hand back" : "Take over";
  if (joystick.isTaken && !plays) toggle();
}

by("play").addEventListener("click", toggle);
by("hand").addEventListener("click", takeOver);
by("step").addEventListener("click", oneStep);
by("speed").addEventListener("change", tellSpeed);
by("agent").addEventListener("change", open);
by("seed").addEventListener("change", open);
by("epsilon").addEventListener("change", () => {
  const chance = Math.min(1, Math.max(0, Number(by("epsilon").value) || 0));
  by("epsilon").value = chance;
  connection.tell({do: "epsilon", chance});
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  if (event.key === "p" || event.key === "P") toggle();
  else if (event.key === "n" || event.key === "N") oneStep();
  else if (event.key === "j" || event.key === "J") takeOver();
});

// A page that nobody sees stands still.
let wasPlaying = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    wasPlaying = plays;
    if (plays) toggle();
  } else if (wasPlaying && !plays) toggle();
});

setInterval(() => {
  by("rate").textContent = opened && plays ? screen.rate : "-";
  const sorted = [...delays].sort((first, second) => first - second);
  by("delay").textContent = sorted.length ? `${Math.round(sorted[Math.floor(sorted.length / 2)])} ms` : "-";
  by("delay-box").hidden = !joystick.isTaken;
  story.draw();
}, 100);
