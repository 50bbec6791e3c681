// Geometry of the supervision tree: a pure function of the snapshot and the size. Three columns, left to right: root,
// its children in start order, their children. Bots stand in one framed block whose number of columns is the smallest
// with which the tree fits the height. Numbers are CSS pixels.

import { inGroup } from './tree.js';
import { look } from '../states.js';

export const SIZE = { root: { x: 16, w: 118, h: 92 }, child: { x: 174, w: 166 }, rest: { x: 380, min: 456 }, row: 30, sup: 46, leaf: 25, pitch: 27, bot: 26, gap: 6, column: 200 };
const CELLS_FROM = 41;
const COUNTS_FROM = 1001;
const TROUBLE_ROWS = 12;
const CELL = 21.8;

const half = (n) => Math.round(n * 10) / 10;

/** An elbow from (x1,y1) to (x2,y2) with rounded corners. */
export function elbow(x1, y1, x2, y2) {
  if (Math.abs(y2 - y1) < 1) return `M${x1} ${half(y1)}H${x2}`;
  const m = x1 + 22;
  const r = Math.min(8, Math.abs(y2 - y1) / 2);
  const s = y2 > y1 ? 1 : -1;
  return `M${x1} ${half(y1)}H${m - r}Q${m} ${half(y1)} ${m} ${half(y1 + s * r)}V${half(y2 - s * r)}Q${m} ${half(y2)} ${m + r} ${half(y2)}H${x2}`;
}

const busy = (node) => look(node.state).state === 'processing';
const needsRow = (node) => inGroup(node.state, 'trouble') || ['queued', 'starting'].includes(look(node.state).state);

/**
 * `bots` are the children of `bots` in the order to be drawn. Returns `{width, height, nodes, edges, hive}`; a node is
 * `{path, node, kind, level, size, pos, x, y, w, h, wide}` in reading order, an edge `{d, kind, to}`.
 */
export function layout(tree, { width, height, bots, folded = new Set() }) {
  const W = Math.max(SIZE.rest.x + SIZE.rest.min + 20, width);
  const restW = W - SIZE.rest.x - 20;
  const nodes = [];
  const edges = [];
  const mids = [];
  const children = tree.children ?? [];
  let hive = null;
  let y = 12;

  const rootNode = { path: tree.path, node: tree, kind: 'root', level: 1, size: 1, pos: 1, x: SIZE.root.x, y: 0, w: SIZE.root.w, h: SIZE.root.h };
  nodes.push(rootNode);

  if (!folded.has(tree.path)) {
    children.forEach((child, i) => {
      const item = { path: child.path, node: child, level: 2, size: children.length, pos: i + 1, x: SIZE.child.x, w: SIZE.child.w, order: i + 1 };
      const isBots = child.name === 'bots';
      const below = folded.has(child.path) ? [] : isBots ? bots : child.children ?? [];
      if (isBots && below.length) {
        const block = hiveOf(below, { x: SIZE.rest.x, y, w: restW, room: height - y - 14 });
        hive = block.frame;
        const mid = y + block.frame.h / 2;
        nodes.push({ ...item, kind: 'sup', y: mid - 30, h: 60 }, ...block.nodes);
        edges.push({ d: `M${SIZE.child.x + SIZE.child.w} ${half(mid)}H${SIZE.rest.x}`, kind: below.some(busy) ? 'flow' : '', to: child.path });
        mids.push({ y: mid, path: child.path, kind: below.some(busy) ? 'flow' : '' });
        y += block.frame.h + SIZE.gap + 2;
        return;
      }
      if (below.length) {
        const blockH = Math.max(SIZE.sup, below.length * SIZE.pitch - 2);
        const top = y + (blockH - (below.length * SIZE.pitch - 2)) / 2;
        const mid = y + blockH / 2;
        nodes.push({ ...item, kind: 'sup', y: mid - SIZE.sup / 2, h: SIZE.sup });
        below.forEach((leaf, n) => {
          const ly = top + n * SIZE.pitch;
          const down = ['down', 'crashed'].includes(look(leaf.state).state);
          nodes.push({ path: leaf.path, node: leaf, kind: 'leaf', level: 3, size: below.length, pos: n + 1, x: SIZE.rest.x, y: ly, w: restW, h: SIZE.leaf, wide: true });
          edges.push({ d: elbow(SIZE.child.x + SIZE.child.w, mid, SIZE.rest.x, ly + SIZE.leaf / 2), kind: down ? 'bad' : busy(leaf) ? 'flow' : '', to: leaf.path });
        });
        mids.push({ y: mid, path: child.path, kind: '' });
        y += blockH + SIZE.gap + 4;
        return;
      }
      nodes.push({ ...item, kind: 'sup', y, h: SIZE.row, fact: { x: SIZE.rest.x, y, w: restW, h: SIZE.row } });
      edges.push({ d: `M${SIZE.child.x + SIZE.child.w} ${y + SIZE.row / 2}H${SIZE.rest.x}`, kind: 'dash', to: null });
      mids.push({ y: y + SIZE.row / 2, path: child.path, kind: '' });
      y += SIZE.row + SIZE.gap;
    });
  }
  const middle = mids.length ? (mids[0].y + mids.at(-1).y) / 2 : 12 + SIZE.root.h / 2;
  rootNode.y = Math.max(12, middle - SIZE.root.h / 2);
  for (const m of mids) edges.unshift({ d: elbow(SIZE.root.x + SIZE.root.w, middle, SIZE.child.x, m.y), kind: m.kind, to: m.path });
  return { width: W, height: Math.max(y + 8, rootNode.y + SIZE.root.h + 12), nodes, edges, hive };
}

