// The drawn tree: positions from the pure layout, one element per node, keyed, so an event touches one node.

import { int, span } from '../format.js';
import { element, html, list, patch, svg } from '../html.js';
import { GROUPS, look } from '../states.js';
import { pips, stateGlyph } from './controls.js';
import { icon } from './icon.js';

const TITLES = { root: 'root', history: 'HistoryActor', state: 'StateActor', broadcast: 'BroadcastActor', inference: 'Inference', tasks: 'Tasks', bots: 'Bots' };
const JUST = 3000;

export const titleOf = (node, nameOf) => TITLES[node.name] ?? nameOf(node.name);
const px = (n) => `${n}px`;

/** Mailbox depth: warn above 2. */
export const mailbox = (n) => html`<span class="mbx num ${n > 2 ? 't-warn' : n ? 't2' : 't3'}" title="Mailbox depth">${icon('queue')}<span class="vh">mailbox </span>${int(n ?? 0)}</span>`;

const serving = (node) => node.children.filter((c) => !['quarantined', 'crashed', 'down', 'terminated', 'restarting'].includes(look(c.state).state)).length;

/** One line under the name of a supervisor. */
export function summary(node) {
  const n = node.children?.length ?? 0;
  if (node.name === 'bots') return n ? `${int(serving(node))} of ${int(n)} serving` : 'no bot yet';
  if (node.name === 'inference') return n ? `${int(n)} ${n === 1 ? 'gate' : 'gates'}, ${int(serving(node))} up` : 'no gate';
  if (node.name === 'tasks') return n ? `${int(n)} running` : 'nothing runs';
  return n ? `${int(n)} children` : '';
}

const strategy = (s) => (s ?? '').replaceAll('_', '-');
export const age = (node, now) => {
  const s = (now - new Date(node.since).getTime()) / 1000;
  return Number.isFinite(s) && s >= 0 ? span(s) : 'not known';
};

/** The state of a supervisor as its worst child makes it. */
export function effective(node) {
  if (node.kind !== 'supervisor' || look(node.state).tone === 'bad') return node.state;
  const bad = (node.children ?? []).some((c) => GROUPS.trouble.includes(look(c.state).state));
  return bad ? 'degraded' : ['ready', 'running', 'up', 'active', 'idle'].includes(node.state) ? 'up' : node.state;
}

export const calmState = (node) => (node.kind === 'worker' && !node.bot && ['ready', 'running', 'idle', 'active'].includes(node.state) ? 'up' : effective(node));

function inner(item, { nameOf, nowOf, now }) {
  const { node, kind } = item;
  const name = titleOf(node, nameOf);
  const left = node.intensity ? pips(node.intensity.left, node.intensity.max, { label: false }) : '';
  switch (kind) {
    case 'root': return html`<span class="tn-h">${stateGlyph(effective(node))}<b>${name}</b></span><span class="tn-s t3">${strategy(node.strategy)}</span><span class="tn-s">${node.intensity ? pips(node.intensity.left, node.intensity.max) : ''}</span><span class="tn-s t3">up ${age(node, now)}</span>`;
    case 'sup': return html`<span class="tn-h">${stateGlyph(calmState(node))}<b class="ell">${name}</b><span class="ord num">${item.order}</span></span>${node.kind === 'supervisor' && item.h > 30 ? html`<span class="tn-s t3">${summary(node)}</span>` : ''}`;
    case 'cell': return stateGlyph(node.state);
    default: {
      const act = item.wide ? nowOf(node) : null;
      return html`${stateGlyph(kind === 'leaf' ? calmState(node) : node.state)}<b class="ell">${name}</b>${act?.text ? html`<span class="tn-m ell ${act.tone ? `t-${act.tone}` : 't3'}">${act.text}</span>` : html`<span class="grow"></span>`}${mailbox(node.mailbox)}${left}`;
    }
  }
}

export class TreeCanvas {
  constructor(host) {
    this.el = element(html`<div class="canvas"><div class="tree" role="tree" aria-label="Supervision tree"></div><svg class="edges" aria-hidden="true"></svg><div class="tree-x"></div></div>`);
    host.append(this.el);
    [this.tree, this.edges, this.extra] = [...this.el.children];
  }

