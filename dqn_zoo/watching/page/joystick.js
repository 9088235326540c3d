// Keys, touch and a gamepad as actions of the game: arrows and the button, in the emulator's names.

const order = [["ArrowUp", "UP"], ["ArrowDown", "DOWN"], ["ArrowRight", "RIGHT"], ["ArrowLeft", "LEFT"], [" ", "FIRE"]];
const words = Object.fromEntries(order);
const signs = {ArrowUp: "\u25b2", ArrowDown: "\u25bc", ArrowRight: "\u25b6", ArrowLeft: "\u25c0", " ": "Fire"};
const names = {ArrowUp: "up", ArrowDown: "down", ArrowRight: "right", ArrowLeft: "left", " ": "fire"};
const opposite = {ArrowUp: "ArrowDown", ArrowDown: "ArrowUp", ArrowRight: "ArrowLeft", ArrowLeft: "ArrowRight"};

const deadZone = 0.5;

// The keys that a gamepad stands for: cross, left stick, and any of the four buttons under the right thumb.
function lean({buttons, axes}) {
  const isDown = place => Boolean(buttons[place]?.pressed), [x = 0, y = 0] = axes;
  const held = {
    ArrowUp: isDown(12) || y < -deadZone, ArrowDown: isDown(13) || y > deadZone,
    ArrowLeft: isDown(14) || x < -deadZone, ArrowRight: isDown(15) || x > deadZone,
    " ": [0, 1, 2, 3].some(isDown),
  };
  return Object.keys(held).filter(key => held[key]);
}

export class Joystick {
  // press(action, at) is called with the place of an action in the game's list, and the time, whenever it changes;
  // plays() says whether the game goes on: while it does not, space presses the button that has the focus.
  constructor(pad, press, plays) {
    this.pad = pad;
    this.press = press;
    this.plays = plays;
    this.isTaken = false;
    this.held = [];  // keys, the latest last
    this.leant = new Set();  // keys that a gamepad holds
    document.addEventListener("keydown", event => this.key(event, true));
    document.addEventListener("keyup", event => this.key(event, false));
    addEventListener("blur", () => this.release());
    pad.append(...order.map(([key]) => this.button(key)));
  }

  begin(actions) {
    this.actions = actions;
    this.isUpright = !actions.some(each => each.includes("UP") || each.includes("DOWN"));
    this.release();
    for (const button of this.pad.children)
      button.hidden = !actions.some(each => each.includes(words[button.dataset.key]));
  }

  take(isTaken) {
    this.release();
    cancelAnimationFrame(this.polling);
    if (isTaken) this.polling = requestAnimationFrame(now => this.poll(now));
    this.isTaken = isTaken;
    this.pad.hidden = !isTaken;
  }

  // A gamepad tells nothing: it is asked at every picture of the screen.
  poll(now) {
    this.polling = requestAnimationFrame(next => this.poll(next));
    const leant = new Set(Array.from(navigator.getGamepads?.() ?? []).flatMap(each => each?.connected ? lean(each) : []));
    for (const key of Object.keys(signs)) if (leant.has(key) !== this.leant.has(key)) this.hold(key, leant.has(key), now);
    this.leant = leant;
  }

  // What a gamepad still holds counts again at the next picture.
  release() {
    this.leant.clear();
    if (!this.held.length) return;
    this.held = [];
    this.tell(performance.now());
  }

  // Some games that are played up and down call that right and left.
  word(key) {
    return this.isUpright ? {ArrowUp: "RIGHT", ArrowDown: "LEFT"}[key] ?? words[key] : words[key];
  }

  // The action that is held: as much of it as the game has.
  action() {
    const isSideways = this.held.includes("ArrowLeft") || this.held.includes("ArrowRight");
    const keys = this.held.filter(key => !this.held.slice(this.held.indexOf(key)).includes(opposite[key])
      && !(this.isUpright && isSideways && (key === "ArrowUp" || key === "ArrowDown")));
    const pressed = order.filter(([key]) => keys.includes(key)).map(([key]) => this.word(key));
    const moves = pressed.filter(word => word !== "FIRE"), fires = pressed.includes("FIRE");
    const latest = keys.filter(key => key !== " ").map(key => this.word(key)).at(-1);
    const wanted = [
      moves.join("") + (fires ? "FIRE" : ""), fires && latest ? `${latest}FIRE` : "", moves.join(""), latest ?? "",
      fires ? "FIRE" : "", "NOOP",
    ];
    return Math.max(0, this.actions.indexOf(wanted.find(each => each && this.actions.includes(each))));
  }

  key(event, isDown) {
    if (!this.isTaken || !(event.key in signs) || !(isDown ? this.isForGame(event) : this.held.includes(event.key))) return;
    event.preventDefault();
    if (!event.repeat) this.hold(event.key, isDown, event.timeStamp);
  }

  // Whether a key that goes down is meant for the game; what is held is let go of wherever that happens.
  isForGame({key, target, ctrlKey, metaKey, altKey}) {
    if (target.closest("input, select") || ctrlKey || metaKey || altKey) return false;
    return key !== " " || this.plays() || !target.closest("button");
  }

  hold(key, isDown, at) {
    const before = this.action();
    this.held = this.held.filter(each => each !== key);
    if (isDown) this.held.push(key);
    if (this.action() !== before) this.tell(at);
  }

  tell(at) {
    for (const button of this.pad.children) button.classList.toggle("held", this.held.includes(button.dataset.key));
    this.press(this.action(), at);
  }

  button(key) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.key = key;
    button.textContent = signs[key];
    button.setAttribute("aria-label", names[key]);
    button.addEventListener("pointerdown", event => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.hold(key, true, event.timeStamp);
    });
    for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, event => this.hold(key, false, event.timeStamp));
    return button;
  }
}
