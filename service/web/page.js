// The page: asks the service every few seconds, with the key that was typed in, and shows what it says.
const POLL_MS = 5000;
const state = { key: sessionStorage.getItem("key") ?? "", model: null, version: null, features: [], activity: null, paused: false };
const figures = {
  records: figure("Records a second", [["a", "scored"]]),
  rate: figure("Flagged share", [["a", "of the records"], ["b", "asked for of normal ones"]]),
  scores: figure("Scores", [["a", "below the threshold"], ["b", "beyond it"], ["n", "normal records, for comparison"]]),
  values: figure("p-values", [["a", "of the records"], ["n", "if all were normal"]]),
  latency: figure("Time of a request, of all models", [["a", "median"], ["b", "99 % are faster"]]),
  requests: figure("Requests a second, of all models", [["a", "scored"], ["b", "errors"]]),
};

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(state.key ? { Authorization: `Bearer ${state.key}` } : {}) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  const document = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document.detail ?? answer.statusText), { status: answer.status, document });
  return document;
}

const modelPath = (end = "") => `models/${encodeURIComponent(state.model)}${end}`;

// One after another: two at once would both take up a version, and the second clear what was typed into the first one's form.
let refreshing = null;
async function refresh() {
  const own = refreshing = Promise.resolve(refreshing).then(look);
  await own;
  if (refreshing === own) refreshing = null;
}

async function look() {
  try {
    await showHealth();
    if (state.model === null) await chooseModel();
    state.activity = await ask(modelPath("/activity"));
    if (state.activity.version !== state.version) await takeUpVersion();
    show();
    showDrift(await ask(modelPath("/drift")));
    $("trouble").hidden = true;
    $("unlock").hidden = true;
    $("content").hidden = false;
    draw();
  } catch (error) {
    refuse(error);
  }
}

function refuse(error) {
  if (error.status === 401) {
    $("content").hidden = $("trouble").hidden = true;
    if ($("unlock").hidden) {
      $("unlock").hidden = false;
      if (state.key) $("unlock-why").textContent = "That key was not accepted. Type another one.";
      forget();
      $("key").focus();
    }
    return;
  }
  if (error.status === 404) state.model = null;
  $("trouble").textContent = error.status ? error.message : "The service does not answer. Trying again.";
  $("trouble").hidden = false;
}

async function showHealth() {
  const pill = $("health");
  try {
    const health = await ask("health");
    const refused = health.refused.length ? `, refused: ${health.refused.join(", ")}` : "";
    pill.className = "pill good";
    say(pill, `healthy${refused}`);
    state.uptime = health.uptime_s;
  } catch (error) {
    pill.className = "pill bad";
    say(pill, error.document?.reason ?? "no answer");
  }
}

// A status is read out when its text changes: so it is set only where it does.
function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

async function chooseModel() {
  const { models } = await ask("models");
  const ready = models.filter((model) => model.version !== null);
  if (!ready.length) throw Object.assign(new Error("No model is served: publish one, see GET /health."), { status: 503 });
  const first = ready.find((model) => model.default) ?? ready[0];
  $("model").replaceChildren(...ready.map(({ name }) => el("option", { selected: name === first.name }, name)));
  $("models").hidden = ready.length < 2;
  state.model = first.name;
}

async function takeUpVersion() {
  const detail = await ask(modelPath());
  state.version = state.activity.version;
  state.features = detail.features;
  shownRecords.clear();
  $("latest").replaceChildren();
  $("verdict").replaceChildren();
  $("model-name").textContent = state.model;
  document.title = `${state.model}: anomaly detection`;
  $("about").textContent = `${state.version}, loaded ${new Date(detail.loaded_at).toLocaleString()}, ${detail.provider}, ` +
    `score: ${detail.score_kind}, ${detail.features.length} features, ${whole.format(detail.calibration_records)} calibration records`;
  $("report").action = modelPath("/report");
  showFields();
}

