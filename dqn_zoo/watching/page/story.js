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
    this.count = 0;
    this.game = null;
    this.isDirty = true;
  }

  add(trail) {
    for (const [game, , value, reward] of trail) {
      if (this.game !== null && game !== this.game) this.push(null, null);  // a gap between games
      this.game = game;
      this.push(value, reward || null);
    }
    for (const series of this.points) series.splice(0, series.length - most);
    this.isDirty = true;
  }

  push(value, reward) {
    this.points[0].push(this.count);
    this.points[1].push(value);
    this.points[2].push(reward);
    this.count += 1;
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
    const axis = {stroke: soft, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}};
    this.plot = new uPlot({
      ...this.size(),
      cursor: {show: false},
      legend: {live: false},
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
