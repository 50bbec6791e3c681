// A call of a tool in one line: name, arguments, result, time. Opens in place. Everything is text.

import { duration } from '../format.js';
import { html } from '../html.js';
import { brief, laidOut } from '../model/tools.js';
import { icon } from './icon.js';

function outcome(call, now) {
  if (call.running) return html`<span class="glyph t-live" data-state="processing">${icon('s-processing')}</span><span class="num t2">${`runs, ${duration(Math.max(100, Math.floor((now - new Date(call.calledAt)) / 100) * 100))}`}</span>`;
  if (call.error === null && call.result === null) return html`<span class="t3">no result</span>`;
  const tone = call.error === null ? 'ok' : 'bad';
  return html`<span class="${`t-${tone} tool-r ell`}">${icon(call.error === null ? 'check' : 'x')}<span class="vh">${call.error === null ? 'Result: ' : 'Error: '}</span>${brief(call)}</span>${call.took_ms === null ? '' : html`<span class="num t3 nowrap">${duration(call.took_ms)}</span>`}`;
}

const part = (label, text) => (text === null || text === '' ? '' : html`<p class="t3">${label}</p><pre tabindex="0" aria-label="${label}">${laidOut(text)}</pre>`);

export const toolBlock = (call, now) => html`<details class="tool ${call.running ? 'run' : ''}" data-key="${`tool:${call.id}`}"><summary>${icon('tool')}<b class="mono">${call.name}</b><span class="mono t2 ell tool-a">${call.arguments ?? ''}</span><span class="right row tool-o">${outcome(call, now)}${icon('right', 'turn')}</span></summary>
  <div class="tool-b">${part('Arguments', call.arguments)}${part('Error', call.error)}${part('Result', call.error === null ? call.result : null)}</div></details>`;
