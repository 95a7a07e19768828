// Runs in a page of `bench compare --html` and says what a reader would stumble over, as JSON in
// an element that scripts/report-check.sh looks for: { "curves": …, "faults": […] }.
"use strict";
{
  const faults = [];
  const fault = (text) => faults.push(text);
  const visible = (box) => box.width > 0 || box.height > 0;

  // Each curve has a length, and lies within its chart.
  const charts = [...document.querySelectorAll("figure svg[role=img]")];
  let curves = 0;
  for (const chart of charts) {
    const outer = chart.getBoundingClientRect();
    if (outer.width < 300 || outer.height < 100) fault(`${chart.id} is too small to be read`);
    for (const curve of chart.querySelectorAll("path.curve")) {
      curves += 1;
      const side = curve.dataset.side, box = curve.getBoundingClientRect();
      const points = curve.getAttribute("d").split(/[ML]/).length - 1;
      if (points > 1 && !(curve.getTotalLength() > 0)) fault(`${chart.id}: ${side} has no length`);
      if (box.left < outer.left - 1 || box.right > outer.right + 1 ||
          box.top < outer.top - 1 || box.bottom > outer.bottom + 1) {
        fault(`${chart.id}: the curve of ${side} leaves its chart`);
      }
      const style = getComputedStyle(curve);
      if (style.stroke === "none" || style.visibility !== "visible" || style.opacity === "0") {
        fault(`${chart.id}: the curve of ${side} can't be seen`);
      }
    }
    // No two words cover each other, and none is cut off.
    const words = [...chart.querySelectorAll("text")];
    const boxes = words.map((word) => word.getBoundingClientRect());
    boxes.forEach((a, i) => {
      const text = words[i].textContent;
      if (!visible(a)) fault(`${chart.id}: "${text}" isn't drawn`);
      if (a.left < outer.left - 1 || a.right > outer.right + 1 ||
          a.top < outer.top - 1 || a.bottom > outer.bottom + 1) {
        fault(`${chart.id}: "${text}" is cut off`);
      }
      for (let j = i + 1; j < boxes.length; j += 1) {
        const b = boxes[j];
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 1 && y > 4) fault(`${chart.id}: "${text}" covers "${words[j].textContent}"`);
      }
    });
  }
  for (const kind of ["curves", "time", "histograms"]) {
    const found = charts.filter((chart) => chart.id.startsWith(kind));
    if (found.length === 0) fault(`there is no chart of ${kind}`);
    for (const chart of found) {
      const drawn = chart.querySelectorAll(kind === "histograms" ? "rect.bar" : "path.curve");
      if (drawn.length === 0) fault(`${chart.id} is empty`);
    }
  }

  // Words stand out from what is behind them: 4.5 to 1, as the WCAG ask.
  const rgb = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let words = 0;
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== "");
    if (!own || element.closest("title, desc")) continue;
    const style = getComputedStyle(element);
    const front = rgb(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [luminance(front), luminance(behind(element))].sort((x, y) => y - x);
    words += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) {
      fault(`"${element.textContent.slice(0, 30)}" is too faint: ${style.color}`);
    }
  }
  if (words < 50) fault("there is hardly any text");
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) fault(`the page is ${root.scrollWidth} px wide`);

  const told = document.createElement("pre");
  told.id = "report-check";
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const result = { charts: charts.length, curves, words, dark, width: innerWidth, faults };
  told.textContent = "REPORT-CHECK " + JSON.stringify(result);
  document.body.append(told);
}
