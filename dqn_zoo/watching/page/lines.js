// What a panel of the page of runs draws: a line for each run, or for each group and its runs.

const numColours = 6, dashes = [[], [10, 5], [3, 4], [12, 4, 3, 4]];
export const mostDrawn = numColours * dashes.length;  // lines that can be told apart; MOST_DRAWN of the server

function style(place, colour) {
  return {stroke: colour(`c${place % numColours}`), dash: dashes[Math.floor(place / numColours) % dashes.length], spanGaps: true};
}

// runs: names; tables: steps and values of each.
export function ofRuns(runs, tables, ofEvaluations, colour) {
  const series = runs.map((label, place) => ({label, ...style(place, colour), width: 2, points: {show: ofEvaluations, size: 6}}));
  return {series, bands: [], data: tables.length ? uPlot.join(tables) : [[]]};
}

// names: of all groups, so that one has its colour in every panel; panel: what the server answers of it.
export function ofGroups(names, {at, groups}, colour) {
  const series = [], bands = [], data = [at];
  for (const {name, mean, low, high, runs} of groups) {
    const look = style(names.indexOf(name), colour), aside = {class: "aside", points: {show: false}, spanGaps: true};
    const label = `${name} (${runs.length} run${runs.length === 1 ? "" : "s"})`;
    for (const run of runs) {
      series.push({...look, ...aside, label, stroke: `${look.stroke}66`, width: 1});
      data.push(run);
    }
    bands.push({series: [series.length + 1, series.length + 2], fill: `${look.stroke}33`});
    for (const edge of [high, low]) {
      series.push({...aside, label, width: 0});
      data.push(edge);
    }
    series.push({label, ...look, width: 3, points: {show: false}});
    data.push(mean);
  }
  return {series, bands, data};
}