function show() {
  const now = state.activity, last = Math.max(now.seconds.length - 2, 0);
  const records = sum(now.records), anomalies = sum(now.anomalies), recent = now.seconds.slice(last);
  const perSecond = (values) => sum(values.slice(last)) / Math.max(sum(recent), 1);
  const latest = (values) => values.findLast((value) => value !== null);
  const time = (value) => (value === undefined ? "–" : `${short.format(value)} ms`);
  const tile = (name, big, small) => el("div", {}, el("dt", {}, name), el("dd", { class: "big" }, big), el("dd", { class: "small" }, small));
  const span = Math.max(1, Math.round(sum(now.seconds) / 60)), period = span >= 59 ? "in an hour" : `in ${span} min`;
  $("tiles").replaceChildren(
    tile("Records", whole.format(records), `${period}, now ${number(perSecond(now.records))}/s`),
    tile("Flagged", records ? percent(anomalies / records) : "–", `${whole.format(anomalies)}; asked for: ${percent(now.alpha)} of normal ones`),
    tile("Threshold", number(now.threshold), `of the score, ${now.score_kind}`),
    tile("Requests", `${number(perSecond(now.requests))}/s`, `${counted(sum(now.errors), "error")} ${period}`),
    tile("Time of a request", time(latest(now.p50_ms)), `99 % within ${time(latest(now.p99_ms))}`),
  );
  $("process").hidden = now.workers === 1;
  $("process").textContent = `Figures and flagged records of one of ${now.workers} processes, whichever answers: see /metrics for more.`;
  showLatest(now.latest, now.values);
}

function draw() {
  const now = state.activity;
  const rates = (values) => values.map((value, i) => (now.seconds[i] >= 1 ? value / now.seconds[i] : null));
  const shares = now.records.map((n, i) => (n ? now.anomalies[i] / n : null));
  const ends = now.seconds.map((_, i) => `${Math.round(sum(now.seconds.slice(i)))} s ago`);
  const slots = (heads, ...lists) => () => [["from", ...heads], ends.map((end, i) => [end, ...lists.map((list) => (list[i] === null ? "–" : number(list[i])))])];
  const lines = (key, name, format, series, limit) =>
    figures[key].show((host) => drawLines(host, { seconds: now.seconds, series, format, limit, name }), slots(series.map((line) => line.name), ...series.map((line) => line.values)));
  const total = sum(now.records), flagged = sum(now.anomalies);
  const alpha = { value: now.alpha, label: `asked for: ${percent(now.alpha)}` };
  lines("records", `Records a second; ${whole.format(total)} in all`, number, [{ name: "records a second", style: "a", area: true, values: rates(now.records) }]);
  lines("rate", `Share of records flagged; ${total ? percent(flagged / total) : "none scored"}`, percent, [{ name: "share", style: "a", values: shares }], alpha);
  lines("latency", "Time of scoring requests", (ms) => `${number(ms)} ms`, [
    { name: "median, ms", style: "a", values: now.p50_ms }, { name: "99 %, ms", style: "b", values: now.p99_ms }]);
  lines("requests", `Requests a second; ${whole.format(sum(now.requests))} scored, ${counted(sum(now.errors), "error")}`, number, [
    { name: "scored", style: "a", area: true, values: rates(now.requests) }, { name: "errors", style: "b", values: rates(now.errors) }]);
  const buckets = (key, { bounds, counts, expected }, limit, beyond, name) =>
    figures[key].show((host) => drawBuckets(host, { bounds, counts, expected, limit, beyond, name }),
      () => [["up to", "records", "normal ones"], counts.map((n, i) => [bounds[i] ?? "more", whole.format(n), percent(expected[i])])]);
  buckets("scores", now.scores, { value: now.threshold, label: `threshold ${number(now.threshold)}` },
    (i) => (i ? now.scores.bounds[i - 1] : -Infinity) >= now.threshold, `Scores of ${whole.format(total)} records`);
  const flat = now.p_values.bounds.map((bound, i, all) => bound - (i ? all[i - 1] : 0));
  buckets("values", { ...now.p_values, counts: now.p_values.counts.slice(0, -1), expected: flat }, { value: now.alpha, label: `alpha ${percent(now.alpha)}` },
    (i) => now.p_values.bounds[i] <= now.alpha, `p-values of ${whole.format(total)} records`);
}

