// A record's verdict and the features that its score is made of.

// Contributions as bars, in the order in which they come; those that are shown at first, and the rest on demand.
function reasons(contributions, { flagged, values, shown = 8 }) {
  const widest = Math.max(...contributions.map((one) => Math.abs(one.contribution)), 1e-12);
  const rows = contributions.map((one) => {
    const bar = el("span", { class: one.contribution < 0 ? "fill minus" : "fill" });
    bar.style.width = `${(100 * Math.abs(one.contribution)) / widest}%`;
    const name = one.feature === "_kl" ? "latent term" : one.feature;
    return el(
      "div", { class: "reason", role: "listitem" },
      el("span", {}, name),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "number" }, points(one.contribution)),
      el("span", { class: "had" }, ...(values && one.feature !== "_kl" ? had(one) : [])),
    );
  });
  const list = el("div", { class: `reasons ${flagged ? "flagged" : ""}`, role: "list", "aria-label": "Contributions to the score" });
  list.append(...rows.slice(0, shown));
  if (rows.length <= shown) return list;
  const more = el("button", { type: "button" }, `Show the other ${rows.length - shown}`);
  more.addEventListener("click", () => {
    list.append(...rows.slice(shown));
    more.remove();
  });
  return el("div", { class: "why" }, list, more);
}

function had(one) {
  const value = one.value === null || one.value === undefined ? "missing or unknown" : told(one.value);
  const without = one.if_missing, other = one.if_expected, usual = (without ?? one).expected;
  const expected = usual === undefined || usual === null ? "" : `, expected ${told(usual)}`;
  const toldOf = (what, { score, p_value: p }) => [el("br"), `${what}: score ${number(score)}, p-value ${probability(p)}`];
  return [el("b", {}, value), expected, ...(without && one.value !== null ? toldOf("without it", without) : []),
    ...(other ? toldOf("as expected", other) : []),
    ...(typeof one.normal_at === "number" ? [el("br"), `not flagged any more at ${told(one.normal_at)}`] : [])];
}

// The latest flagged records: new ones are put on top, so that what is being read stays as it is.
const shownRecords = new Map();

function showLatest(latest, values) {
  const list = $("latest"), kept = new Set(latest.map((record) => record.place));
  for (const [place, item] of shownRecords) {
    if (!kept.has(place)) { item.remove(); shownRecords.delete(place); }
  }
  for (const record of [...latest].reverse()) {
    if (shownRecords.has(record.place)) continue;
    const item = flaggedItem(record, values);
    shownRecords.set(record.place, item);
    list.prepend(item);
  }
  $("latest-none").hidden = latest.length > 0;
}

function flaggedItem(record, values) {
  const at = new Date(1000 * record.time), weightiest = record.contributions.slice(0, 3).map((one) => one.feature);
  const summary = el(
    "summary", {},
    el("time", { datetime: at.toISOString(), title: at.toLocaleString() }, at.toLocaleTimeString([], { hour12: false })),
    el("span", { class: `badge ${record.severity}` }, record.severity),
    el("span", {}, `score ${points(record.score)}`),
    el("span", {}, `p ${probability(record.p_value)}`),
    el("span", { class: "soft" }, weightiest.join(", ")),
  );
  const details = el("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    details.append(reasons(record.contributions, { flagged: true, values, shown: 6 }));
  });
  return el("li", {}, details);
}

// What /explain says of a single record, in words and bars.
function verdict(answer) {
  const [result] = answer.results, flagged = result.is_anomaly;
  const p = probability(result.p_value);
  const sentence = flagged
    ? `Flagged (${result.severity}): its score of ${number(result.score)} is not below the threshold of ${number(answer.threshold)}.`
    : `Not flagged: its score of ${number(result.score)} is below the threshold of ${number(answer.threshold)}.`;
  const usual = (what) => what && what.p_value > answer.alpha;
  const culprits = result.contributions.filter((one) => flagged && (usual(one.if_missing) || usual(one.if_expected)));
  const warnings = result.warnings.map((one) => `${one.feature}: ${one.code.replaceAll("_", " ")}`);
  return [
    el("p", { class: "verdict" }, el("strong", {}, sentence)),
    gauge(result.score, answer.threshold, flagged),
    el("p", {}, `Its p-value is ${p}: so large is the share of normal records that score at least as high.`),
    culprits.length ? el("p", {}, `But for ${oneOf(culprits.map((one) => one.feature))} it would not be flagged.`) : null,
    result.broken_rules.length
      ? el("p", {}, `It breaks what every training record keeps: ${result.broken_rules.join("; ")}.`) : null,
    warnings.length ? el("p", {}, `About the data: ${warnings.join("; ")}.`) : null,
    el("h3", {}, "What the score is made of"),
    el("p", { class: "soft" }, "First what the record would be the most normal without, or with another value of; what is expected is what its other values tell."),
    reasons(result.contributions, { flagged, values: true, shown: 12 }),
  ].filter((part) => part !== null);
}

function oneOf(names) {
  const shown = names.length > 4 ? [...names.slice(0, 3), `one of ${names.length - 3} more`] : names;
  return shown.length === 1 ? shown[0] : `${shown.slice(0, -1).join(", ")} or ${shown.at(-1)}`;
}

function gauge(score, threshold, flagged) {
  const low = Math.min(0, score, threshold), high = Math.max(score, threshold) + 0.15 * (Math.max(score, threshold) - low);
  const share = (value) => `${(100 * (value - low)) / Math.max(high - low, 1e-12)}%`;
  const fill = el("span", { class: "fill" }), mark = el("span", { class: "mark" }), name = el("span", { class: "name" }, "threshold");
  fill.style.width = share(score);
  mark.style.left = name.style.left = share(threshold);
  return el("div", { class: `gauge ${flagged ? "flagged" : ""}`, "aria-hidden": "true" }, fill, mark, name);
}
