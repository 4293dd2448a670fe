// Drift: what is warned of in words, and a table of every feature.
const CHANGED = {
  values: "values are spread otherwise than in training",
  missing: "values are missing more or less often than in training",
  unknown_categories: "there are categories that training did not see",
};

function showDrift({ status, reason, records, judged_by, warnings, p_values, features }) {
  const since = judged_by === "recent" ? "in the last hour" : "since this version was loaded";
  const told = { ok: `Records ${since} look like those of the training.`, warning: `What has changed ${since}:`, unknown: reason };
  say($("drift-status"), `${counted(records, "record")} looked at. ${told[status]}`);
  $("drift-warnings").replaceChildren(...warnings.map(({ kind, feature, reason: why }) => {
    if (kind === "flagged") return el("li", {}, why);
    if (kind === "p_values") {
      const distance = number(p_values.distance[judged_by]);
      return el("li", {}, "p-values of what is not flagged are not uniform any more; distance ", el("strong", {}, distance));
    }
    const { psi, limit } = features.find((one) => one.feature === feature).measures.find((one) => one.kind === kind);
    return el("li", {}, el("strong", {}, feature), `: ${CHANGED[kind]} (${number(psi[judged_by])}, limit ${number(limit)})`);
  }));
  $("drift-all").hidden = !features.length;
  const cell = (value, format) => (value === null || value === undefined ? "–" : format(value));
  const index = (feature, kind) => cell(feature.measures.find((one) => one.kind === kind)?.psi[judged_by], points);
  $("drift-table").replaceChildren(asTable(
    ["feature", "missing in training", "missing now", "PSI of missing", "of unknown categories", "of values"],
    features.map((one) => [
      one.feature, percent(one.missing_rate.training), cell(one.missing_rate[judged_by], percent),
      index(one, "missing"), index(one, "unknown_categories"), index(one, "values"),
    ]),
  ));
}
