// The pane of the selected actor: budget, backoff, mailbox, restart history; strategy and children for supervisors.

import { clock, count, duration, int, when } from '../format.js';
import { html } from '../html.js';
import { downFor, isBot, isGate, newestFirst, spent } from '../model/tree.js';
import { look } from '../states.js';
import { actionButton, pips, section, stateGlyph, stateLabel } from './controls.js';
import { icon } from './icon.js';
import { age, calmState, titleOf } from './tree-canvas.js';

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

function budget(node, now) {
  const { max, within_s: within, left } = node.intensity;
  const used = spent(node, now).slice(0, max);
  const back = used.map((at) => at + within * 1000).sort((a, b) => a - b);
  const words = left >= max ? 'Nothing is used.' : back.length ? `One comes back at ${clock(back[0], true)}${back[1] ? `, the next at ${clock(back[1], true)}` : ''}.` : '';
  const end = node.kind === 'supervisor' ? 'At 0 it gives up and its own supervisor acts.' : left > 0 ? 'At 0 the next crash means quarantine.' : 'Restart it when the cause is gone: that gives a fresh budget.';
  return html`<section>${section('Restart budget', html`<span class="num t3">${int(max - left)} of ${int(max)} used in ${int(within)} s</span>`, 3)}
    <div class="bud">${pips(left, max, { label: false, big: true })}<p><b>${int(left)} left.</b> <span class="t2">${words} ${end}</span></p></div>
    <div class="win" aria-hidden="true">${used.map((at) => html`<i class="wk" style:left="${`${100 - ((now - at) / (within * 1000)) * 100}%`}"></i>`)}</div><div class="row ax2 num t3" aria-hidden="true"><span>${int(within)} s ago</span><span class="right">now</span></div></section>`;
}

/** The first restart after a calm minute is immediate, then 0.1 s doubles up to 10 s. */
function ladder(node) {
  const { max, left } = node.intensity;
  const used = max - left;
  const steps = Array.from({ length: Math.max(max, 2) }, (_, i) => (i === 0 ? 0 : Math.min(10, 0.1 * 2 ** (i - 1))));
  const waiting = look(node.state).state === 'restarting';
  const present = waiting ? Math.max(0, used - 1) : used;
  return html`<section>${section('Backoff', html`<span class="t3">doubles, full jitter, resets after a calm minute</span>`, 3)}
    <ol class="bo">${steps.map((s, i) => html`<li class="${i < present ? 'past' : i === present && (waiting || used) ? 'now' : ''}"><i style:height="${`${4 + i * 4}px`}"></i><span class="num">${s === 0 ? 'at once' : `${s} s`}</span></li>`)}</ol>
    <p class="t3 bo-n">${waiting ? 'It waits on this step, or less: the wait is random below it.' : used ? 'The next crash waits up to this step.' : 'The next crash restarts at once.'}</p></section>`;
}

const isOpen = (h) => h.took_ms === null || h.took_ms === undefined;

function history(node) {
  const items = newestFirst(node.history);
  return html`<section class="hist">${section('Restart history', html`<span class="t3">${items.length ? `last ${int(items.length)}, 100 are kept` : 'none yet'}</span>`, 3)}
    <ol>${items.slice(0, 100).map((h) => html`<li data-key="${h.at}"><div class="h1l"><time class="num" datetime="${h.at}" title="${h.at}">${when(h.at)}</time><b class="ell" title="${h.reason ?? ''}">${h.reason ?? 'reason not known'}</b><span class="num ${isOpen(h) ? 't-warn' : 't2'}">${isOpen(h) ? 'now' : duration(h.took_ms)}</span></div><div class="h2l t3"><span>${h.backoff_ms ? `waited ${duration(h.backoff_ms)} of it` : 'restarted at once'}</span></div></li>`)}</ol></section>`;
}

