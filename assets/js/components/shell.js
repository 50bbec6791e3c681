// The frame around every page: navigation, title, pulse, connection, banner, theme. Pages write only their title.

import { register } from '../actions.js';
import { retryNow } from '../feeds.js';
import { ago, duration, int, when, within } from '../format.js';
import { element, html, patch, svg } from '../html.js';
import { allDown, nextTry } from '../model/servers.js';
import { setTheme, themeChoice } from '../prefs.js';
import { here, onRoute } from '../router.js';
import { look } from '../states.js';
import { store, watch } from '../store.js';
import { actionButton, stateGlyph } from './controls.js';
import { icon, mark } from './icon.js';
import { openSettings } from './settings-dialog.js';
import { openShortcuts } from './shortcuts-dialog.js';

const GROUPS = [
  ['Operate', [['bots', 'Bots', '/bots', 'bots', 'G B'], ['chat', 'Chat', '/chat', 'chat', 'G C'], ['tree', 'Supervision', '/supervision', 'tree', 'G S']]],
  ['Resources', [['models', 'Models & servers', '/models', 'models', 'G M']]],
];
const PAGES = GROUPS.flatMap(([, pages]) => pages);
const SHORT = { tree: 'Tree', models: 'Models' };
const OPEN_NOTE = 'Open without sign-in because it listens on 127.0.0.1 only';
const title = { text: 'DEIA', sub: '' };

/** Title and one fact in the top bar. */
export function setTitle(text, sub = '') {
  if (title.text === text && title.sub === sub) return;
  Object.assign(title, { text, sub });
  document.title = `${text} · DEIA`;
  redraw?.();
}

let redraw = null;

const troubled = (bots) => bots.filter((b) => ['quarantined', 'crashed', 'down'].includes(look(b.state).state));

function badge(id, bots) {
  if (id === 'bots' && bots.length) return html`<span class="nav-n">${int(bots.length)}</span>`;
  const working = bots.filter((b) => b.state === 'processing').length;
  if (id === 'chat' && working) return html`<span class="nav-n">${int(working)}<span class="vh"> answering</span></span>`;
  const bad = troubled(bots);
  if (id === 'tree' && bad.length) {
    const s = look(bad[0].state);
    return html`<span class="nav-n t-${s.tone}">${icon(s.icon)}${int(bad.length)}<span class="vh"> in trouble</span></span>`;
  }
  const down = store.state.servers.filter((s) => s.state === 'down').length;
  if (id === 'models' && down) return html`<span class="nav-n t-bad">${icon('s-crashed')}${int(down)}<span class="vh"> down</span></span>`;
  return '';
}

/** The bots that are talked to, with live state: those of the open tabs. */
function tabsNav(bots) {
  const open = Object.values(store.state.chats).map((c) => bots.find((b) => b.id === c.botId)).filter(Boolean);
  const unique = [...new Set(open)].slice(0, 8);
  if (!unique.length) return '';
  return html`<div class="nav-g"><h2 class="nav-h">Open chats</h2><ul>${unique.map((b) => html`<li data-key="${b.id}"><a href="${`/chat/${encodeURIComponent(b.id)}`}" class="nav-a">${stateGlyph(b.state)}<span>${b.name || b.id}</span>${b.status?.queue_depth ? html`<span class="nav-v">${int(b.status.queue_depth)} waiting</span>` : ''}</a></li>`)}</ul></div>`;
}

const SLOT_MS = 5000;
const SLOTS = 120;

function pulse() {
  const now = Date.now();
  const slots = Array.from({ length: SLOTS }, () => ({ n: 0, kind: '' }));
  const counted = { turn: 0, bad: 0, quar: 0 };
  for (const { at, kind } of store.state.pulse) {
    const slot = slots[SLOTS - 1 - Math.floor((now - at) / SLOT_MS)];
    if (!slot) continue;
    counted[kind] += 1;
    slot.n += 1;
    if (kind !== 'turn') slot.kind = kind;
  }
  const bars = slots.map((s, i) => {
    const h = s.kind ? 17 : s.n ? Math.min(17, 3 + s.n * 3) : 1.5;
    return svg`<rect class="${`pu ${s.kind || (s.n ? '' : 'off')}`}" x="${i * 2.5 + 0.5}" y="${20 - h}" width="1.5" height="${h}" rx="0.7"></rect>`;
  });
  const words = `Since this page was opened, at most 10 minutes: ${int(counted.turn)} turns, ${int(counted.bad)} crashes, ${int(counted.quar)} quarantined`;
  return html`<div class="pulse" role="img" aria-label="${words}" title="${words}"><svg viewBox="0 0 301 22" aria-hidden="true">${bars}<path class="pu-base" d="M0 21.5h301"></path></svg><span class="pulse-l num">10 min</span></div>`;
}

function connection({ connection: c, polling }) {
  const [tone, ic, word, fact] = polling ? ['t-warn', 'restart', 'Polling', 'every 3 s']
    : c.name === 'live' ? ['t-ok', 's-ready', 'Live', c.rtt === null ? '' : duration(Math.max(1, Math.round(c.rtt)))]
      : c.name === 'reconnecting' ? ['t-bad', 'wifioff', 'Reconnecting', `try ${c.tries}`]
        : c.name === 'closed' ? ['t-bad', 'wifioff', 'Closed', c.reason] : ['t-mute', 's-starting', 'Connecting', ''];
  return html`<span class="conn ${tone}">${icon(ic)}<span>${word}</span><span class="num conn-n">${fact}</span></span>`;
}

