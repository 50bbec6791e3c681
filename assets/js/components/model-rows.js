// Rows of the table of models, and the same as cards for a phone; under a model its pulls.

import { bytes, int, when } from '../format.js';
import { html } from '../html.js';
import { againWords, modelState, percentOf, placesOf, pullFacts, pullState, pullWords } from '../model/models.js';
import { actionButton, chip } from './controls.js';
import { icon } from './icon.js';

const ABILITIES = ['completion', 'insert']; // every model has them: not worth a chip

const parameters = (m) => (m?.simulated ? 'scripted' : [m?.parameter_size, m?.quantization].filter(Boolean).join(', ') || 'not known');
/** What it takes on disk, or will once it is pulled. */
const sizeOf = (row) => row.model?.size ?? row.pulls[0]?.progress.total;
const dim = (text) => html`<span class="t3">${text}</span>`;
const abilities = (m) => [m?.simulated ? chip('simulated', 'warn') : '', ...(m?.capabilities ?? []).filter((c) => !ABILITIES.includes(c)).map((c) => chip(c))];
const where = (m) => m?.servers.map((s) => s.name).join(', ') || 'none';
const stateOf = (row, now) => {
  const s = modelState(row, now);
  return html`<span class="state t-${s.tone}" title="${s.label}">${icon(s.icon)}<span class="ell">${s.label}</span></span>`;
};
const users = (row) => (row.users.length ? html`<a class="lnk" href="${`/bots?q=${encodeURIComponent(`model:${row.name}`)}`}" aria-label="${`${row.users.length} bots use ${row.name}`}">${int(row.users.length)}</a>` : html`<span class="t3">0</span>`);
const more = (row) => (row.model ? html`<button type="button" class="btn ghost only sm" data-action="models.menu" data-arg="${row.name}" aria-haspopup="menu" aria-label="${`Actions for ${row.name}`}" title="Actions (.)">${icon('dots')}</button>` : '');

export const COLUMNS = [['Model'], ['Size', 'n'], ['Parameters'], ['Max context', 'n'], ['Can do'], ['On servers'], ['Bots', 'n'], ['State']];

export function modelRow(row, now) {
  const m = row.model;
  return html`<tr tabindex="-1" data-model="${row.name}" class="${row.pulls.length ? 'has-pull' : ''}"><td class="ell nm" title="${row.name}"><b class="mono">${row.name}</b></td><td class="n">${sizeOf(row) ? bytes(sizeOf(row)) : dim('not known')}</td><td class="t2">${m ? parameters(m) : dim('not known')}</td>
    <td class="n">${m?.context_length ? int(m.context_length) : dim('not known')}</td><td><span class="row g4">${abilities(m)}</span></td><td class="t2 on" title="${where(m)}">${m ? placesOf(m) : 'none'}</td><td class="n">${users(row)}</td><td class="st">${stateOf(row, now)}</td><td class="act">${more(row)}</td></tr>`;
}

export function modelCard(row, now) {
  const m = row.model;
  return html`<li class="card mc" data-model="${row.name}" tabindex="-1"><div class="row"><b class="mono grow ell">${row.name}</b>${stateOf(row, now)}${more(row)}</div>
    <p class="t2">${[sizeOf(row) ? bytes(sizeOf(row)) : '', m ? parameters(m) : '', m?.context_length ? `up to ${int(m.context_length)} tokens` : ''].filter(Boolean).join(', ')}</p>
    <p class="row g4 mc-c">${abilities(m)}${dim(m ? `on ${where(m)}` : 'on no server yet')}</p></li>`;
}

/** How a pull stands: bar, figures, a way out. */
function pullLine(pull, servers) {
  const percent = percentOf(pull);
  const s = pullState(pull);
  const running = pull.state === 'running';
  const place = `${pull.server} ${pull.model}`;
  return html`<div class="pl"><span class="num pl-n"><b>${percent === null ? '' : `${percent}%`}</b></span><div class="grow"><span class="meter t-${s.tone}" role="progressbar" aria-label="${`Pull of ${pull.model} to ${pull.server}`}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="${percent}" aria-valuetext="${[percent === null ? s.label : `${percent}%`, pullFacts(pull)].filter(Boolean).join(', ')}"><i style:--w="${`${percent ?? 0}%`}"></i></span>
    <p class="row num"><span class="t-${running ? 'mute' : s.tone} pl-w">${pullWords(pull, servers)}</span><span class="t3 right nowrap" title="${`Begun ${when(pull.began_at)}`}">${pullFacts(pull)}</span></p></div>
    ${running ? actionButton('model.cancel', { arg: pull.id, sm: true, label: 'Cancel' }) : html`<span class="row">${actionButton('model.resume', { arg: place, sm: true, label: againWords(pull, servers) })}<button type="button" class="btn ghost only sm" data-action="models.dismiss" data-arg="${pull.id}" aria-label="${`Put away the pull of ${pull.model} to ${pull.server}`}" title="Put away">${icon('x')}</button></span>`}</div>`;
}

export const pullRow = ({ pull, servers }) => html`<tr class="pull" data-pull="${pull.model}"><td colspan="9">${pullLine(pull, servers)}</td></tr>`;
export const pullCard = ({ pull, servers }) => html`<li class="pull" data-pull="${pull.model}">${pullLine(pull, servers)}</li>`;
