// About this turn: where its time went, what the model saw, and the bot behind it.

import { action } from '../actions.js';
import { count, duration, int, ordinal, span } from '../format.js';
import { html } from '../html.js';
import { shownState } from '../model/bot-filter.js';
import { firstAfter, isOver, moments, speedOf } from '../model/chat.js';
import { actionButton, chip, pips, section, stateLabel } from './controls.js';
import { icon } from './icon.js';

const STATES = { accepted: ['stored', 'mute', 'check'], queued: ['queued', 'warn', 's-queued'], generating: ['generating', 'live', 's-processing'], completed: ['completed', 'ok', 'check'], stopped: ['stopped', 'mute', 'stop'], failed: ['failed', 'bad', 's-crashed'], interrupted: ['interrupted', 'bad', 'kill'] };

/** What the time after the first token went to besides writing, as far as this page saw it. */
function inside(turn) {
  const calls = turn.tools?.filter((c) => c.took_ms !== null) ?? [];
  return [turn.thoughtMs ? ['Thinking', turn.thoughtMs, 'quar'] : null, calls.length ? [`Tools, ${calls.length}`, calls.reduce((sum, c) => sum + c.took_ms, 0), 'ink'] : null].filter(Boolean);
}
const writing = (ms, turn) => (ms === null ? null : Math.max(0, ms - inside(turn).reduce((sum, [, took]) => sum + took, 0)));

/** Parts of the waterfall: [label, ms or null, tone]. Measured by the server where it has finished, else by this page. */
function parts(turn, now) {
  const t = turn.full?.timings;
  if (isOver(turn) && t) {
    const between = (from, to) => (typeof from === 'number' && typeof to === 'number' ? Math.max(0, to - from) : null);
    return [['Queued', t.queued_ms ?? null, 'warn'], ['First token', t.first_token_ms ?? null, 'ink'], ...inside(turn), ['Writing', writing(between(firstAfter(t), t.total_ms), turn), 'live']];
  }
  const { accepted, started, first } = moments(turn);
  return [['Queued', (started ?? now) - (accepted ?? now), 'warn'], ['First token', started ? (first ?? now) - started : null, 'ink'], ...inside(turn), ['Writing', first ? writing(now - first, turn) : null, 'live']].map(([l, ms, tone]) => [l, ms === null ? null : Math.max(0, ms), tone]);
}

function waterfall(turn, now) {
  const rows = parts(turn, now);
  const total = rows.reduce((sum, [, ms]) => sum + (ms ?? 0), 0) || 1;
  let offset = 0;
  return html`<ol class="wf">${rows.map(([label, ms, tone]) => {
    const left = (offset / total) * 100;
    offset += ms ?? 0;
    return html`<li><span class="t2">${label}</span><span class="wf-t"><i class="t-${tone}" style:left="${`${Math.min(99, left)}%`}" style:width="${`${((ms ?? 0) / total) * 100}%`}"></i></span><span class="num">${ms === null ? (isOver(turn) ? 'not known' : 'next') : duration(Math.round(ms))}</span></li>`;
  })}</ol>`;
}

function speedWords(turn) {
  const speed = speedOf(turn);
  return speed !== null ? `${speed.toFixed(1)} tok/s` : isOver(turn) ? 'not known' : 'not yet';
}

function context(c) {
  if (!c?.num_ctx) return '';
  const free = Math.max(0, c.num_ctx - c.used);
  const percent = Math.round((c.used / c.num_ctx) * 100);
  const words = `${int(c.used)} of ${int(c.num_ctx)} tokens, ${percent}%${c.trimmed_messages ? `; ${count(c.trimmed_messages, 'earlier message')} not sent` : ''}`;
  return html`<section>${section('Context', html`<span class="num t3">${int(c.used)} of ${int(c.num_ctx)}</span>`)}
    <div class="${`ctx ${percent >= 80 || c.trimmed_messages ? 'warn' : ''}`}" role="meter" aria-label="Context used" aria-valuemin="0" aria-valuemax="${c.num_ctx}" aria-valuenow="${Math.min(c.used, c.num_ctx)}" aria-valuetext="${words}"><i class="cx-c" style:flex-grow="${String(c.used)}"></i><i class="cx-e" style:flex-grow="${String(free)}"></i></div>
    <ul class="cx-l"><li><i class="cx-c"></i>Prompt and history<span class="num">${int(c.used)}</span></li><li><i class="cx-e"></i>Free for the reply<span class="num">${int(free)}</span></li></ul>
    ${c.trimmed_messages ? html`<p class="cx-t">${icon('scissors')}<span><b>${count(c.trimmed_messages, 'message')} not sent</b>, ${count(c.trimmed_tokens, 'token')}. They stay in the history.</span></p>${action('chat.raise') ? html`<div class="row">${actionButton('chat.raise', { sm: true })}</div>` : ''}` : ''}</section>`;
}

export function inspector(turn, bot, now, use) {
  const [label, tone, ic] = STATES[turn?.state] ?? ['none', 'mute', ''];
  const usage = turn?.full?.usage;
  const up = bot?.status?.uptime_seconds;
  return html`<div class="insp-x"><h2>About this turn</h2><button type="button" class="btn ghost only sm" data-action="chat.side" aria-label="Close pane">${icon('x')}</button></div>
    <section>${section('This turn', turn ? chip(label, tone === 'mute' ? '' : tone, ic) : '')}
    ${turn ? html`${waterfall(turn, now)}<dl class="kv"><dt>Speed</dt><dd>${speedWords(turn)}</dd><dt>Tokens</dt><dd>${usage && isOver(turn) ? `${int(usage.prompt_tokens ?? 0)} in, ${int(usage.completion_tokens ?? 0)} out` : 'counted at the end'}</dd><dt>Model</dt><dd class="mono">${turn.full?.model ?? turn.model ?? bot?.config?.model ?? 'not known'}</dd><dt>Server</dt><dd>${turn.queue?.position && turn.queue.server ? `${turn.queue.server}, ${ordinal(turn.queue.position)} in line` : turn.queue?.gives_up_at ? 'none, waits for one' : turn.full?.server ?? turn.server ?? turn.queue?.server ?? 'none yet'}</dd></dl>` : html`<p class="t3">No turn yet in this conversation.</p>`}</section>
    ${turn ? context(use) : ''}
    ${bot ? html`<section>${section('Bot', stateLabel(shownState(bot)))}<dl class="kv"><dt>Restart budget</dt><dd>${pips(bot.status?.restarts_left)}</dd><dt>Up</dt><dd>${up === undefined || up === null ? 'not known' : span(up)}</dd><dt>Restarts</dt><dd>${int(bot.status?.restart_count ?? 0)}</dd><dt>Waiting</dt><dd>${int(bot.status?.queue_depth ?? 0)}</dd></dl><div class="row">${actionButton('bot.inTree', { arg: bot.id, sm: true, kind: 'ghost', label: 'Supervision' })}</div></section>` : ''}`;
}
