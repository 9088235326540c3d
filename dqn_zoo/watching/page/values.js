// What the agent expects of each action: a bar for the mean, or the whole distribution of the return.

const number = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});
const bins = 51;

export class Values {
  constructor(list) {
    this.list = list;
    this.rows = [];
  }

  // atoms: the least and the largest return of C51.
  begin(names, atoms) {
    this.atoms = atoms;
    this.low = 0;
    this.high = 0;
    this.rows = names.map(name => {
      const row = document.createElement("li"), label = document.createElement("span");
      const why = document.createElement("small"), value = document.createElement("span");
      const canvas = document.createElement("canvas");
      label.append(name, why);
      value.className = "value";
      row.append(label, canvas, value);
      return {row, why, value, canvas, context: canvas.getContext("2d")};
    });
    this.list.replaceChildren(...this.rows.map(each => each.row));
  }

  show(picture) {
    const {q, action, best} = picture;
    const returns = picture.atoms ?? picture.quantiles;
    this.list.classList.toggle("returns", Boolean(returns));
    this.stretch(picture.atoms ? this.atoms : (picture.quantiles ?? [q]).flat());
    this.rows.forEach((each, place) => {
      const isChosen = place === action;
      const isRandom = isChosen && !picture.by_hand && action === picture.choice && action !== best;
      each.row.classList.toggle("chosen", isChosen && !isRandom);
      each.row.classList.toggle("random", isRandom);
      each.why.textContent = this.reason(picture, place, best, isRandom);
      each.value.textContent = number.format(q[place]);
      this.draw(each, picture, place, isRandom);
    });
  }

  reason({action, choice, by_hand}, place, best, isRandom) {
    if (isRandom) return "at random";
    if (place === action) return by_hand ? "you" : action === choice ? "chosen" : "by the rules";
    if (place === choice) return by_hand ? "the agent's" : "chosen";
    return place === best ? "best" : "";
  }

  // The axis reaches as far as anything did lately: it grows at once and shrinks slowly.
  stretch(values) {
    const low = Math.min(0, ...values), high = Math.max(0.1, ...values);
    this.low = low < this.low ? low : this.low + (low - this.low) * 0.01;
    this.high = high > this.high ? high : this.high + (high - this.high) * 0.01;
  }

  draw({canvas, context}, {q, atoms, quantiles}, place, isRandom) {
    const ratio = devicePixelRatio, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.clearRect(0, 0, width, height);
    const x = value => (value - this.low) / (this.high - this.low || 1) * (width - 2 * ratio) + ratio;
    context.fillStyle = this.colours.bar;
    if (atoms || quantiles) {
      const mass = atoms ? atoms[place] : this.histogram(quantiles[place]);
      const [low, high] = atoms ? this.atoms : [this.low, this.high];
      const most = Math.max(...mass), step = (high - low) / (mass.length - (atoms ? 1 : 0));
      mass.forEach((share, at) => {
        const left = x(low + (atoms ? at - 0.5 : at) * step), tall = share / most * (height - ratio);
        context.fillRect(left, height - tall, Math.max(x(low + step) - x(low), 1), tall);
      });
    } else context.fillRect(Math.min(x(0), x(q[place])), height * 0.2, Math.max(Math.abs(x(q[place]) - x(0)), 1), height * 0.6);
    context.fillStyle = this.colours.line;
    context.fillRect(x(0), 0, 1, height);
    context.fillStyle = isRandom ? this.colours.random : this.colours.accent;
    context.fillRect(x(q[place]) - ratio, 0, 2 * ratio, height);
  }

  histogram(quantiles) {
    const mass = new Array(bins).fill(0);
    for (const value of quantiles)
      mass[Math.min(bins - 1, Math.floor((value - this.low) / (this.high - this.low) * bins))] += 1;
    return mass;
  }

  // Read once for all canvases, and again when the reader changes between dark and light.
  colour() {
    const style = getComputedStyle(document.documentElement);
    const names = ["bar", "line", "random", "accent", "soft"];
    this.colours = Object.fromEntries(names.map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
    return this.colours;
  }
}
