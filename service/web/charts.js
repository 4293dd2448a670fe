// Charts as SVG, as wide as the page has room for. Each is named by a sentence, and has its figures as a table below it.
const HEIGHT = 170, LEFT = 46, RIGHT = 10, TOP = 14, BOTTOM = 24;

function steps(highest) {
  const size = 10 ** Math.floor(Math.log10(highest / 3));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => highest / n <= 4);
  return Array.from({ length: Math.floor(highest / step + 1e-9) + 1 }, (_, i) => i * step);
}

function frame(width, highest, format, name) {
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * value) / highest;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": name });
  for (const tick of steps(highest)) {
    picture.append(
      svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { x: LEFT - 7, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
    );
  }
  return { picture, y };
}

// seconds: the length of each slot, oldest first. series: [{name, style, values, area}], null where there is nothing to show.
function drawLines(host, { seconds, series, format, limit, name }) {
  const width = Math.max(host.clientWidth, 240), span = Math.max(sum(seconds), 60);
  const values = series.flatMap((line) => line.values).filter((value) => value !== null);
  const highest = 1.08 * (Math.max(...values, limit ? 1.5 * limit.value : 0) || 1);
  const { picture, y } = frame(width, highest, format, name);
  const x = (ago) => width - RIGHT - ((width - LEFT - RIGHT) * ago) / span;
  let left = sum(seconds);
  const middles = seconds.map((length) => (left -= length) + length / 2);
  for (const line of series) {
    let path = "", before = false;
    line.values.forEach((value, i) => {
      if (value === null) return void (before = false);
      const [px, py] = [x(middles[i]).toFixed(1), y(value).toFixed(1)];
      const alone = !before && (line.values[i + 1] ?? null) === null;
      path += `${before ? "L" : "M"}${px} ${py}`;
      if (alone) picture.append(svg("circle", { class: `alone ${line.style}`, cx: px, cy: py, r: 3 }));
      before = true;
    });
    if (line.area && middles.length > 1) {
      const base = y(0);
      picture.append(svg("path", { class: "area", d: `${path}L${x(middles.at(-1))} ${base}L${x(middles[0])} ${base}Z` }));
    }
    picture.append(svg("path", { class: `series ${line.style}`, d: path }));
  }
  if (limit) drawLimit(picture, { x1: LEFT, x2: width - RIGHT, y1: y(limit.value), y2: y(limit.value) }, limit.label, LEFT + 4, "start");
  const unit = span >= 120 ? [60, "min"] : [1, "s"];
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"]]) {
    const label = `${Math.round((share * span) / unit[0])} ${unit[1]} ago`;
    picture.append(svg("text", { x: x(share * span), y: HEIGHT - 6, "text-anchor": anchor }, label));
  }
  picture.append(svg("text", { x: width - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, "now"));
  host.replaceChildren(picture);
}

// A bar a bucket, all of one width. bounds: the upper ends; expected: the share of normal records in each bucket.
function drawBuckets(host, { bounds, counts, expected, limit, beyond, name }) {
  const width = Math.max(host.clientWidth, 240), total = Math.max(sum(counts), 1);
  const shares = counts.map((count) => count / total);
  const { picture, y } = frame(width, 1.12 * Math.max(...shares, ...expected), (share) => percent(share), name);
  const each = (width - LEFT - RIGHT) / counts.length, x = (i) => LEFT + i * each;
  const every = Math.ceil(34 / each);
  shares.forEach((share, i) => {
    const upper = bounds[i] === undefined ? `above ${bounds.at(-1)}` : `up to ${bounds[i]}`;
    const bar = { x: x(i) + 1, width: each - 2, y: y(share), height: Math.max(y(0) - y(share), share ? 1 : 0) };
    const hint = svg("title", {}, `${upper}: ${percent(share)}, ${whole.format(counts[i])} records; of normal ones ${percent(expected[i])}`);
    picture.append(
      svg("rect", { ...bar, class: beyond(i) ? "beyond" : "bucket" }, hint),
      svg("line", { class: "normal", x1: x(i) + 1, x2: x(i + 1) - 1, y1: y(expected[i]), y2: y(expected[i]) }),
    );
    if (bounds[i] !== undefined && i % every === every - 1) {
      picture.append(svg("text", { x: x(i + 1), y: HEIGHT - 6, "text-anchor": "middle" }, String(bounds[i])));
    }
  });
  if (limit) {
    const place = LEFT + each * position(limit.value, bounds), right = place < width * 0.6;
    drawLimit(picture, { x1: place, x2: place, y1: TOP - 4, y2: y(0) }, limit.label, place + (right ? 5 : -5), right ? "start" : "end");
  }
  host.replaceChildren(picture);
}

// Where a value stands among buckets of one width: inside its bucket by its share of it.
function position(value, bounds) {
  const i = bounds.findIndex((bound) => value <= bound);
  if (i < 0) return bounds.length + 0.5;
  const low = i ? bounds[i - 1] : Math.min(0, value);
  return i + (bounds[i] > low ? (value - low) / (bounds[i] - low) : 0);
}

function drawLimit(picture, line, label, x, anchor) {
  const y = line.x1 === line.x2 ? TOP + 4 : line.y1 - 5;
  picture.append(svg("line", { class: "limit", ...line }), svg("text", { class: "told", x, y, "text-anchor": anchor }, label));
}

// A figure with a heading, a legend [[style, text]], a plot, and a table that is filled when it is opened.
function figure(title, legend) {
  const plot = el("div", { class: "plot" }), table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title });
  const details = el("details", {}, el("summary", {}, "As a table"), table);
  const words = legend.map(([style, text]) => el("span", { class: "entry" }, el("span", { class: `key ${style}` }), text));
  const whole = el("figure", {}, el("figcaption", {}, el("h3", {}, title), el("p", {}, ...words)), plot, details);
  let rows = () => [[], []];
  const fill = () => details.open && table.replaceChildren(asTable(...rows()));
  details.addEventListener("toggle", fill);
  return { whole, plot, show(draw, tabled) { draw(plot); rows = tabled; fill(); } };
}

function asTable(heads, rows) {
  const line = (cells, tag) => el("tr", {}, ...cells.map((cell) => el(tag, tag === "th" ? { scope: "col" } : {}, cell)));
  return el("table", {}, el("thead", {}, line(heads, "th")), el("tbody", {}, ...rows.map((cells) => line(cells, "td"))));
}
