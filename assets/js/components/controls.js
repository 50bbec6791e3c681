// Small pieces: buttons, chips, states, pips, meters, segmented choices. Functions from values to templates.

import { action, labelOf, possible } from '../actions.js';
import { int } from '../format.js';
import { html } from '../html.js';
import { printed } from '../keys.js';
import { look } from '../states.js';
import { icon } from './icon.js';

export const kbd = (key) => html`<kbd>${printed(key)}</kbd>`;

/** A button that runs an action of the table. */
export function actionButton(id, { arg = '', kind = '', sm = false, only = false, label, showKey = false, ic } = {}) {
  const a = action(id);
  if (!a) return '';
  const ok = possible(id, arg);
  const text = label ?? labelOf(a, arg);
  const why = ok === true ? (only ? `${text}${a.key ? ` (${printed(a.key)})` : ''}` : null) : `${text}: ${ok || 'not possible now'}`;
  return html`<button type="button" class="btn ${kind} ${sm ? 'sm' : ''} ${only ? 'only' : ''}" data-action="${id}" data-arg="${arg || null}"
    aria-label="${only ? text : null}" title="${why}" aria-disabled="${ok === true ? null : 'true'}">${ic ?? a.icon ? icon(ic ?? a.icon) : ''}${only ? '' : html`<span>${text}</span>`}${!only && showKey && a.key ? kbd(a.key) : ''}</button>`;
}

export const chip = (text, tone = '', ic = '') => html`<span class="chip ${tone && `t-${tone}`}">${ic ? icon(ic) : ''}${text}</span>`;

/** Icon and word. */
export function stateLabel(name, label) {
  const s = look(name);
  return html`<span class="state t-${s.tone}" data-state="${s.state}">${icon(s.icon)}<span>${label ?? s.label}</span></span>`;
}

/** Icon alone, for dense rows, with the word in its title and for screen readers. */
export function stateGlyph(name) {
  const s = look(name);
  return html`<span class="glyph t-${s.tone}" data-state="${s.state}" title="${s.label}">${icon(s.icon)}<span class="vh">${s.label}</span></span>`;
}

/** The restart budget: filled = left, hollow = used. */
export function pips(left, max = 5, { label = true, big = false } = {}) {
  if (left === null || left === undefined) return html`<span class="t3">not known</span>`;
  const tone = left <= 0 ? 'out' : left <= 2 && max > 3 ? 'low' : '';
  const bars = Array.from({ length: Math.max(max, left) }, (_, i) => html`<i class="${i < left ? '' : 'used'}"></i>`);
  return html`<span class="pips ${tone} ${big ? 'big' : ''}" role="img" aria-label="${`${left} of ${max} restarts left`}">${bars}</span>${label ? html`<span class="pips-n">${int(left)} left</span>` : ''}`;
}

export const meter = (percent, { tone = 'ink', label, cls = '' }) => html`<span class="meter t-${tone} ${cls}" role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow="${Math.round(percent)}" aria-label="${label}"><i style:--w="${`${Math.min(100, Math.max(0, percent))}%`}"></i></span>`;

/** 2-5 choices as pressed buttons; `choices` = [{value, label, count?, icon?}]. */
export const segmented = (label, id, choices, on) => html`<div class="seg" role="group" aria-label="${label}">${choices.map((c) => html`<button type="button" aria-pressed="${String(c.value === on)}" data-action="${id}" data-arg="${c.value}" data-seg title="${c.icon ? c.label : null}">${c.icon ? html`${icon(c.icon)}<span class="vh">${c.label}</span>` : c.label}${c.count === undefined ? '' : html` <span class="num">${int(c.count)}</span>`}</button>`)}</div>`;

/** A labelled field. `control` is the input itself; errors keep what was typed. */
export const field = ({ id, label, control, hint, error, suffix, ic, cls = '' }) => html`<div class="field ${cls}"><label for="${id}">${label}</label><div class="inp ${error ? 'err' : ''}">${ic ? icon(ic) : ''}${control}${suffix ? html`<span class="suffix">${suffix}</span>` : ''}</div>${error ? html`<p class="err-t" id="${`${id}-h`}">${icon('warn')}<span>${error}</span></p>` : hint ? html`<p class="hint" id="${`${id}-h`}">${hint}</p>` : ''}</div>`;

export const section = (title, right = '', level = 2) => (level === 3
  ? html`<header class="sect"><h3>${title}</h3>${right}</header>`
  : html`<header class="sect"><h2>${title}</h2>${right}</header>`);

// Arrow keys move inside a segmented choice.
document.addEventListener('keydown', (e) => {
  const button = e.target.closest?.('[data-seg]');
  if (!button || !['ArrowLeft', 'ArrowRight'].includes(e.key)) return;
  const all = [...button.parentElement.querySelectorAll('[data-seg]')];
  const next = all[(all.indexOf(button) + (e.key === 'ArrowRight' ? 1 : all.length - 1)) % all.length];
  e.preventDefault();
  next.focus();
  next.click();
});
