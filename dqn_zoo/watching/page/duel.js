// Two games of one seed beside each other: two agents, or you and an agent.

import {Connection, ask, linkPages} from "./connection.js";
import {Joystick} from "./joystick.js";
import {by, say, standStillUnseen, whole} from "./page.js";
import {Screen} from "./screen.js";
import {Values} from "./values.js";

const you = "You", mostResults = 20;

class Side {
  constructor(section) {
    this.section = section;
    this.screen = new Screen(this.find("canvas"), picture => this.show(picture), () => {});
    this.values = new Values(this.find(".actions"));
    this.values.colour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.values.colour();
      this.draw();
    });
    addEventListener("resize", () => this.draw());
  }

  find(selector) {
    return this.section.querySelector(selector);
  }

  begin({name, recipe, weights, steps, atoms}, actions) {
    this.screen.settle();
    this.isPerson = name === null;
    this.name = name ?? you;
    this.isOver = false;
    this.picture = null;
    this.values.begin(this.isPerson ? [] : actions, atoms);
    const after = steps === null ? "" : ` after ${whole.format(steps)} steps of training`;
    this.find(".weights").textContent = this.isPerson ? "by keyboard, touch or gamepad" : `${recipe}, ${weights}${after}`;
    for (const each of this.section.querySelectorAll("dd")) each.textContent = "-";
  }

  // Called when a picture comes to the canvas, and for those that were too late for it.
  show(picture) {
    if (picture.isFirst) connection.tell({do: "drawn"});
    this.picture = picture;
    this.draw();
    this.find(".score").textContent = whole.format(picture.score);
    this.find(".lives").textContent = picture.lives;
    this.find(".steps").textContent = whole.format(picture.step);
    if (picture.result !== null && !this.isOver) {
      this.isOver = true;
      turn();
    }
  }

  draw() {
    if (this.picture && !this.isPerson) this.values.show(this.picture);
  }

  say(text) {
    this.find(".state").textContent = text;
  }
}

const sides = ["left", "right"].map(side => {
  by("terms").insertAdjacentHTML("beforebegin", by("side").innerHTML.replaceAll("SIDE", side));
  return new Side(by(side));
});
sides[0].find(".mind").prepend(by("person").content);
const joystick = new Joystick(by("pad"), action => connection.tell({do: "press", action, press: 0}), () => plays);
let agents = [], opened = null, plays = false, hasBegun = false, parted = null, over = null;
let numAsked = 0;  // duels that the server has not answered for: until then no key means this one or that

linkPages();
const connection = new Connection({
  opened: begin,
  notice: hear,
  picture: (...pictures) => {
    pictures[0].isFirst = true;
    for (const picture of pictures) sides[picture.side].screen.show(picture, joystick.isTaken);
  },
  closed: reason => {
    opened = null;  // so that no key does anything
    say(reason);
    joystick.take(false);
    for (const side of sides) side.say("not connected");
    for (const each of document.querySelectorAll("button, select, input")) each.disabled = true;
  },
});
const lookWhetherSeen = standStillUnseen(() => plays, () => over || toggle());

async function begin() {
  try {
    const told = await ask("agents"), asked = new URLSearchParams(location.search);
    agents = told.agents;
    const keys = agents.map(each => each.key), right = asked.get("right");
    offer(by("right-agent"), keys, keys.includes(right) ? right : told.first);
    offerLeft(asked.get("left"));
    by("seed").value = asked.get("seed") ?? (by("left-agent").value ? 0 : drawn());
    open();
  } catch (error) {
    say(error.message);
  }
}

function offer(select, keys, chosen) {
  select.replaceChildren(...keys.map(key => new Option(key || you, key, key === chosen, key === chosen)));
}

// Only agents of the same game can meet.
function offerLeft(chosen) {
  const game = agents.find(each => each.key === by("right-agent").value).game;
  const keys = ["", ...agents.filter(each => each.game === game).map(each => each.key)];
  offer(by("left-agent"), keys, keys.includes(chosen) ? chosen : "");
}

function drawn() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}

function open() {
  numAsked += 1;
  const seed = Math.trunc(Number(by("seed").value));
  connection.tell({
    do: "duel", left: by("left-agent").value || null, right: by("right-agent").value, seed: seed >= 0 && seed < 2 ** 31 ? seed : 0,
    protocol: by("protocol").value || null, order: by("order").value, stops: by("stops").checked,
  });
}

