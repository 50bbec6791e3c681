// The restart recorder: one lane for each child that restarted in the window. Line = up, hatch = down, red tick =
// crash, hollow bar = quarantine. From the restart history that every node carries.

import { clock, count, duration } from '../format.js';
import { html } from '../html.js';
import { isBot, lanes } from '../model/tree.js';
import { segmented } from './controls.js';
import { titleOf } from './tree-canvas.js';

const MAX_LANES = 8;
export const RANGES = { '10m': ['10 min', 600_000], '1h': ['1 h', 3_600_000], '24h': ['24 h', 86_400_000] };

const words = (lane) => {
  const restarts = count(lane.marks.length, 'restart');
  return lane.quarantined ? `${restarts}, then quarantine` : `${restarts}, down ${duration(lane.down)}`;
};

export function recorder(tree, { now, range, nameOf }) {
  const windowMs = RANGES[range][1];
  const all = lanes(tree, { now, windowMs });
  const at = (t) => `${Math.max(0, Math.min(100, ((t - (now - windowMs)) / windowMs) * 100))}%`;
  const width = (ms) => `${Math.max(0, (ms / windowMs) * 100)}%`;
  const ticks = Array.from({ length: 6 }, (_, i) => (i === 5 ? 'now' : clock(now - windowMs + (windowMs / 5) * i)));
  return html`<header class="sect"><h2>Restart recorder</h2><span class="t3 ell">${`last ${RANGES[range][0]}, only children that restarted`}</span>${segmented('Range', 'tree.range', Object.entries(RANGES).map(([value, [label]]) => ({ value, label })), range)}</header>
    ${all.length ? html`<ol class="lanes">${all.slice(0, MAX_LANES).map((lane) => html`<li data-key="${lane.node.path}"><button type="button" class="ell lane-n" data-action="tree.select" data-arg="${lane.node.path}"><b>${titleOf(lane.node, nameOf)}</b> <span class="mono t3">${isBot(lane.parent) ? lane.node.name : lane.node.kind}</span></button>
      <span class="ln" role="img" aria-label="${words(lane)}"><i class="base" style:left="0%" style:width="${lane.quarantined ? at(lane.quarantined) : '100%'}"></i>${lane.marks.map((m) => html`<i class="down" style:left="${at(m.at)}" style:width="${width(m.down)}"></i><i class="cr" title="${m.reason ?? ''}" style:left="${at(m.at)}"></i>`)}${lane.quarantined ? html`<i class="qz" style:left="${at(lane.quarantined)}" style:width="${width(now - lane.quarantined)}"></i>` : ''}</span>
      <span class="num t2 nowrap">${words(lane)}</span></li>`)}</ol>${all.length > MAX_LANES ? html`<p class="t3 lanes-m">${all.length - MAX_LANES} more</p>` : ''}<div class="ax num t3" aria-hidden="true">${ticks.map((t) => html`<span>${t}</span>`)}</div>` : html`<p class="t3 lanes-0">No child restarted in this time.</p>`}`;
}

