// The value over the last minute beside the rewards that came.

const stepsPerSecond = 15, quarters = [60, 45, 30, 15, 0];
const most = 60 * stepsPerSecond;  // a minute at the speed of the console

export class Story {
  constructor(place, colours) {
    this.place = place;
    this.clear();
    this.colour(colours);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
  }

  clear() {
    this.points = [[], [], []];  // running number, value, reward
    this.moments = [];  // game and step of each
    this.count = 0;
    this.game = null;
    this.at = null;  // the moment that is looked at
    this.isDirty = true;
  }

  add(trail) {
    for (const [game, step, value, reward] of trail) {
      this.points[0].push(this.count);
      this.points[1].push(value);
      this.points[2].push(reward || null);
      this.moments.push([game, step]);
      this.count += 1;
    }
    for (const series of [...this.points, this.moments]) series.splice(0, series.length - most);
    this.isDirty = true;
  }

  // Mark the moment so many steps ago; 0 is the present.
  look(back) {
    const at = back ? this.count - 1 - back : null;
    this.isDirty ||= at !== this.at;
    this.at = at;
  }

  // Drop what came after a step of a game.
  forgetAfter(game, step) {
    let kept = this.moments.length;
    while (kept && (this.moments[kept - 1][0] > game || (this.moments[kept - 1][0] === game && this.moments[kept - 1][1] > step))) kept -= 1;
    this.count -= this.moments.length - kept;
    for (const series of [...this.points, this.moments]) series.splice(kept);
    this.at = null;
    this.isDirty = true;
  }

  get length() {
    return this.moments.length;
  }

  mark(plot) {
    if (this.at === null) return;
    const {ctx, bbox} = plot, x = plot.valToPos(this.at, "x", true);
    ctx.fillStyle = this.soft;
    ctx.fillRect(x, bbox.top, 2, bbox.height);
  }

  draw() {
    if (!this.isDirty || !this.plot) return;
    this.isDirty = false;
    this.plot.setData(this.points);
  }

  size() {
    return {width: Math.max(this.place.clientWidth, 200), height: 260};
  }

  colour({accent, random, soft, line}) {
    this.plot?.destroy();
    this.soft = soft;
    const axis = {stroke: soft, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}};
    this.plot = new uPlot({
      ...this.size(),
      cursor: {show: false},
      legend: {live: false},
      hooks: {draw: [plot => this.mark(plot)]},
      scales: {
        x: {time: false, range: () => [this.count - most, this.count]},
        reward: {range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, high ?? 1) * 1.1]},
      },
      axes: [
        {...axis, splits: () => quarters.map(each => this.count - each * stepsPerSecond), values: () => quarters.map(each => each ? `-${each} s` : "now")},
        {...axis, size: 46},
        {...axis, scale: "reward", side: 1, size: 46, grid: {show: false}},
      ],
      series: [
        {label: "step"},
        {label: "value", stroke: accent, width: 2, points: {show: false}},
        {label: "reward", scale: "reward", stroke: random, fill: random, points: {show: false}, paths: uPlot.paths.bars({size: [1, 3, 2]})},
      ],
    }, this.points, this.place);
    this.isDirty = true;
  }
}
