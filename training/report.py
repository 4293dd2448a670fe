"""report.html: what a person should see before trusting a model, in one file that works offline and runs no script."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Manifest
from service.session import Answers
from training import card, plots
from training.card import Looked
from training.fit import Curve
from training.metrics import Estimate, false_alarm_band
from training.plots import Plot
from training.svg import escape, short

# No script, no other file: the browser itself refuses them, whatever a column is called.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """
:root{color-scheme:light dark;--page:#f5f7f9;--box:#fff;--ink:#1b2430;--soft:#55616f;--rule:#dbe1e8;
--n0:#2468b4;--n1:#c8501e;--n2:#1a8571;--n3:#8247b5;--n4:#a37200;--n5:#b0306a;
--s0:#b9d3ee;--s1:#86b1e0;--s2:#4a86c8;--s3:#1c4f8c;--s4:#d4500f}
@media(prefers-color-scheme:dark){:root{--page:#0e1217;--box:#171d25;--ink:#e7ecf2;--soft:#a3aebb;--rule:#303946;
--n0:#6db1f7;--n1:#f2925c;--n2:#4cc3ab;--n3:#bf96ef;--n4:#dcb045;--n5:#f083b4;
--s0:#23405f;--s1:#2f659c;--s2:#5597d6;--s3:#b4d7fa;--s4:#ff9a55}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header{max-width:1080px;margin:auto;padding:0 20px}
header{padding-top:34px}main{padding-bottom:60px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.35rem;margin:44px 0 12px;line-height:1.25}h3{font-size:1.02rem;margin:24px 0 6px}
p,li{max-width:76ch}p{margin:0 0 12px}li{margin-bottom:5px}ul{padding-left:1.3em}
.lead,figcaption{color:var(--soft)}
nav{margin:16px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px}a{color:var(--n0)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:26px 0 0}
.tiles div,figure,.table{background:var(--box);border:1px solid var(--rule);border-radius:10px}
.tiles div{padding:13px 15px}.tiles dt{color:var(--soft);font-size:.84rem}
.tiles dd{margin:2px 0 0;font-size:1.35rem;font-weight:600;line-height:1.3;overflow-wrap:anywhere}
.tiles small{display:block;color:var(--soft);font-size:.8rem;font-weight:400}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}
figure:last-child:nth-child(odd){grid-column:1/-1}figure:last-child svg[role]{max-width:470px}
figure{margin:0;padding:15px 17px 16px}figure h3{margin:0 0 6px}figcaption{font-size:.88rem;line-height:1.5;margin-top:8px}
.legend{display:flex;flex-wrap:wrap;gap:2px 15px;list-style:none;margin:0 0 6px;padding:0;font-size:.84rem;color:var(--soft)}
.legend li{margin:0;display:flex;align-items:center;gap:6px}.legend svg{width:22px;height:12px}
svg{display:block;width:100%;height:auto}text{font-size:12px;fill:var(--soft);font-family:inherit}
.label{fill:var(--ink)}.note{fill:var(--ink);font-weight:600}.grid{stroke:var(--rule);stroke-width:1;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.thin{stroke-width:1;opacity:.75}.area{stroke:none;opacity:.3}
.dot{fill:none;stroke-width:9;stroke-linecap:round;opacity:.85}.ring{fill:var(--box);stroke-width:2.2}
.mark{stroke:var(--ink);stroke-width:1.6;stroke-dasharray:5 3;fill:none}
.n0,.normal{stroke:var(--n0)}.n1,.anomaly{stroke:var(--n1)}.n2{stroke:var(--n2)}.n3{stroke:var(--n3)}.n4{stroke:var(--n4)}
.n5{stroke:var(--n5)}.n9{stroke:var(--soft)}.ideal{stroke:var(--soft);stroke-width:1.3;stroke-dasharray:4 4}
.area.normal,.bar.normal,.box.normal{fill:var(--n0)}.area.anomaly,.box.anomaly{fill:var(--n1)}.area.band,.box.band{fill:var(--soft)}
.area{stroke:none}.bar{stroke:none}.box{stroke:none;opacity:.55}.area.band{opacity:.2}.box.band{opacity:.3}
.dot.s0{stroke:var(--s0)}.dot.s1{stroke:var(--s1)}.dot.s2{stroke:var(--s2)}.dot.s3{stroke:var(--s3)}.dot.s4{stroke:var(--s4)}
.box.s0{fill:var(--s0)}.box.s1{fill:var(--s1)}.box.s2{fill:var(--s2)}.box.s3{fill:var(--s3)}.box.s4{fill:var(--s4)}
[class^="s"].box{opacity:1}
.table{overflow-x:auto;margin:0 0 14px}
table{border-collapse:collapse;width:100%;font-size:.89rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 13px;border-bottom:1px solid var(--rule);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}tbody th{font-weight:500;overflow-wrap:anywhere;min-width:7em}
td{overflow-wrap:anywhere;min-width:5em}
details{margin:12px 0}summary{cursor:pointer;font-weight:600;margin-bottom:8px}
:focus-visible{outline:2px solid var(--n0);outline-offset:2px}
@media(max-width:560px){main,header{padding-left:12px;padding-right:12px}figure{padding:12px 9px}
.tiles{grid-template-columns:1fr 1fr}
h1{font-size:1.5rem}text{font-size:14px}}
@media print{body{background:none}figure,tr{break-inside:avoid}}
"""

SECTIONS = (
    ("figures", "Figures"),
    ("weights", "Features with most weight"),
    ("unusual", "Least normal records"),
    ("told", "Numbers told"),
    ("rules", "Rules"),
    ("card", "Model card"),
    ("data", "Data"),
    ("settings", "Settings"),
)


def report(
    manifest: Manifest,
    curves: Sequence[Curve],
    held: Answers,
    anomalies: Answers | None,
    latent: NDArray[np.float32],
    error: NDArray[np.float32],
    looked: Looked,
) -> bytes:
    """The page as UTF-8 HTML, the same for the same input.

    held: the scorer's answers to the n calibration records, with contributions (n, T). latent (n, L): their mu. error (n, F):
    their reconstruction error a feature, in nats. anomalies: answers to labelled anomalies, with contributions. looked: the
    records of which the least normal ones are listed. Raises ValueError where the numbers of records or features differ.
    """
    n, names = len(held.score), [feature.name for feature in manifest.features]
    if n == 0 or len(latent) != n or error.shape != (n, len(names)) or len(looked.rows) != len(looked.score):
        raise ValueError(
            f"{n} calibration records and {len(names)} features do not fit latent {latent.shape}, error {error.shape}, "
            f"rows {looked.rows.shape} of scores {looked.score.shape}"
        )
    if anomalies is not None and not len(anomalies.score):
        anomalies = None
    odd = None if anomalies is None else anomalies.score
    figures = [
        plots.scores(held.score, odd, manifest.threshold, manifest.alpha),
        plots.calibration(held.score),
        plots.losses(curves),
        plots.latent_space(latent, held.score),
    ]
    area = None
    if odd is not None:
        detection, area, _ = plots.detection(held.score, odd, manifest.threshold)
        figures += detection
    figures.append(plots.reconstruction(names, error))
    drawn = "".join(_figure(plot) for plot in figures if plot)
    sections = {
        "figures": f'<section id="figures"><h2>Figures</h2><div class="plots">{drawn}</div></section>',
        "weights": card.weights(manifest, held, anomalies),
        "unusual": card.unusual(manifest, looked),
        "told": card.told(manifest),
        "rules": card.rules(manifest),
        "card": card.words(manifest),
        "data": card.data(manifest),
        "settings": card.settings(manifest),
    }
    links = "".join(f'<a href="#{place}">{title}</a>' for place, title in SECTIONS if sections[place])
    title = escape(manifest.name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}: model report</title>
<style>{STYLE}</style></head>
<body><header><h1>{title}</h1><p class="lead">Anomaly detection model: report and model card</p>{_tiles(manifest, area)}
<nav aria-label="Sections">{links}</nav></header>
<main>{"".join(sections.values())}</main></body></html>
""".replace(" %", "&nbsp;%").encode("utf-8", "replace")


def _tiles(manifest: Manifest, area: Estimate | None) -> str:
    n, alpha = len(manifest.calibration.scores), manifest.alpha
    low, high = false_alarm_band(n, card.FRESH, alpha)
    honest = "held out" if manifest.calibration.held_out else "each judged without itself"
    tiles = [
        ("Features", str(len(manifest.features)), f"columns left out: {len(manifest.dropped)}"),
        (
            "Calibration records",
            f"{n:,}",
            f"normal, {honest}",
        ),
        ("False alarms asked", f"{short(100 * alpha)} %", f"expect {short(100 * low)} to {short(100 * high)} %"),
        ("Threshold", short(manifest.threshold), f"score: {manifest.score_kind}"),
    ]
    if area is not None:
        tiles.append(("AUROC", f"{area.value:.3f}", f"95 %: {area.low:.3f} to {area.high:.3f}"))
    if manifest.warnings:
        tiles.append(("Warnings", str(len(manifest.warnings)), "see Data"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _figure(plot: Plot) -> str:
    legend = "".join(f"<li>{_swatch(kind)}{escape(text)}</li>" for kind, text in plot.legend)
    legend = f'<ul class="legend">{legend}</ul>' if legend else ""
    return f"<figure><h3>{escape(plot.title)}</h3>{legend}{plot.svg}<figcaption>{escape(plot.caption)}</figcaption></figure>"


def _swatch(kind: str) -> str:
    """A sample of a line, or of an area where the class says box."""
    line, box = f'<path class="line {kind}" d="M0 6H22"/>', f'<rect class="{kind}" x="5" width="12" height="12" rx="2"/>'
    return f'<svg viewBox="0 0 22 12" aria-hidden="true">{box if kind.endswith(" box") else line}</svg>'
