// Draws the report's charts from the JSON beside it: one uPlot per metric, all legs on it, one shared cursor.
"use strict";
(function () {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]]; // legs stay apart in print and without colour vision
  const charts = [];
  const hidden = new Set();
  const sync = uPlot.sync("step");

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function short(value) {
    if (value == null) return "";
    const size = Math.abs(value);
    if (size >= 1e6) return (value / 1e6).toPrecision(3) + " M";
    if (size >= 1e4) return (value / 1e3).toPrecision(3) + " k";
    if (size !== 0 && size < 1e-3) return value.toExponential(1);
    return String(Number(value.toPrecision(4)));
  }

  // Vertical lines where training went back to a checkpoint, small ticks where a checkpoint held the step back.
  function marks(chart) {
    const { ctx, bbox } = chart;
    ctx.save();
    report.legs.forEach((leg) => {
      if (hidden.has(leg.name)) return;
      ctx.strokeStyle = colour("--mark");
      ctx.lineWidth = devicePixelRatio;
      leg.checkpoints.forEach((step) => {
        const x = chart.valToPos(step, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) return;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top + bbox.height);
        ctx.lineTo(x, bbox.top + bbox.height - 7 * devicePixelRatio);
        ctx.stroke();
      });
      ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
      leg.interruptions.forEach((item) => {
        const x = chart.valToPos(item.step, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) return;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      });
      ctx.setLineDash([]);
    });
    ctx.restore();
  }

  function draw(figure) {
    // [{"name": column, "label": text, "points": bool, "colour": number}]; a curve with a colour is told from others by it, legs by dashes
    const curves = JSON.parse(figure.dataset.curves);
    const tables = [];
    const steps = (value) => value.toLocaleString("en-US");
    let lastStep = 0;
    // Nothing under the cursor, or on paper: the last values.
    const series = [{ label: "step", value: (_, v, s, i) => (v != null ? steps(v) : i == null ? steps(lastStep) : "") }];
    report.legs.forEach((leg, index) => {
      curves.forEach((curve) => {
        const column = leg.columns[curve.name];
        if (!column) return;
        const present = column.map((value, i) => [leg.steps[i], value]).filter((pair) => pair[1] != null);
        if (!present.length) return;
        const last = present[present.length - 1];
        lastStep = Math.max(lastStep, last[0]);
        tables.push([present.map((pair) => pair[0]), present.map((pair) => pair[1])]);
        const own = curve.colour != null;
        const stroke = colour("--leg-" + ((own ? curve.colour : index) % 8));
        series.push({
          label: report.legs.length > 1 ? leg.name + " " + curve.label : curve.label,
          stroke,
          width: curve.points ? 1 : 1.5,
          dash: curve.points && !own ? [3, 3] : DASHES[Math.floor(index) % DASHES.length],
          points: { show: Boolean(curve.points) || present.length < 3, size: 7, stroke, fill: colour("--paper") },
          spanGaps: true,
          leg: leg.name,
          show: !hidden.has(leg.name),
          value: (_, v, s, i) => (v != null ? short(v) : i == null ? short(last[1]) : ""),
        });
      });
    });
    const target = figure.querySelector(".chart");
    target.textContent = "";
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const chart = new uPlot(
      {
        width: Math.max(280, target.clientWidth),
        height: 230,
        scales: { x: { time: false } },
        cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false } },
        series,
        axes: [
          { ...axis, values: (_, ticks) => ticks.map(short) },
          { ...axis, size: 62, values: (_, ticks) => ticks.map(short) },
        ],
        hooks: { draw: [marks] },
      },
      tables.length ? uPlot.join(tables) : [[]],
      target
    );
    chart.root.setAttribute("aria-hidden", "true"); // the figure's own text and table say the same
    return chart;
  }

  function drawAll() {
    charts.splice(0).forEach((chart) => chart.destroy());
    document.querySelectorAll("figure[data-curves]").forEach((figure) => charts.push(draw(figure)));
    document.documentElement.dataset.charts = String(charts.length);
  }

  document.querySelectorAll(".legs-key input").forEach((box) => {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value);
      else hidden.add(box.value);
      charts.forEach((chart) => {
        chart.batch(() => {
          chart.series.forEach((series, i) => {
            if (series.leg === box.value) chart.setSeries(i, { show: box.checked });
          });
        });
      });
    });
  });

  let pending = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => {
      charts.forEach((chart) => {
        chart.setSize({ width: Math.max(280, chart.root.parentElement.clientWidth), height: 230 });
      });
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll); // paper is light whatever the screen is
  drawAll();
})();
