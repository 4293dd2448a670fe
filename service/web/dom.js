"use strict";
// Elements and numbers. Text is only ever set as text: nothing that a model or a record says is read as HTML.
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function make(created, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) created.setAttribute(name, value === true ? "" : value);
  }
  created.append(...children.filter((child) => child !== null));
  return created;
}

const el = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const exact = new Intl.NumberFormat("en", { maximumSignificantDigits: 6, useGrouping: false });
const number = (value) => (Math.abs(value) >= 1000 ? whole.format(Math.round(value)) : short.format(value));
const points = (value) => (Math.abs(value) >= 1000 ? whole.format(Math.round(value)) : value.toFixed(2));
const percent = (share) => `${short.format(100 * share)}\u00a0%`;
const probability = (p) => (p < 0.0001 ? p.toExponential(1) : String(Number(p.toPrecision(2))));
const counted = (n, word) => `${whole.format(n)} ${word}${n === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function told(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" && !Number.isInteger(value) ? exact.format(value) : String(value);
}
