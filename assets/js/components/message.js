// One message of a conversation, by kind and by how its turn stands.

import { action } from '../actions.js';
import { characters, count, duration, eta, int, ordinal, span, when, within } from '../format.js';
import { html } from '../html.js';
import { isOver, moments } from '../model/chat.js';
import { gateOf, held, lineWords, placeWords, waitWords } from '../model/servers.js';
import { actionButton, chip } from './controls.js';
import { gate } from './gate.js';
import { icon } from './icon.js';
import { toolBlock } from './tool-block.js';

const time = (at) => (at ? html`<time class="num t3" datetime="${at}" title="${at}">${when(at)}</time>` : '');
const simulated = (model) => /^(simulated$|sim:)/.test(model ?? '');
const kept = (text) => {
  const n = characters(text);
  return n ? `The ${count(n, 'character')} above ${n === 1 ? 'is' : 'are'} kept.` : 'Nothing was written yet.';
};

/** The versions of a message, with arrows to the ones beside it; nothing where it is the only one. */
const versions = (key, m) => (m.siblings?.count > 1 ? html`<span class="vers" role="group" aria-label="Versions">${actionButton('chat.older', { arg: key, only: true, sm: true, kind: 'ghost' })}<span class="num">${int(m.siblings.index)} of ${int(m.siblings.count)}</span>${actionButton('chat.newer', { arg: key, only: true, sm: true, kind: 'ghost' })}</span>` : '');
const tool = (id, key) => actionButton(id, { arg: key, only: true, sm: true, kind: 'ghost' });

const user = (key, m, sending) => html`<article class="m me-m ${sending ? 'sending' : ''}" data-key="${key}" tabindex="-1" aria-label="${`You, ${m.created_at ? when(m.created_at) : 'sending'}`}"><div class="bub">${m.content}</div>
  <div class="m-f">${sending ? html`<span class="t3">Sending</span>` : html`${versions(key, m)}${time(m.created_at)}${m.turn_id ? tool('chat.edit', key) : ''}${tool('chat.fork', key)}${tool('chat.copy', key)}`}</div></article>`;

const system = (key, m) => html`<article class="m sys-m" data-key="${key}" tabindex="-1" aria-label="${`Answer of the command, ${when(m.created_at)}`}">${icon('term')}<div class="prose" data-own data-html="${key}"></div>${time(m.created_at)}</article>`;

/** The waiting card stands where the answer will be; place and ETA change without moving anything. */
function waiting(turn, ctx) {
  const leave = actionButton('chat.stop', { arg: turn.id, label: turn.stopping ? 'Leaving' : 'Leave the queue', showKey: true });
  const off = held(turn.queue, ctx.servers, ctx.now);
  if (off) {
    const left = off.left === null ? '' : `It is given up ${within(off.left)} unless one answers. `;
    return html`<section class="wait bad" aria-label="Waiting for a model server"><div class="wait-n"><b>${icon('clock')}</b><span>${off.left === null ? 'held' : html`<span class="num">${span(Math.ceil(off.left))}</span> left`}</span></div>
      <div class="grow"><b>Held until a model server is back</b><p class="t2">${left}${off.next === null ? '' : `Next try ${within(off.next)}. `}The message is stored and you may close this page.</p></div>${leave}</section>`;
  }
  const position = turn.queue?.position;
  const server = gateOf(turn.queue, ctx.servers);
  const { accepted } = moments(turn);
  const since = accepted === null ? '' : `waiting ${span((ctx.now - accepted) / 1000)}, `;
  return html`<section class="wait" aria-label="${position ? `${placeWords(position, server?.name)}, ${eta(ctx.shownEta)}` : 'Waiting behind the answer above'}"><div class="wait-n"><b class="num">${position ? ordinal(position) : icon('s-queued')}</b><span>${position ? `in line${server ? ` at ${server.name}` : ''}` : 'next'}</span></div>
    <div class="grow"><div class="row wait-t"><b>${position ? sentence(eta(ctx.shownEta)) : 'Waits for the answer above'}</b><span class="t3">${`${since}${position ? 'moves up as slots become free' : 'nothing to do'}`}</span></div>${gate({ busy: server?.slots?.total ?? 1, total: server?.slots?.total ?? 1, you: position || 1 })}<p class="t2">${waitWords(position, server)}</p></div>${leave}</section>`;
}

const sentence = (s) => s[0].toUpperCase() + s.slice(1);

/** How a turn ended, when it did not end well: what happened, what was kept, what to do. */
function ending(turn, text, key, canRetry) {
  const again = canRetry && action('chat.regenerate') ? actionButton('chat.regenerate', { arg: key, sm: true }) : '';
  const line = (tone, ic, what, then, more = '') => html`<div class="end t-${tone}">${icon(ic, tone === 'mute' ? '' : `t-${tone}`)}<span><b>${what}</b> ${then}</span><span class="right row">${more}${again}</span></div>`;
  const error = turn.full?.error;
  switch (turn.state) {
    case 'stopped': return line('mute', 'stop', 'Stopped by you.', kept(text));
    case 'failed': return line('bad', 's-crashed', error?.title ? `${error.title}.` : 'Failed.', `${error?.detail ?? 'The model server did not finish.'} ${kept(text)}`);
    case 'interrupted': {
      if (/service ended/i.test(error?.detail ?? '')) return line('bad', 'kill', 'Interrupted: the service ended in the middle of the answer.', kept(text));
      const why = error?.detail && !/interrupted/i.test(error.detail) ? ` (${error.detail.replace(/\.$/, '')})` : '';
      return line('bad', 'kill', 'Interrupted: the bot crashed', `${why ? `${why.trim()} ` : ''}and was restarted. ${kept(text)}`, actionButton('chat.crash', { sm: true, kind: 'ghost' }));
    }
    default: return '';
  }
}

