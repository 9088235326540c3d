// The picture of the game, in time: every screen has a moment at which it is due.

const width = 160;

export class Screen {
  // drawn(picture) is called when the first screen of a picture is due, painted() when one is on the canvas.
  constructor(canvas, drawn, painted) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", {alpha: false});
    this.drawn = drawn;
    this.painted = painted;
    this.waiting = [];
    this.due = 0;
    this.times = [];
    requestAnimationFrame(now => this.frame(now));
  }

  // A picture that must not wait, because somebody plays, takes the place of what is left of the one before.
  show(picture, isUrgent) {
    const now = performance.now(), each = picture.ms / picture.screens.length;
    if (isUrgent || this.due < now - picture.ms || this.due > now + 2 * picture.ms + 50) {
      this.settle();
      this.due = now;
    }
    picture.screens.forEach((pixels, place) => {
      this.waiting.push({pixels, height: picture.height, due: this.due, picture: place ? null : picture});
      this.due += each;
    });
  }

  // What was not drawn in time is not drawn, but its numbers are shown.
  settle() {
    for (const {picture} of this.waiting) if (picture) this.drawn(picture);
    this.waiting = [];
  }

  frame(now) {
    requestAnimationFrame(next => this.frame(next));
    let newest = null;
    while (this.waiting.length && this.waiting[0].due <= now + 4) {
      newest = this.waiting.shift();
      if (newest.picture) this.drawn(newest.picture);
    }
    if (newest) {
      this.paint(newest.pixels, newest.height);
      this.times.push(now);
      this.painted();
    }
    while (this.times.length && this.times[0] < now - 1000) this.times.shift();
  }

  get rate() {
    return this.times.length;
  }

  paint(pixels, height) {
    if (this.canvas.height !== height || !this.image) {
      this.canvas.height = height;
      this.image = this.context.createImageData(width, height);
      this.words = new Uint32Array(this.image.data.buffer);
    }
    for (let from = 0, to = 0; from < pixels.length; from += 3, to += 1)
      this.words[to] = 0xff000000 | pixels[from + 2] << 16 | pixels[from + 1] << 8 | pixels[from];
    this.context.putImageData(this.image, 0, 0);
  }
}

export class Frames {
  constructor(place) {
    this.place = place;
    this.canvases = [];
  }

  show(frames) {
    if (this.canvases.length !== frames.length) this.build(frames.length);
    frames.forEach((frame, place) => {
      const {context, image, words} = this.canvases[place];
      for (let at = 0; at < frame.length; at += 1) words[at] = 0xff000000 | frame[at] * 0x010101;
      context.putImageData(image, 0, 0);
    });
  }

  build(number) {
    this.canvases = Array.from({length: number}, (_, place) => {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 84;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `frame ${place + 1} of ${number} that the network gets, the newest last`);
      const context = canvas.getContext("2d", {alpha: false});
      const image = context.createImageData(84, 84);
      return {canvas, context, image, words: new Uint32Array(image.data.buffer)};
    });
    this.place.replaceChildren(...this.canvases.map(each => each.canvas));
  }
}
