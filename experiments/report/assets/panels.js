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
  const vertical = ticks(low, high, 4), horizontal = ticks(first, first + span, 5, xLabel === "Epoch" ? 1 : 0);
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