/** The framed block of bots: rows; from 41 on the calm ones become cells; from 1,001 on counts. */
function hiveOf(bots, { x, y, w, room }) {
  const inner = w - 20;
  const top = y + 28;
  const place = (node, i, box) => ({ path: node.path, node, level: 3, size: bots.length, pos: i + 1, ...box });
  if (bots.length < CELLS_FROM) {
    const most = Math.max(1, Math.floor((w - 12) / SIZE.column));
    let columns = 1;
    while (columns < most && Math.ceil(bots.length / columns) * SIZE.bot + 35 > room) columns += 1;
    const rows = Math.ceil(bots.length / columns);
    const cw = (inner - 8 * (columns - 1)) / columns;
    const nodes = bots.map((b, i) => place(b, i, { kind: 'bot', x: x + 10 + Math.floor(i / rows) * (cw + 8), y: top + (i % rows) * SIZE.bot, w: cw, h: SIZE.leaf, wide: cw > 280 }));
    return { nodes, frame: { x, y, w, h: rows * SIZE.bot + 35, total: bots.length, columns } };
  }
  const loud = bots.filter(needsRow);
  const shown = loud.slice(0, TROUBLE_ROWS);
  const calm = bots.filter((b) => !shown.includes(b));
  const nodes = shown.map((b, i) => place(b, i, { kind: 'bot', x: x + 10, y: top + i * SIZE.pitch, w: inner, h: SIZE.leaf, wide: true }));
  const cellsTop = top + shown.length * SIZE.pitch + (shown.length ? 6 : 0);
  const frame = { x, y, w, total: bots.length, loud: loud.length, more: loud.length - shown.length };
  if (bots.length >= COUNTS_FROM) {
    const counts = {};
    for (const b of calm) counts[look(b.state).state] = (counts[look(b.state).state] ?? 0) + 1;
    return { nodes, frame: { ...frame, counts, countsAt: cellsTop, h: cellsTop - y + 36 } };
  }
  const columns = Math.max(1, Math.floor(inner / CELL));
  const cw = inner / columns;
  calm.forEach((b, i) => nodes.push(place(b, shown.length + i, { kind: 'cell', x: half(x + 10 + (i % columns) * cw), y: cellsTop + Math.floor(i / columns) * 22, w: half(cw - 3), h: 20 })));
  return { nodes, frame: { ...frame, h: cellsTop - y + Math.ceil(calm.length / columns) * 22 + 8 } };
}
