// Draws what can be moved in the page of a run. Its data are JSON in #data; see explorers.py.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  document.documentElement.classList.add("js");
  document.querySelectorAll("details.papers").forEach((details) => { details.open = false; });

  // Elements

  function make(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const html = (tag, attributes = {}, ...children) =>
    make(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    make(document.createElementNS(SVG, tag), attributes, children);
  const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);
  const partOf = (name) => document.querySelector(`#${name} .part`);

  // Numbers

  const known = (value) => value !== null && value !== undefined;
  const shown = (value, decimals) => (known(value) ? value.toFixed(decimals) : "–");
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** The value of a list at a position between two of its entries. */
  function at(values, position) {
    const i = Math.floor(position), share = position - i;
    if (share === 0) return values[i];
    if (!known(values[i]) || !known(values[i + 1])) return null;
    return (1 - share) * values[i] + share * values[i + 1];
  }

  /** About `count` round numbers from `low` to `high`, and their decimals. */
  function ticks(low, high, count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw * 0.999);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), values = [];
    for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * step; i++) values.push(i * step);
    return { values, decimals };
  }

  function extent(values) {
    const finite = values.filter(known);
    if (!finite.length) return [0, 1];
    const low = Math.min(...finite), high = Math.max(...finite);
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad];
  }

  // A panel: series over one axis, and a marker that moves

  const PANEL = { width: 340, height: 230, left: 48, right: 14, top: 26, bottom: 38 };

  function panel(xs, xLabel, spec, special, pick) {
    const { width, height, left, right, top, bottom } = PANEL;
    const [low, high] = extent(spec.series.flatMap((series) => series.ys));
    const first = xs[0], span = xs[xs.length - 1] - first || 1;
    const toX = (x) => left + ((x - first) / span) * (width - left - right);
    const toY = (y) => top + ((high - y) / (high - low)) * (height - top - bottom);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "panel", role: "img",
      "aria-label": `${spec.label} by ${xLabel}` });
    root.append(text(left, 15, spec.label, { class: "title" }));
    const vertical = ticks(low, high, 4), horizontal = ticks(first, first + span, 5);
    for (const value of vertical.values) {
      root.append(svg("line", { x1: left, x2: width - right, y1: toY(value), y2: toY(value), class: "grid" }),
        text(left - 9, toY(value) + 4, value.toFixed(vertical.decimals), { "text-anchor": "end" }));
    }
    for (const value of horizontal.values) {
      root.append(text(toX(value), height - bottom + 16, value.toFixed(horizontal.decimals),
        { "text-anchor": "middle" }));
    }
    root.append(text((left + width - right) / 2, height - 5, xLabel, { "text-anchor": "middle", class: "soft" }));
    spec.series.forEach((series, number) => {
      const points = series.ys.map((y, i) => [xs[i], y]).filter(([, y]) => known(y));
      const d = points.map(([x, y], i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
      root.append(svg("path", { d, class: `series s${number}` }));
      if (points.length <= 60) {
        for (const [x, y] of points) root.append(svg("circle", { cx: toX(x), cy: toY(y), r: 2.4, class: `dot s${number}` }));
      }
    });
    for (const [i, name] of special) {
      const y = spec.series[0].ys[i];
      if (known(y)) {
        root.append(svg("circle", { cx: toX(xs[i]), cy: toY(y), r: name === "midpoint" ? 6 : 4.5,
          class: `special ${name === "midpoint" ? "midpoint" : "end"}` }, svg("title", {}, name)));
      }
    }
    const rule = svg("line", { y1: top, y2: height - bottom, class: "rule" });
    const markers = spec.series.map((_, number) => svg("circle", { r: 5, class: `marker s${number}` }));
    root.append(rule, ...markers);
    const choose = (event) => {
      const box = root.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      pick(clamp((x - left) / (width - left - right), 0, 1));
    };
    root.addEventListener("pointerdown", choose);
    root.addEventListener("pointermove", (event) => { if (event.buttons) choose(event); });
    return { root, move(x, ys) {
      rule.setAttribute("x1", toX(x));
      rule.setAttribute("x2", toX(x));
      ys.forEach((y, number) => {
        markers[number].setAttribute("visibility", known(y) ? "visible" : "hidden");
        if (known(y)) {
          markers[number].setAttribute("cx", toX(x));
          markers[number].setAttribute("cy", toY(y));
        }
      });
    } };
  }

  /** Panels over one axis, a slider that moves through them, and the numbers where it is. */
  function explorer(container, { xs, panels, xLabel, name, say, fine, start, special, moved }) {
    const last = xs.length - 1, id = `${name}-slider`;
    const slider = html("input", { type: "range", id, min: 0, max: last * fine, step: 1, value: start * fine });
    const label = html("label", { for: id }, xLabel), where = html("span", { class: "where" });
    const pick = (share) => { slider.value = Math.round(share * last * fine); update(); };
    const drawn = panels.map((spec) => panel(xs, xLabel, spec, special, pick));
    const names = [...new Set(panels.flatMap((spec) => spec.series.map((series) => series.name)))];
    const rows = names.map((series, number) => {
      const cells = panels.map((spec) => html("td", { "data-metric": spec.label }));
      const key = svg("svg", { viewBox: "0 0 26 10", class: "key" },
        svg("path", { d: "M0 5H26", class: `series s${number}` }), svg("circle", { cx: 13, cy: 5, r: 3, class: `dot s${number}` }));
      return { series, cells, row: html("tr", {}, html("th", { scope: "row" }, key, series), ...cells) };
    });
    const head = html("tr", {}, html("td"), ...panels.map((spec) => html("th", { scope: "col" }, spec.label)));
    const table = html("table", { class: "readout" }, html("thead", {}, head),
      html("tbody", {}, ...rows.map(({ row }) => row)));
    const buttons = special.map(([i, text]) => {
      const button = html("button", { type: "button" }, text[0].toUpperCase() + text.slice(1));
      button.addEventListener("click", () => { slider.value = i * fine; update(); });
      return button;
    });
    function update() {
      const position = slider.value / fine, x = at(xs, position);
      panels.forEach((spec, p) => drawn[p].move(x, spec.series.map((series) => at(series.ys, position))));
      const sentence = say(x, position);
      for (const { series, cells } of rows) {
        panels.forEach((spec, p) => {
          const found = spec.series.find((one) => one.name === series);
          cells[p].textContent = found ? shown(at(found.ys, position), spec.decimals) : "";
        });
      }
      const numbers = panels.map((spec) => `${spec.label} ${shown(at(spec.series[0].ys, position), spec.decimals)}`);
      slider.setAttribute("aria-valuetext", `${sentence}: ${numbers.join(", ")}`);
      where.textContent = sentence;
      moved(x, position);
    }
    slider.addEventListener("input", update);
    slider.addEventListener("keydown", (event) => {
      const step = { PageUp: 1, PageDown: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const position = slider.value / fine;
      const next = step > 0 ? Math.floor(position + 1e-9) + 1 : Math.ceil(position - 1e-9) - 1;
      slider.value = clamp(next, 0, last) * fine;
      update();
    });
    container.append(html("div", { class: "control" }, label, slider, where), html("div", { class: "buttons" }, ...buttons),
      html("div", { class: "wide" }, table), html("div", { class: "panels" }, ...drawn.map(({ root }) => root)));
    return update;
  }

  // The reliability diagram

  const UNIT = { size: 250, left: 42, top: 52 };

  function reliability(container) {
    const { size, left, top } = UNIT;
    const toX = (x) => left + x * size, toY = (y) => top + (1 - y) * size;
    const hatch = svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)" }, svg("line", { x1: 0, x2: 0, y1: 0, y2: 6, class: "hatch" }));
    const bars = svg("g"), title = text(left, 15, "", { class: "title" });
    const ece = text(toX(0.97), toY(0.04), "", { "text-anchor": "end", class: "ece" });
    const root = svg("svg", { viewBox: `0 0 ${size + left + 14} ${size + top + 40}`, class: "reliability", role: "img" },
      svg("defs", {}, hatch), title);
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      root.append(svg("line", { x1: left, x2: toX(1), y1: toY(value), y2: toY(value), class: "grid" }),
        text(left - 6, toY(value) + 4, value, { "text-anchor": "end" }),
        text(toX(value), toY(0) + 16, value, { "text-anchor": "middle" }));
    }
    root.append(bars, svg("line", { x1: toX(0), y1: toY(0), x2: toX(1), y2: toY(1), class: "diagonal" }),
      text(toX(0.5), toY(0) + 34, "Confidence", { "text-anchor": "middle", class: "soft" }),
      text(0, 0, "Accuracy", { "text-anchor": "middle", class: "soft", transform: `translate(11 ${toY(0.5)}) rotate(-90)` }), ece);
    container.append(root);
    return (bins, name) => {
      title.textContent = name;
      bars.replaceChildren();
      ece.textContent = "";
      root.setAttribute("aria-label", `Reliability diagram, ${name}: no bins`);
      if (!bins) return;
      const most = Math.max(...bins.weight);
      let sum = 0, filled = 0;
      bins.weight.forEach((weight, b) => {
        if (!(weight > 0)) return;
        const accuracy = bins.accuracy[b], confidence = bins.confidence[b];
        const x = toX(bins.edges[b]), width = toX(bins.edges[b + 1]) - x - 0.7;
        const low = Math.min(accuracy, confidence), high = Math.max(accuracy, confidence);
        const tall = (22 * weight) / most;
        sum += weight * (high - low);
        filled += 1;
        bars.append(svg("rect", { x, width, y: toY(accuracy), height: accuracy * size, class: "bar" }),
          svg("rect", { x, width, y: toY(high), height: (high - low) * size, class: "gap" }),
          svg("rect", { x, width, y: top - 6 - tall, height: tall, class: "share" }));
      });
      ece.textContent = `ECE ${(100 * sum).toFixed(1)} %`;
      root.setAttribute("aria-label", `Reliability diagram, ${name}: ${filled} of ${bins.weight.length} bins `
        + `filled, expected calibration error ${(100 * sum).toFixed(1)} %`);
    };
  }

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

  // The parts of the page

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

  const determinant = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);

  /** Barycentric coordinates of a place in a triangle of three places. */
  function barycentric(place, [a, b, c]) {
    const area = determinant(a, b, c);
    return [determinant(place, b, c) / area, determinant(a, place, c) / area, determinant(a, b, place) / area];
  }

  /** Barycentric coordinates of the point of a triangle that is nearest to a place. */
  function nearestIn(place, ends) {
    const weights = barycentric(place, ends);
    if (Math.min(...weights) >= 0) return weights;
    let best = null, least = Infinity;
    for (const [i, j] of [[0, 1], [1, 2], [2, 0]]) {
      const [a, b] = [ends[i], ends[j]], side = [b[0] - a[0], b[1] - a[1]];
      const along = (place[0] - a[0]) * side[0] + (place[1] - a[1]) * side[1];
      const share = clamp(along / (side[0] ** 2 + side[1] ** 2), 0, 1);
      const length = Math.hypot(a[0] + share * side[0] - place[0], a[1] + share * side[1] - place[1]);
      if (length < least) {
        least = length;
        best = [0, 0, 0];
        best[i] = 1 - share;
        best[j] = share;
      }
    }
    return best;
  }

  function drawTriangle({ coords, names, values, triangles, corners, bins }) {
    const plane = data.plane && data.plane.kind === "simplex" ? data.plane : null;
    const ends = plane ? plane.corners : corners;
    const mix = (weights) => [0, 1].map((c) => weights.reduce((sum, w, i) => sum + w * ends[i][c], 0));
    const places = coords.map(mix), frame = plane ? frameOf(plane) : [-0.12, 1.12, -0.14, Math.sqrt(0.75) + 0.14];
    const container = partOf("triangle"), middle = Math.max(names.indexOf("midpoint"), 0);
    const view = map("Triangle of evaluated points", frame), pixels = places.map(view.toPixel);

    /** The triangle of evaluated points around a place, and the place's weights in it. */
    const shapes = triangles.map((corner) => corner.map((i) => places[i]));
    function around(place) {
      for (let t = 0; t < triangles.length; t++) {
        const weights = barycentric(place, shapes[t]);
        if (Math.min(...weights) > -1e-4) return { corner: triangles[t], weights };
      }
      return null;
    }
    const valueOf = (numbers, found) => found && found.corner.every((i) => known(numbers[i]))
      ? found.corner.reduce((sum, i, k) => sum + found.weights[k] * numbers[i], 0) : null;

    // Which metric the colours are
    const bar = html("div"), choice = html("fieldset", { class: "choice" }, html("legend", {}, "Colours"));
    data.quantities.forEach(({ name, label }, q) => {
      const radio = html("input", { type: "radio", name: "colours", value: name, ...(q ? {} : { checked: "" }) });
      radio.addEventListener("change", () => colour(q));
      choice.append(html("label", {}, radio, label));
    });
    function colour(q) {
      const numbers = values[q], finite = numbers.filter(known), { label, decimals } = data.quantities[q];
      const low = Math.min(...finite), high = Math.max(...finite), upwards = q === 0;
      const shareOf = (value) => { const s = (value - low) / (high - low || 1); return upwards ? s : 1 - s; };
      view.paint((place) => {
        const inside = barycentric(place, ends).every((w) => w >= -1e-6), value = inside ? valueOf(numbers, around(place)) : null;
        if (known(value)) return ramp(shareOf(value));
        if (inside) return [150, 150, 150];
        return plane ? greyOf(plane, onGrid(plane, ...place)) : null;
      });
      const stops = RAMP.map((_, i) => {
        const share = i / (RAMP.length - 1);
        return [share, `rgb(${ramp(upwards ? share : 1 - share).map(Math.round).join(",")})`];
      });
      const marks = [0, 0.25, 0.5, 0.75, 1].map((s) => [s, shown(low + s * (high - low), decimals)]);
      bar.replaceChildren(colourBar(`${label}, in the triangle; brighter is better`, stops, marks));
    }

    // What is drawn over the colours
    view.drawing.append(svg("path", { d: `${pathOf(ends.map(view.toPixel))}Z`, class: "edge" }));
    pixels.forEach((pixel, i) => { if (i !== middle) view.drawing.append(dotAt(pixel, names[i].startsWith("endpoint") ? 5 : 2.6, "evaluated")); });
    view.drawing.append(starAt(pixels[middle], 9));
    const centre = view.toPixel(mix([1 / 3, 1 / 3, 1 / 3]));
    ends.forEach((end, i) => {
      const [x, y] = view.toPixel(end), above = y < centre[1];
      const anchor = x < 60 ? "start" : x > view.width - 60 ? "end" : "middle";
      view.drawing.append(text(x, above ? y - 11 : y + 20, `endpoint ${i}`, { "text-anchor": anchor, class: plane ? "haloed" : "corner" }));
    });
    const marker = svg("g", { class: "pointer" }, dotAt([0, 0], 8, "halo"), dotAt([0, 0], 8, "ring"));
    view.drawing.append(marker);

    // The numbers, and what moves them
    const where = html("p", { class: "where" });
    const heard = html("p", { class: "heard", id: "triangle-heard", "aria-live": "polite" });
    const cells = data.quantities.map(({ label }) => html("td", { "data-metric": label }));
    const readout = html("table", { class: "readout" },
      html("thead", {}, html("tr", {}, ...data.quantities.map(({ label }) => html("th", { scope: "col" }, label)))),
      html("tbody", {}, html("tr", {}, ...cells)));
    const buttons = names.map((name, i) => [name, i]).filter(([name]) => name.startsWith("endpoint") || name === "midpoint")
      .map(([name, i]) => {
        const button = html("button", { type: "button" }, name[0].toUpperCase() + name.slice(1));
        button.addEventListener("click", () => move(coords[i]));
        return button;
      });
    const diagram = html("div"), calibrate = reliability(diagram);
    let current = coords[middle];
    const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    function nearest(place) {
      const lengths = pixels.map((pixel) => distance(pixel, view.toPixel(place)));
      return lengths.indexOf(Math.min(...lengths));
    }
    function move(weights) {
      current = weights;
      const place = mix(current), near = nearest(place), pixel = view.toPixel(place);
      const exact = distance(pixels[near], pixel) < 0.05, found = exact ? null : around(place);
      values.forEach((numbers, q) => {
        cells[q].textContent = shown(exact ? numbers[near] : valueOf(numbers, found), data.quantities[q].decimals);
      });
      const kind = exact ? `evaluated${names[near] ? `, ${names[near]}` : ""}` : "interpolated";
      const sentence = `Weights ${current.map((w) => w.toFixed(2)).join(", ")}: ${kind}`;
      where.textContent = sentence;
      heard.textContent = `${sentence}: ${data.quantities.map(({ label }, q) => `${label} ${cells[q].textContent}`).join(", ")}`;
      marker.setAttribute("transform", `translate(${pixel[0]} ${pixel[1]})`);
      const at = `(${coords[near].map((w) => w.toFixed(2)).join(", ")})`;
      calibrate(bins[near], `Network at ${at}${exact ? "" : ", the nearest"}`);
    }
    function follow(event) {
      const box = view.drawing.getBoundingClientRect();
      const pixel = [((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height];
      const near = pixels.findIndex((p) => distance(p, pixel) < 6); // what is evaluated attracts
      move(near < 0 ? nearestIn(view.fromPixel(...pixel), ends) : coords[near]);
    }
    view.drawing.addEventListener("pointermove", follow);
    view.drawing.addEventListener("pointerdown", follow);
    view.root.setAttribute("tabindex", "0");
    view.root.setAttribute("role", "application");
    view.root.setAttribute("aria-label", "Triangle of three endpoints: arrow keys move the point, Home goes to the midpoint");
    view.root.setAttribute("aria-describedby", "triangle-heard");
    view.root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step && event.key !== "Home") return;
      event.preventDefault();
      if (!step) { move(coords[middle]); return; }
      const size = (frame[1] - frame[0]) / (event.shiftKey ? 12 : 60), place = mix(current);
      move(nearestIn([place[0] + size * step[0], place[1] + size * step[1]], ends));
    });
    const left = html("div", {}, choice, view.root, bar, ...(plane ? [lossBar(plane), planeNote(plane)] : []));
    const right = html("div", {}, where, heard, html("div", { class: "wide" }, readout), html("div", { class: "buttons" }, ...buttons), diagram);
    container.append(html("div", { class: "halves" }, left, right));
    colour(0);
    move(current);
  }

  if (data.path) drawPath(data.path);
  if (data.triangle) drawTriangle(data.triangle);
  if (document.getElementById("point")) reliability(partOf("point"))(data.point, "The network that is deployed");
  if (document.getElementById("plane") && !data.path) planeMap(partOf("plane"), data.plane);
  if (data.history) drawHistory(data.history);
})();
