// The same tree on a phone: an indented outline of 44 px rows.

import { html, list } from '../html.js';
import { look } from '../states.js';
import { pips, stateGlyph } from './controls.js';
import { icon } from './icon.js';
import { calmState, mailbox, summary, titleOf } from './tree-canvas.js';

/** Rows in reading order; children of folded nodes are left out. */
export function outlineRows(tree, { folded, order }) {
  const rows = [];
  const visit = (node, level, size, pos) => {
    rows.push({ node, level, size, pos });
    if (folded.has(node.path)) return;
    const children = node.name === 'bots' ? order(node.children ?? []) : node.children ?? [];
    children.forEach((child, i) => visit(child, level + 1, children.length, i + 1));
  };
  visit(tree, 1, 1, 1);
  return rows;
}

export function drawOutline(host, rows, ctx) {
  list(host, rows, {
    key: (r) => r.node.path,
    version: (r) => JSON.stringify([r.level, r.pos, r.size, calmState(r.node), r.node.state, r.node.mailbox, r.node.intensity?.left, summary(r.node), ctx.selected === r.node.path, ctx.folded.has(r.node.path), ctx.nameOf(r.node.name)]),
    render: ({ node, level, size, pos }) => {
      const selected = ctx.selected === node.path;
      const folds = node.children?.length;
      return html`<div role="treeitem" data-path="${node.path}" aria-level="${level}" aria-setsize="${size}" aria-posinset="${pos}" aria-selected="${String(selected)}" aria-expanded="${folds ? String(!ctx.folded.has(node.path)) : null}" tabindex="${selected ? '0' : '-1'}" class="ot-r l${level} ${look(node.state).state === 'restarting' ? 'pulse-n' : ''}">${folds ? html`<span class="fold" data-fold>${icon(ctx.folded.has(node.path) ? 'right' : 'down', 't3')}</span>` : html`<span class="sp16"></span>`}${stateGlyph(node.kind === 'supervisor' || level < 3 ? calmState(node) : node.state)}<b class="ell">${titleOf(node, ctx.nameOf)}</b><span class="t3 grow ell">${node.kind === 'supervisor' ? summary(node) : ''}</span>${node.kind === 'worker' ? mailbox(node.mailbox) : ''}${node.kind === 'worker' && node.intensity ? pips(node.intensity.left, node.intensity.max, { label: false }) : ''}</div>`;
    },
  });
}

