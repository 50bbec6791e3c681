// A model server: state, breaker, gate, what it has in memory.

import { bytes, duration, span } from '../format.js';
import { html } from '../html.js';
import { BREAKER, gateWords, pausedWords, stateWords, trouble } from '../model/servers.js';
import { actionButton, stateLabel } from './controls.js';
import { gate } from './gate.js';
import { icon } from './icon.js';

const ICONS = { ok: 'check', warn: 's-stopping', bad: 's-crashed' };

/** Closed is green only where the server answers: the breaker of one that is found dead by a probe may be closed. */
function breaker({ breaker: { state = 'closed' } = {}, state: now }) {
  const [, word] = BREAKER.find(([name]) => name === state) ?? [state, state];
  return html`<div class="row brow"><span class="t3">Breaker</span><ol class="brk" aria-label="${`Breaker: ${word}`}">${BREAKER.map(([name, label, tone]) => html`<li class="${name === state ? `on ${tone === 'ok' && now === 'down' ? '' : `t-${tone}`}` : ''}" aria-current="${name === state ? 'step' : null}">${name === state ? icon(ICONS[tone]) : ''}${label}</li>`)}</ol></div>`;
}

function memory(loaded, server, now) {
  if (!loaded.length) return html`<p class="t3 ld-0">${server.state === 'down' ? 'What it has in memory is not known.' : 'No model is in memory.'}</p>`;
  return html`<ul class="ld" aria-label="${`In the memory of ${server.name}`}">${loaded.map((m) => {
    const left = (new Date(m.expires_at) - now) / 1000;
    return html`<li data-key="${m.name}"><span class="mono ell">${m.name}</span><span class="num t3 nowrap">${m.size ? bytes(m.size) : ''}</span><span class="num t3 right nowrap">${Number.isNaN(left) || left > 3.15e7 ? 'stays' : left > 0 ? `${span(left)} left` : 'leaves now'}</span>${actionButton('model.unloadAt', { arg: `${server.name} ${m.name}`, only: true, sm: true, kind: 'ghost', label: `Unload ${m.name} from ${server.name}` })}</li>`;
  })}</ul>`;
}

export function serverCard(server, loaded, now) {
  const { slots, queue } = server;
  const bad = trouble(server, now);
  const version = [server.version ? `Ollama ${server.version}` : '', typeof server.latency_ms === 'number' && server.state !== 'down' ? duration(server.latency_ms) : ''].filter(Boolean).join(', ');
  const off = server.state === 'down' || (server.state === 'draining' && !slots?.busy);
  return html`<section class="card srv" data-key="${server.name}" data-server="${server.name}" aria-label="${`Server ${server.name}`}">
    <header class="sect"><h2 class="ell">${server.name}</h2>${stateLabel(server.state, stateWords(server, now))}<button type="button" class="btn ghost only sm" data-action="models.serverMenu" data-arg="${server.name}" aria-haspopup="menu" aria-label="${`Actions for ${server.name}`}">${icon('dots')}</button></header>
    <p class="row t3 srv-u"><span class="mono ell" title="${server.url}">${server.url}</span><span class="num right nowrap">${version || 'version not known'}</span></p>
    ${breaker(server)}
    <div class="row srv-g">${gate({ busy: slots?.busy ?? 0, total: slots?.total ?? 1, depth: queue?.depth ?? 0, off })}<span class="${`num right nowrap ${queue?.depth ? 't-warn' : 't3'}`}">${gateWords(server)}</span></div>
    ${memory(loaded, server, now)}
    ${pausedWords(server, now).map((words) => html`<div class="end t-warn" data-key="${`paused ${words.split(' ')[0]}`}"><span>${words}</span><span class="right row">${actionButton('server.probe', { arg: server.name, sm: true })}</span></div>`)}
    ${bad ? html`<div class="end t-${bad.tone}"><span><b>${bad.what}</b> ${bad.then}</span><span class="right row">${server.state === 'draining' ? actionButton('server.resume', { arg: server.name, sm: true }) : actionButton('server.probe', { arg: server.name, sm: true })}</span></div>` : ''}</section>`;
}
