// A path under a slider, and the training by epoch

function drawPath({ xs, names, panels, bins }) {
  const container = partOf("path"), special = names.map((name, i) => [i, name]).filter(([, name]) => name);
  const diagram = html("div");
  const found = data.plane && document.getElementById("plane") && planeMap(partOf("plane"), data.plane);
  const onPath = data.plane && data.plane.kind !== "point" ? found : null;
  const calibrate = reliability(diagram);
  const middle = names.indexOf("midpoint");
  const say = (x, position) => position % 1 === 0
    ? `α = ${shown(x, 3)}, evaluated${names[position] ? `, ${names[position]}` : ""}`
    : `α = ${shown(x, 3)}, interpolated`;
  const update = explorer(container, { xs, panels, xLabel: "Position α", name: "path", say, fine: 4,
    start: middle < 0 ? 0 : middle, special, moved(x, position) {
      const nearest = Math.round(position);
      calibrate(bins[nearest], `Network at α = ${shown(xs[nearest], 3)}${position % 1 ? ", the nearest evaluated" : ""}`);
      if (onPath) onPath(x);
    } });
  container.lastChild.classList.add("large");
  container.lastChild.append(diagram); // the fourth beside three panels
  update();
}

function drawHistory({ xs, panels }) {
  const update = explorer(partOf("history"), { xs, panels, xLabel: "Epoch", name: "history", fine: 1,
    start: xs.length - 1, special: [], say: (x) => `Epoch ${x}`, moved() {} });
  update();
}