function hear(notice) {
  if (notice.error || notice.opened) numAsked = Math.max(0, numAsked - 1);
  if (notice.error) {
    say(notice.error);
    setPlays(false);
  }
  if (notice.opened) {
    opened = notice;
    [hasBegun, parted, over] = [false, null, null];
    say("");
    sides.forEach((side, place) => side.begin(notice.sides[place], notice.actions));
    joystick.begin(notice.actions);
    by("seed").value = notice.seed;
    const {game, protocol, sticky, noops, epsilon} = notice;
    by("about").textContent = `${game}, seed ${notice.seed}; rules of ${protocol}: sticky actions ${sticky}, no-ops up to ${noops}, an agent's epsilon ${epsilon}`;
    document.title = `${game}, duel, dqn-watch`;
    by("kept").textContent = !hasPerson() ? ""
      : notice.is_known ? "You have begun this seed before by these rules, so this game will not count: New seed draws another."
      : "Your game counts if it is played to its end. It can be paused; it has the console's speed, and no way back.";
    connection.tell({do: "speed", times: Number(by("speed").value)});
    setPlays(!hasPerson());
    if (!numAsked) lookWhetherSeen();
    turn();
  }
  if (notice.parted) {
    parted = notice;
    if (notice.stops) setPlays(false);
    tellNews();
  }
  if (notice.over) end(notice);
}

function hasPerson() {
  return sides[0].isPerson;
}

// Whose turn it is: the joystick is yours as long as your game goes on.
function turn() {
  const isMine = hasPerson() && !sides[0].isOver;
  if (joystick.isTaken !== isMine) joystick.take(isMine);
  by("yours").hidden = !hasPerson();
  document.querySelector("main").classList.toggle("agents", !hasPerson());
  by("speed").disabled = isMine;
  by("step").disabled = isMine || Boolean(over);
  for (const each of document.querySelectorAll("label.yours")) each.hidden = !hasPerson();
  for (const each of document.querySelectorAll("label.theirs")) each.hidden = hasPerson();
  tellNews();
}

function end(notice) {
  over = notice.over;
  setPlays(false);
  turn();
  const counts = notice.is_known ? "it does not count, because this seed was begun before" : `${notice.leaderboard} counts it`;
  if (notice.file) by("kept").textContent = `Kept in ${notice.file}: ${counts}, dqn-verify plays it again.`;
  const row = by("results").tBodies[0].insertRow(0);
  const cells = [opened.seed, sides[0].name, whole.format(over[0]), sides[1].name, whole.format(over[1]), parted ? whole.format(parted.parted) : "never"];
  for (const text of cells) row.insertCell().textContent = text;
  while (by("results").tBodies[0].rows.length > mostResults) by("results").tBodies[0].deleteRow(-1);
  by("results").hidden = false;
}

function tellNews() {
  if (!opened) return;
  const [left, right] = hasPerson() ? ["by you", "by the agent"] : ["on the left", "on the right"];
  const where = parted && `They part at step ${whole.format(parted.parted)}: ${parted.actions[0]} ${left}, ${parted.actions[1]} ${right}.`;
  const lead = over && Math.abs(over[0] - over[1]);
  const first = sides[over?.[0] > over?.[1] ? 0 : 1], wins = first.isPerson ? "You win" : `${first.name} wins`;
  const won = over && (lead ? `${wins} by ${whole.format(lead)}. ` : "A draw. ");
  const sofar = !hasBegun ? "Ready when you are." : sides[1].picture ? "They act alike so far." : "The agent plays after you.";
  by("news").textContent = over ? won + (where ?? "They never part.") : where ?? (hasPerson() ? sofar : "They act alike so far.");
  by("news").classList.toggle("parted", Boolean(where));
  sides.forEach(side => side.say(stateOf(side)));
}

function stateOf(side) {
  if (side.isOver) return "over";
  if (!plays) return hasBegun || !hasPerson() ? "paused" : side.isPerson ? "Begin (P)" : "waits";
  return side === sides[1] && hasPerson() && opened && by("order").value === "you first" && !sides[0].isOver ? "waits for you" : "";
}

function setPlays(now) {
  plays = now;
  hasBegun ||= now;
  by("play").textContent = over ? (hasPerson() ? "New duel" : "Again") : plays ? "Pause" : hasBegun ? "Play" : "Begin";
  tellNews();
}

function toggle() {
  if (!opened || numAsked) return;
  if (over) return hasPerson() ? newSeed() : open();
  setPlays(!plays);
  connection.tell({do: plays ? "play" : "pause"});
}

function oneStep() {
  if (!opened || numAsked || by("step").disabled) return;
  setPlays(false);
  connection.tell({do: "step"});
}

function newSeed() {
  by("seed").value = drawn();
  open();
}

by("play").addEventListener("click", toggle);
by("step").addEventListener("click", oneStep);
by("new-seed").addEventListener("click", newSeed);
by("speed").addEventListener("change", () => connection.tell({do: "speed", times: Number(by("speed").value)}));
by("right-agent").addEventListener("change", () => {
  offerLeft(by("left-agent").value);
  open();
});
for (const id of ["left-agent", "seed", "protocol", "order"]) by(id).addEventListener("change", open);
by("stops").addEventListener("change", () => parted || open());
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), select")) return;
  if (event.key.toLowerCase() === "p" && event.repeat) return;
  if (event.key === "p" || event.key === "P") toggle();
  else if (event.key === "n" || event.key === "N") oneStep();
});