  /** `ctx`: {nameOf, nowOf, now, selected, path (set of paths to the selection), folded} */
  draw(shape, ctx) {
    const { width, height } = shape;
    for (const el of [this.tree, this.edges]) Object.assign(el.style, { width: px(width), height: px(height) });
    const just = (n) => n.restartedAt && ctx.now - new Date(n.restartedAt) < JUST;
    list(this.tree, shape.nodes, {
      key: (i) => i.path,
      version: (i) => JSON.stringify([i.kind, i.x, i.y, i.w, i.h, i.pos, i.size, i.node.state, i.node.mailbox, i.node.intensity?.left, calmState(i.node), i.kind === 'root' ? age(i.node, ctx.now) : '', i.node.children ? summary(i.node) : '', i.wide ? ctx.nowOf(i.node)?.text : '', ctx.selected === i.path, ctx.path.has(i.path), ctx.folded.has(i.path), just(i.node), ctx.nameOf(i.node.name)]),
      render: (i) => {
        const selected = ctx.selected === i.path;
        const state = look(i.node.state).state;
        const cls = [{ root: 'rootn', sup: 'sup', cell: `cell c-${state}` }[i.kind] ?? 'leaf', ctx.path.has(i.path) ? 'path' : '', state === 'quarantined' && i.kind === 'bot' ? 'quar-n' : '', just(i.node) || state === 'restarting' ? 'pulse-n' : ''].join(' ');
        return html`<div class="tn ${cls}" role="treeitem" data-path="${i.path}" aria-level="${i.level}" aria-setsize="${i.size}" aria-posinset="${i.pos}" aria-expanded="${i.node.children?.length ? String(!ctx.folded.has(i.path)) : null}" aria-selected="${String(selected)}" tabindex="${selected ? '0' : '-1'}" aria-label="${i.kind === 'cell' ? `${ctx.nameOf(i.node.name)}, ${look(i.node.state).label}` : null}" title="${i.kind === 'cell' ? ctx.nameOf(i.node.name) : null}"
          style:left="${px(i.x)}" style:top="${px(i.y)}" style:width="${px(i.w)}" style:height="${px(i.h)}">${inner(i, ctx)}</div>`;
      },
    });
    patch(this.edges, [...shape.edges].sort((a, b) => ctx.path.has(a.to) - ctx.path.has(b.to)).map((e) => svg`<path class="${`e ${e.kind} ${ctx.path.has(e.to) ? 'path' : ''}`}" d="${e.d}"></path>`));
    const facts = shape.nodes.filter((i) => i.fact);
    const hive = shape.hive;
    patch(this.extra, html`${facts.map(({ node, fact }) => html`<div class="tfact" aria-hidden="true" data-key="${node.path}" style:left="${px(fact.x)}" style:top="${px(fact.y)}" style:width="${px(fact.w)}"><span class="t3 nowrap ell">${node.kind === 'supervisor' ? summary(node) : `up ${age(node, ctx.now)}${node.restarts ? `, ${int(node.restarts)} restarts` : ''}`}</span><span class="ruler"></span>${mailbox(node.mailbox)}${node.intensity ? pips(node.intensity.left, node.intensity.max, { label: false }) : ''}</div>`)}
      ${hive ? html`<div class="hive" aria-hidden="true" style:left="${px(hive.x)}" style:top="${px(hive.y)}" style:width="${px(hive.w)}" style:height="${px(hive.h)}"><span class="t3">${hive.loud === undefined ? `${int(hive.total)} ${hive.total === 1 ? 'bot' : 'bots'}, trouble first, each with its own budget` : `${int(hive.total)} bots: ${int(hive.loud)} need a look${hive.more ? `, ${int(hive.more)} of them as cells` : ''}`}</span>${hive.counts ? html`<p class="counts">${Object.entries(hive.counts).map(([state, n]) => html`<span class="row g4">${stateGlyph(state)}${int(n)} ${look(state).label.toLowerCase()}</span>`)}</p>` : ''}</div>` : ''}`);
  }

  item(path) {
    return [...this.tree.children].find((el) => el.dataset.path === path);
  }
}