/** The answer is whole and ends where its length did; the problem of a turn that failed for it says so itself. */
const cutShort = (m) => (m.state === 'complete' && m.metadata?.done_reason === 'length' ? html`<div class="end t-warn">${icon('scissors', 't-warn')}<span><b>Cut: the answer reached its longest length.</b> Raise num_predict or num_ctx of the bot, or ask it to go on.</span></div>` : '');

/** What the model thought: open while it streams, one line once the answer begins. A reader who opens or closes it decides. */
function thinking(key, m, turn, now) {
  const text = turn?.thinking?.text || m.thinking;
  if (!text) return '';
  const writing = Boolean(turn) && !isOver(turn) && turn.state === 'generating' && !turn.content.text;
  const words = writing ? `Thinking${turn.thinkAt ? `, ${duration(Math.max(100, Math.floor((now - new Date(turn.thinkAt)) / 100) * 100))}` : ''}` : turn?.thoughtMs ? `Thought for ${duration(turn.thoughtMs)}` : 'Thought';
  return html`<details class="think" data-key="${`think:${writing ? 'live' : 'done'}`}" ?open="${writing}"><summary>${icon('think')}<span class="num">${words}</span>${icon('right', 'turn')}</summary><p class="think-t">${text}</p></details>`;
}

const tools = (calls, now) => (calls.length ? html`<div class="tools" role="group" aria-label="Tools">${calls.map((call) => toolBlock(call, now))}</div>` : '');

function footer(key, m, turn, ctx) {
  const usage = turn?.full?.usage?.completion_tokens ?? m.tokens;
  const total = turn?.full?.timings?.total_ms;
  const facts = [usage ? count(usage, 'token') : '', total ? duration(total) : ''].filter(Boolean).join(', ');
  return html`<div class="m-t">${tool('chat.copy', key)}${ctx.last === key && ctx.own ? tool('chat.regenerate', key) : ''}${m.id ? tool('chat.fork', key) : ''}${versions(key, m)}<span class="grow"></span><span class="num t3">${facts}</span></div>`;
}

function liveLine(turn, { now, calls }) {
  const since = moments(turn).started ?? now;
  const tool = calls.find((c) => c.running);
  const pieces = turn.queue ? lineWords(turn.queue) : tool ? `waits for ${tool.name}` : turn.content.text ? `${int(characters(turn.content.text))} characters` : turn.thinking.text ? 'thinking' : 'waits for the first word';
  return html`<div class="live-l"><span class="glyph t-live" data-state="processing">${icon('s-processing')}</span><span class="num">${turn.stopping ? 'Stopping' : `${duration(Math.max(100, Math.floor((now - since) / 100) * 100))}, ${pieces}`}</span></div>`;
}

function bot(key, m, turn, ctx) {
  const model = turn?.full?.model ?? turn?.model ?? m.metadata?.model ?? ctx.model;
  const over = !turn || isOver(turn) || turn.state === 'ended' || m.state !== 'pending';
  const generating = !over && turn.state === 'generating';
  const text = generating ? turn.content.text : m.content;
  const lost = generating && ctx.lost;
  return html`<article class="m bot-m ${generating ? 'on' : ''}" data-key="${key}" tabindex="-1" aria-label="${`${ctx.name}${m.created_at ? `, ${when(m.created_at)}` : ''}`}" aria-busy="${generating ? 'true' : null}">
    <header class="m-h"><b>${ctx.name}</b><span class="mono t3">${model}</span>${simulated(model) ? chip('simulated', 'warn') : ''}${time(m.created_at)}</header>
    ${thinking(key, m, turn, ctx.now)}${tools(ctx.calls, ctx.now)}
    ${over || generating ? html`<div class="prose" data-own data-html="${key}" data-key="${`${key}:${generating ? 'live' : 'done'}`}"></div>` : ''}
    ${over && turn && turn.state !== 'completed' ? ending(turn, text, key, ctx.last === key && ctx.own) : ''}
    ${over ? cutShort(m) : ''}
    ${lost ? html`<div class="end t-warn">${icon('wifioff', 't-warn')}<span><b>Paused here.</b> The text so far stays on this page. When the service answers, it goes on from here, or you see what was kept of it.</span></div>` : ''}
    ${generating ? liveLine(turn, ctx) : over ? footer(key, m, turn, ctx) : turn && (turn.state === 'queued' || turn.state === 'accepted') ? waiting(turn, ctx) : html`<div class="live-l t3">Waits</div>`}
  </article>`;
}

/** `ctx`: {name, model, now, last, own, lost, servers, calls, shownEta}; `own` is false for what a fork shows of its origin. */
export function messageView(key, m, turn, ctx) {
  if (m.sender === 'user') return user(key, m, m.sending);
  if (m.sender === 'bot') return bot(key, m, turn, ctx);
  if (m.sender === 'tool') return html`<article class="m" data-key="${key}" tabindex="-1" aria-label="${`Results of tools, ${when(m.created_at)}`}">${tools(ctx.calls, ctx.now)}</article>`;
  return system(key, m);
}

/** The dashed line at the place of the cut: what stands above is not sent to the model. */
export const cutLine = (trimmed) => html`<div class="cut" role="note" data-key="cut">${icon('scissors')}<span>${count(trimmed.trimmed_messages, 'earlier message')}, ${count(trimmed.trimmed_tokens, 'token')}, ${trimmed.trimmed_messages === 1 ? 'is' : 'are'} not sent to the model</span></div>`;