function numbers(node) {
  const down = newestFirst(node.history).map(downFor);
  return html`<section class="duo2"><div>${section('Mailbox', '', 3)}<p class="bign"><b class="num">${int(node.mailbox ?? 0)}</b><span class="t3">waiting now</span></p></div>
    <div>${section('Restarts', '', 3)}<p class="bign"><b class="num">${int(node.restarts ?? 0)}</b><span class="t3">${down.length ? `down ${duration(median(down))}, max ${duration(Math.max(...down))}` : 'never down'}</span></p></div></section>`;
}

const RULES = { one_for_one: 'One for one: only the child that failed is restarted.', rest_for_one: 'Rest for one: the child that failed and those started after it are restarted.', one_for_all: 'One for all: when one child fails, all are restarted.' };

function children(node, ctx) {
  const items = node.children ?? [];
  return html`<section>${section('Children', html`<span class="t3">${count(items.length, 'child').replace('childs', 'children')}, in start order</span>`, 3)}
    <p class="t2 rule">${RULES[node.strategy] ?? ''}</p>
    <ul class="kids">${items.slice(0, 30).map((c) => html`<li data-key="${c.path}"><button type="button" data-action="tree.select" data-arg="${c.path}">${stateGlyph(calmState({ ...c, bot: node.name === 'bots' }))}<span class="ell grow">${titleOf(c, ctx.nameOf)}</span><span class="t3">${look(c.state).label.toLowerCase()}</span></button></li>`)}</ul>${items.length > 30 ? html`<p class="t3">and ${int(items.length - 30)} more in the tree</p>` : ''}</section>`;
}

function gate(server) {
  if (!server) return '';
  const rows = [server.breaker && ['Breaker', { closed: 'closed, requests pass', open: 'open, requests wait', half_open: 'trial, one request passes' }[server.breaker.state] ?? server.breaker.state], server.slots && ['Slots', `${int(server.slots.busy)} of ${int(server.slots.total)} busy`], server.queue && ['Queue', `${int(server.queue.depth)} of ${int(server.queue.limit)} places`], server.version && ['Version', server.version], server.latency_ms !== null && server.latency_ms !== undefined && ['Answers in', duration(server.latency_ms)]].filter(Boolean);
  return html`<section>${section('Gate', stateLabel(server.state), 3)}<dl class="kv">${rows.map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}</dl></section>`;
}

/** `ctx`: {nameOf, now, servers}. `hit`: {node, parent}. */
export function detail({ node, parent }, ctx) {
  const bot = isBot(parent);
  const s = bot ? node.state : calmState(node);
  const waiting = look(s).state === 'restarting' && node.backoff_ms ? `Restarting, back in up to ${duration(node.backoff_ms)}` : undefined;
  const up = age(node, ctx.now);
  return html`<header class="det-h"><div class="row"><span class="t3 mono ell">${node.path.split('/').join(' / ')}</span><span class="grow"></span><button type="button" class="btn ghost only sm" data-action="tree.closePane" aria-label="Close pane" title="Close pane (Esc)">${icon('x')}</button></div>
    <div class="row det-t"><h2>${titleOf(node, ctx.nameOf)}</h2>${stateLabel(s, waiting)}</div><p class="t3">${look(s).label.toLowerCase()} for ${up}${node.last_exit ? `. Last exit: ${node.last_exit}` : ''}</p>
    ${bot ? html`<div class="row acts">${actionButton('bot.restart', { arg: node.name, sm: true })}${actionButton('bot.kill', { arg: node.name, sm: true, kind: 'bad' })}<span class="grow"></span>${actionButton('bot.chat', { arg: node.name, sm: true, kind: 'ghost' })}</div>` : ''}</header>
    ${isGate(parent) ? gate(ctx.servers.find((x) => x.name === node.name)) : ''}
    ${node.intensity ? budget(node, ctx.now) : ''}${bot && node.intensity ? ladder(node) : ''}${numbers(node)}
    ${node.kind === 'supervisor' ? children(node, ctx) : ''}${history(node)}`;
}

