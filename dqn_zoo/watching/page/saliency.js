// Which parts of the picture the value comes from, laid over the game.

const side = 12, colour = [255, 61, 242], opaque = 190;  // a colour that hardly any game has
const number = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});

export class Saliency {
  // tell(isOn) is called when somebody turns it on or off.
  constructor({canvas, note, button, tell}) {
    Object.assign(this, {canvas, note, button, tell, isOn: false, times: [], most: 0, map: null});
    this.context = canvas.getContext("2d");
    this.patches = document.createElement("canvas");
    this.patches.width = this.patches.height = side;
    this.small = this.patches.getContext("2d");
    this.image = this.small.createImageData(side, side);
    button.addEventListener("click", () => this.toggle());
  }

  // Another agent or game: actions are names, crop is rows and columns that the network does not see.
  begin({actions, crop}) {
    Object.assign(this, {actions, crop, most: 0, map: null});
    this.clear();
  }

  toggle() {
    if (!this.crop) return;
    this.isOn = !this.isOn;
    this.button.setAttribute("aria-pressed", String(this.isOn));
    this.canvas.hidden = this.note.hidden = !this.isOn;
    this.note.textContent = "looking ...";
    this.times = [];
    this.map = null;
    this.clear();
    this.tell(this.isOn);
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    delete this.canvas.dataset.at;
  }

  fit(height) {
    if (this.canvas.height !== height) this.canvas.height = height;  // which clears it
  }

  // at: the moment of the past that is looked at; a map of another one waits for its picture, or comes too late.
  show(map, at) {
    if (!this.isOn) return;
    if (map.error) {
      this.note.textContent = map.error;
      return;
    }
    this.map = map;
    if (!at || String(at) === String(map.at)) this.paint(map);
  }

  // Another moment of the past is looked at, whose map may have come before its picture.
  look(at) {
    if (this.isOn && this.map && String(at) === String(this.map.at)) this.paint(this.map);
    else this.clear();
  }

  paint({saliency, action, ms, at}) {
    const now = performance.now(), largest = Math.max(...saliency);
    this.times = [...this.times.filter(time => time > now - 5000), now];
    this.most = Math.max(largest, this.most * 0.9, 1e-6);  // so that a moment in which nothing counts looks like one
    const words = this.image.data;
    saliency.forEach((change, place) => words.set([...colour, change / this.most * opaque], 4 * place));
    this.small.putImageData(this.image, 0, 0);
    this.clear();
    this.canvas.dataset.at = at;
    const [top, bottom, left, right] = this.crop, {width, height} = this.canvas;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(this.patches, left, top, width - left - right, height - top - bottom);
    this.note.textContent = `Blurring a patch changes the value of ${this.actions[action]} by up to ${number.format(largest)}, `
      + `most where the colour is strongest. A map takes ${ms} ms${this.rate(now)}.`;
  }

  rate(now) {
    const [first] = this.times, number = this.times.length - 1;
    return number < 2 ? "" : `, ${(number / (now - first) * 1000).toFixed(1)} a second`;
  }
}