// The form, a field for each feature.
function showFields() {
  $("fields").replaceChildren(...state.features.map((feature, i) => {
    const id = `field-${i}`, list = `${id}-list`, hints = `${id}-hint ${id}-wrong`;
    const common = { id, "aria-describedby": hints, autocomplete: "off" };
    const numeric = feature.kind === "numeric" || feature.integer;
    const input = feature.kind === "boolean"
      ? el("select", common, ...[["", "missing"], ["true", "true"], ["false", "false"]].map(([value, text]) => el("option", { value }, text)))
      : el("input", { ...common, type: feature.kind === "datetime" ? "datetime-local" : numeric ? "number" : "text",
        step: feature.kind === "datetime" || feature.integer ? "1" : numeric ? "any" : undefined, list: feature.categories.length ? list : undefined });
    return el("div", {}, el("label", { for: id }, feature.name), input,
      feature.categories.length ? el("datalist", { id: list }, ...feature.categories.slice(0, 500).map((value) => el("option", { value }))) : null,
      el("p", { class: "hint", id: `${id}-hint` }, hint(feature)), el("p", { class: "wrong", id: `${id}-wrong` }));
  }));
}

function hint(feature) {
  const missing = feature.missing_rate ? `; ${percent(Number(feature.missing_rate.toPrecision(2)))} missing` : "";
  if (feature.categories.length) {
    const some = feature.categories.slice(0, 3).join(", ");
    return `${feature.categories.length > 3 ? `${some}, … (${feature.categories.length})` : some}${missing}`;
  }
  const range = feature.low === null ? feature.kind : `${told(feature.low)} to ${told(feature.high)} in training`;
  return range + missing;
}

function readForm() {
  const record = {};
  let sound = true;
  state.features.forEach((feature, i) => {
    const input = $(`field-${i}`), text = input.value.trim();
    mark(i, input.validity.badInput ? "This is no value of its kind." : "");
    sound &&= !input.validity.badInput;
    const numeric = feature.kind === "numeric" || feature.integer;
    record[feature.name] = text === "" ? null : feature.kind === "boolean" ? text === "true" : numeric ? Number(text) : text;
  });
  return sound ? record : null;
}

function mark(i, message) {
  $(`field-${i}`).setAttribute("aria-invalid", String(message !== ""));
  $(`field-${i}-wrong`).textContent = message;
}

function writeForm(record) {
  state.features.forEach((feature, i) => {
    const value = record[feature.name];
    $(`field-${i}`).value = value === null || value === undefined ? "" : String(value);
    mark(i, "");
  });
}

async function score() {
  const record = readForm();
  if (record === null) return void document.querySelector("#fields [aria-invalid=true]").focus();
  try {
    const body = JSON.stringify({ records: [record] });
    const answer = await ask(modelPath("/explain"), { method: "POST", body, headers: { "Content-Type": "application/json" } });
    $("verdict").replaceChildren(...verdict(answer));
  } catch (error) {
    if (error.status === 401) return refuse(error);
    for (const { loc, message } of error.document?.errors ?? []) {
      const i = state.features.findIndex((feature) => loc === `records[0].${feature.name}`);
      if (i >= 0) mark(i, message);
    }
    $("verdict").replaceChildren(el("p", { class: "wrong" }, error.message));
  }
}

function forget() {
  state.key = "";
  sessionStorage.removeItem("key");
}

function fillFromJson() {
  try {
    const record = JSON.parse($("json").value);
    const unknown = Object.keys(record).filter((name) => !state.features.some((feature) => feature.name === name));
    writeForm(record);
    $("json-wrong").textContent = unknown.length ? `Not features of this model, left aside: ${unknown.join(", ")}.` : "";
  } catch {
    $("json-wrong").textContent = "This is no JSON object.";
  }
}

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  localStorage.setItem("theme", theme);
}

$("charts").append(...Object.values(figures).map(({ whole: one }) => one));
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value.trim();
  sessionStorage.setItem("key", state.key);
  $("key").value = "";
  $("unlock").hidden = true;
  refresh();
});
$("report").addEventListener("submit", () => { $("report").elements.key.value = state.key; });
$("model").addEventListener("change", () => {
  state.model = $("model").value;
  state.version = null;
  refresh();
});
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  if (!state.paused) refresh();
});
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
$("try").addEventListener("submit", (event) => { event.preventDefault(); score(); });
$("try").addEventListener("reset", () => {
  state.features.forEach((_, i) => mark(i, ""));
  $("verdict").replaceChildren();
});
$("example").addEventListener("click", () => ask(modelPath("/example")).then(({ record }) => writeForm(record), refuse));
$("fill-json").addEventListener("click", fillFromJson);
new ResizeObserver(() => state.activity && !$("content").hidden && draw()).observe($("charts"));
setTheme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
refresh();
setInterval(() => { if (!refreshing && !document.hidden && !state.paused && $("unlock").hidden) refresh(); }, POLL_MS);
