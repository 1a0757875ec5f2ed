"use strict";
(function () {
  const source = document.getElementById("frames");
  if (!source) return;
  const along = JSON.parse(source.textContent);
  const level = document.getElementById("level");
  const where = document.getElementById("where");
  const SPACE = "http://www.w3.org/2000/svg";
  const BOX = { left: 40, right: 312, top: 10, bottom: 128 };

  function element(parent, name, attributes, text) {
    const made = document.createElementNS(SPACE, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
  }

  function draw(id, x, curves, labels, scale) {
    const svg = document.getElementById(id);
    svg.replaceChildren();
    const known = curves.filter((curve) => curve.y);
    if (!x || !known.length) return;
    const all = known.flatMap((curve) => curve.y);
    const low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
    const first = x[0], width = x[x.length - 1] - first || 1;
    const place = (v, i) => [
      BOX.left + ((x[i] - first) / width) * (BOX.right - BOX.left),
      BOX.bottom - ((v - low) / span) * (BOX.bottom - BOX.top),
    ];
    element(svg, "path", { class: "axis", d: `M${BOX.left} ${BOX.bottom}H${BOX.right}` });
    for (const curve of known) {
      const path = curve.y.map((v, i) => place(v, i).map((n) => n.toFixed(1)).join(" "));
      element(svg, "path", { class: curve.kind, d: "M" + path.join("L") });
    }
    element(svg, "path", { class: "axis", d: `M${BOX.left} ${BOX.bottom}V${BOX.top}` });
    const ends = { "text-anchor": "end", x: BOX.left - 4 };
    element(svg, "text", { ...ends, y: BOX.bottom }, scale(low));
    element(svg, "text", { ...ends, y: BOX.top + 8 }, scale(high));
    element(svg, "text", { x: BOX.left, y: 144 }, labels[0]);
    element(svg, "text", { x: BOX.right, y: 144, "text-anchor": "end" }, labels[1]);
  }

  function short(value) {
    return value === undefined ? "" : String(+value.toPrecision(2));
  }

  function log(values) {
    return values && values.map((v) => Math.log10(v));
  }

  function show() {
    const frame = along.frames[level.value];
    const noise = frame.alpha > 0 ? (frame.sigma / frame.alpha).toPrecision(3) : "∞";
    const words = frame.sigma === 0
      ? `${frame.step}: the finished sample`
      : `${frame.step}: timestep ${+frame.timestep.toPrecision(4)}, noise ${noise} times the image`;
    where.textContent = words;
    level.setAttribute("aria-valuetext", words);
    for (const name in along.rows) {
      const image = document.getElementById("row-" + name);
      const uri = frame.images[name];
      image.parentElement.hidden = !uri;
      if (uri) image.src = uri;
      image.alt = `${image.dataset.words} of ${along.samples} samples at step ${words}`;
    }
    draw("spectrum", frame.frequency, [
      { kind: "true", y: log(frame.power_forward) },
      { kind: "own", y: log(frame.power_chain) },
    ], ["coarse: " + short(frame.frequency && frame.frequency[0]),
      "fine: " + short(frame.frequency && frame.frequency[frame.frequency.length - 1])],
    (v) => short(10 ** v));
    draw("histogram", frame.values, [
      { kind: "true", y: frame.histogram_truth },
      { kind: "own", y: frame.histogram_state },
    ], [
      frame.values[0].toFixed(1).replace("-", "−"),
      frame.values[frame.values.length - 1].toFixed(1),
    ], (v) => short(100 * v) + " %");
  }

  level.addEventListener("input", show);
  show();
})();

// A slider along the frames of sequences, and a button that plays them.
for (const part of document.querySelectorAll(".sequence")) {
  const shown = JSON.parse(part.querySelector("script").textContent);
  const place = part.querySelector("input");
  const said = part.querySelector("output");
  const button = part.querySelector("button");
  const images = part.querySelectorAll("img");
  let timer = null;

  const show = () => {
    const number = shown.frames[place.value];
    said.textContent = number;
    place.setAttribute("aria-valuetext", "frame " + number);
    images.forEach((image, row) => {
      const uri = shown.images[row][place.value];
      image.hidden = !uri;
      if (uri) image.src = uri;
    });
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const next = () => {
    place.value = (+place.value + 1) % shown.frames.length;
    show();
  };

  place.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    timer = setInterval(next, 250);
    button.textContent = "Stop";
  });
  button.hidden = false;
  show();
}

// On paper nothing can be unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
