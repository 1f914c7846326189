// Maps: a canvas of colours with a drawing over it

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
const RAMP = data.colours.map(rgb);
const LIGHT = 246, DARK = 70; // greys of the lowest and highest loss

function ramp(share) {
  const position = clamp(share, 0, 1) * (RAMP.length - 1), i = Math.min(Math.floor(position), RAMP.length - 2);
  return RAMP[i].map((value, c) => value + (position - i) * (RAMP[i + 1][c] - value));
}

/** The value of a grid [R][R] at a place, interpolated. */
function onGrid(plane, x, y) {
  const index = (values, value) => ((value - values[0]) / (values[values.length - 1] - values[0])) * (values.length - 1);
  const column = index(plane.x, x), row = index(plane.y, y);
  if (!(column >= 0 && row >= 0 && column <= plane.x.length - 1 && row <= plane.y.length - 1)) return null;
  const i = Math.min(Math.floor(row), plane.y.length - 2);
  const below = at(plane.nll[i], column), above = at(plane.nll[i + 1], column);
  return at([below, above], row - i);
}

function greyOf(plane, loss) {
  if (!known(loss)) return [205, 170, 170];
  const band = plane.levels.filter((level) => level <= loss).length;
  return new Array(3).fill(LIGHT - ((LIGHT - DARK) * band) / plane.levels.length);
}

/** A canvas in the units of the plane, [left, right, bottom, top], under an empty drawing. */
function map(label, [left, right, bottom, top]) {
  const width = 360, height = Math.round((width * (top - bottom)) / (right - left)), scale = width / (right - left);
  const canvas = html("canvas", { width: 2 * width, height: 2 * height, "aria-hidden": "true" });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "over" });
  const root = html("div", { class: "map" }, canvas, drawing);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", label);
  const toPixel = ([x, y]) => [(x - left) * scale, (top - y) * scale];
  const fromPixel = (x, y) => [left + x / scale, top - y / scale];
  const paint = (colourOf) => {
    const context = canvas.getContext("2d"), image = context.createImageData(2 * width, 2 * height);
    for (let row = 0, k = 0; row < 2 * height; row++) {
      for (let column = 0; column < 2 * width; column++, k += 4) {
        const colour = colourOf(fromPixel((column + 0.5) / 2, (row + 0.5) / 2));
        if (colour) image.data.set([...colour, 255], k);
      }
    }
    context.putImageData(image, 0, 0);
  };
  return { root, drawing, width, height, toPixel, fromPixel, paint };
}

const frameOf = (plane) => [plane.x[0], plane.x[plane.x.length - 1], plane.y[0], plane.y[plane.y.length - 1]];
const pathOf = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const star = (r) => Array.from({ length: 10 }, (_, i) => {
  const angle = (Math.PI * i) / 5, radius = i % 2 ? 0.42 * r : r;
  return [radius * Math.sin(angle), -radius * Math.cos(angle)];
});
const starAt = ([x, y], r) => svg("path", { d: `${pathOf(star(r).map(([a, b]) => [x + a, y + b]))}Z`, class: "star" });
const dotAt = ([cx, cy], r, kind) => svg("circle", { cx, cy, r, class: kind });

/** The bar that says which colour is which value: `stops` are CSS colours from left to right. */
function colourBar(label, stops, marks) {
  const width = 330, id = `ramp-${Math.random().toString(36).slice(2)}`;
  const gradient = svg("linearGradient", { id }, ...stops.map(([share, colour]) => svg("stop", { offset: share, "stop-color": colour })));
  const root = svg("svg", { viewBox: `0 0 ${width + 30} 52`, class: "bar-of-colours", role: "img", "aria-label": label },
    svg("defs", {}, gradient), text(15, 11, label, { class: "soft" }),
    svg("rect", { x: 15, y: 17, width, height: 12, fill: `url(#${id})`, class: "frame" }));
  for (const [share, mark] of marks) {
    root.append(svg("line", { x1: 15 + share * width, x2: 15 + share * width, y1: 29, y2: 33, class: "axis" }),
      text(15 + share * width, 46, mark, { "text-anchor": "middle" }));
  }
  return root;
}

function lossBar(plane) {
  const count = plane.levels.length, stops = [], every = Math.ceil(count / 7);
  for (let band = 0; band <= count; band++) {
    const grey = `rgb(${new Array(3).fill(Math.round(LIGHT - ((LIGHT - DARK) * band) / count)).join(",")})`;
    stops.push([band / (count + 1), grey], [(band + 1) / (count + 1), grey]);
  }
  const marks = plane.levels.map((level, i) => [(i + 1) / (count + 1), String(Number(level.toPrecision(3)))]);
  return colourBar("Grey: test NLL on the plane [nats]", stops, marks.filter((_, i) => i % every === 0));
}

const planeNote = (plane) => html("p", { class: "how" },
  `Plane: ${plane.num_images} test images; statistics recalibrated on ${plane.recalibration_images} images at each of `
  + `${plane.y.length} × ${plane.x.length} points.`);

/** What was trained on a plane of the loss; returns what moves the marker to a position. */
function planeMap(container, plane) {
  const view = map(`Test loss on a plane through what was trained, a ${plane.kind}`, frameOf(plane));
  view.paint(([x, y]) => greyOf(plane, onGrid(plane, x, y)));
  const line = plane.path.map(view.toPixel), marker = dotAt([0, 0], 6, "marker s0");
  view.drawing.append(svg("path", { d: pathOf(line), class: "outline" }), svg("path", { d: pathOf(line), class: "trained" }));
  if (plane.kind === "curve") view.drawing.append(dotAt(view.toPixel(plane.corners[1]), 5, "special end"));
  if (plane.kind === "line" || plane.kind === "curve") {
    view.drawing.append(dotAt(line[0], 5, "special end"), dotAt(line[line.length - 1], 5, "special end"));
  }
  view.drawing.append(starAt(view.toPixel(plane.midpoint), 9));
  if (plane.other) {
    const [x, y] = view.toPixel(plane.other);
    view.drawing.append(dotAt([x, y], 5, "other"),
      text(x, y - 10, "independent network", { "text-anchor": "middle", class: "haloed" }));
  }
  marker.setAttribute("visibility", "hidden");
  view.drawing.append(marker);
  container.append(view.root, lossBar(plane), planeNote(plane));
  return (alpha) => {
    const [cx, cy] = view.toPixel([0, 1].map((c) => at(plane.path.map((p) => p[c]), alpha * (plane.path.length - 1))));
    marker.setAttribute("cx", cx);
    marker.setAttribute("cy", cy);
    marker.setAttribute("visibility", "visible");
  };
}
