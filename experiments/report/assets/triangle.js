// The triangle as a map, where the pointer's position is the network

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