/** One banner a page, the worst wins. */
function banner({ connection: c, servers, polling, storageDown }) {
  if (c.name === 'reconnecting' && Date.now() - c.since > 1500) {
    const wait = Math.max(0, (c.retryAt - Date.now()) / 1000);
    return { tone: 'warn', ic: 'wifioff', what: 'Connection lost.', then: polling ? 'The service answers. This page reads every 3 s meanwhile.' : `Trying again ${wait > 0 ? `in ${int(Math.ceil(wait))} s` : 'now'}; lost ${Date.now() - c.since < 3000 ? 'just now' : ago(c.since)}.`, button: 'app.retry' };
  }
  if (c.name === 'closed') return { tone: 'bad', ic: 'wifioff', what: 'The server closed the connection for good.', then: `${c.reason}. Load the page again to go on.` };
  if (storageDown !== null) return { tone: 'bad', ic: 's-crashed', what: 'The database is not available.', then: `Answers continue and are stored when it is back. New messages are not taken. First seen ${ago(storageDown)}.` };
  if (allDown(servers)) {
    const since = servers.map((s) => s.since).filter(Boolean).sort().at(-1);
    const next = nextTry(servers, Date.now());
    return { tone: 'bad', ic: 's-crashed', what: 'Ollama offline.', then: `No model server has answered${since ? ` since ${when(since)}` : ''}. Messages are stored and run when one is back.${next === null ? '' : ` Next try ${within(next)}.`}`, button: 'server.probeAll', link: ['/models', 'Servers'] };
  }
  return null;
}

const bannerView = (b) => (b ? html`<div class="banner t-${b.tone}" data-key="${b.what.slice(0, 12)}">${icon(b.ic, `t-${b.tone}`)}<p><b>${b.what}</b> <span>${b.then}</span></p>${b.button ? actionButton(b.button, { sm: true }) : ''}${b.link && location.pathname !== b.link[0] ? html`<a class="btn sm" href="${b.link[0]}">${b.link[1]}</a>` : ''}</div>` : '');

const THEMES = { dark: ['light', 'sun'], light: ['dark', 'moon'] };

register({
  'app.theme': {
    label: () => `Switch to the ${THEMES[document.documentElement.dataset.theme][0]} theme`, icon: 'sun', key: 'Ctrl Shift L', group: 'Everywhere', help: 'Dark or light',
    run: () => { setTheme(THEMES[document.documentElement.dataset.theme][0]); redraw?.(); },
  },
  'app.themeChoice': { label: 'Theme', run: (choice) => { setTheme(choice); redraw?.(); } },
  'app.shortcuts': { label: 'All shortcuts', icon: 'key', key: '?', group: 'Everywhere', help: 'This list', run: openShortcuts },
  'app.settings': { label: 'Settings', icon: 'menu', run: () => openSettings({ note: OPEN_NOTE, theme: themeChoice() }) },
  'app.retry': { label: 'Try now', icon: 'restart', run: retryNow },
});

export function mountShell(root, go) {
  for (const [id, label, path, ic, key] of PAGES) {
    register({ [`go.${id}`]: { label, icon: ic, key, group: 'Everywhere', help: `Go to ${label}`, run: () => go(path) } });
  }
  root.append(html`<a class="skip" href="#main">Skip to content</a><div class="app">
    <nav class="side" aria-label="Main"></nav><header class="top"></header>
    <div class="sheet"><div class="banners" role="alert"></div><main class="main" id="main" tabindex="-1"></main></div>
    <nav class="tabbar" aria-label="Main, phone"></nav></div>`);
  const [side, top, banners, tabbar] = ['.side', '.top', '.banners', '.tabbar'].map((s) => root.querySelector(s));
  root.querySelector('.skip').addEventListener('click', (e) => { e.preventDefault(); root.querySelector('.main').focus(); });

  const draw = () => {
    const bots = Object.values(store.state.bots.byId);
    const at = here().name;
    patch(side, html`<a class="brand" href="/bots">${mark()}<span class="brand-t">DEIA</span></a>
      ${GROUPS.map(([group, pages]) => html`<div class="nav-g"><h2 class="nav-h">${group}</h2><ul>${pages.map(([id, label, path, ic, key]) => html`<li><a href="${path}" class="nav-a" aria-current="${id === at ? 'page' : null}" title="${`${label} (${key})`}">${icon(ic)}<span>${label}</span>${badge(id, bots)}</a></li>`)}</ul></div>`)}
      ${tabsNav(bots)}
      <div class="side-f"><p class="open-note" title="${OPEN_NOTE}">${icon('lock')}<span>${OPEN_NOTE}</span></p><button type="button" class="nav-a" data-action="app.settings" title="Settings">${icon('menu')}<span>Settings</span></button></div>`);
    patch(top, html`<div class="top-t"><h1>${title.text}</h1>${title.sub ? html`<span class="top-s">${title.sub}</span>` : ''}</div>
      ${pulse()}<span role="status">${connection(store.state)}</span>
      ${actionButton('app.shortcuts', { only: true, kind: 'ghost no-phone' })}
      ${actionButton('app.theme', { only: true, kind: 'ghost no-phone', ic: THEMES[document.documentElement.dataset.theme][1] })}`);
    patch(banners, bannerView(banner(store.state)));
    patch(tabbar, html`${PAGES.map(([id, label, path, ic]) => html`<a href="${path}" aria-current="${id === at ? 'page' : null}">${icon(ic)}<span>${SHORT[id] ?? label}</span></a>`)}<button type="button" data-action="app.settings">${icon('menu')}<span>More</span></button>`);
  };
  const stop = watch(draw, { every: 1000 });
  redraw = stop.soon;
  onRoute(stop.soon);
  return element(root.querySelector('.main'));
}
