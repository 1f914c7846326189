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
