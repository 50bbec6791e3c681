import assert from 'node:assert/strict';
import { test } from 'node:test';
import { layout } from '../../../assets/js/model/tree-layout.js';

const worker = (name, state = 'ready') => ({ name, path: `root/${name}`, kind: 'worker', state, children: [] });
const tree = (n, states = () => 'ready') => {
  const bots = Array.from({ length: n }, (_, i) => ({ ...worker(`BOT-${i}`, states(i)), path: `root/bots/BOT-${i}` }));
  const children = [worker('history'), worker('state'), worker('broadcast'),
    { ...worker('inference'), kind: 'supervisor', children: [{ ...worker('gpu-a'), path: 'root/inference/gpu-a' }, { ...worker('cpu-c', 'down'), path: 'root/inference/cpu-c' }] },
    { ...worker('tasks'), kind: 'supervisor' }, { ...worker('bots'), kind: 'supervisor', children: bots }];
  return { tree: { name: 'root', path: 'root', kind: 'supervisor', state: 'ready', children }, bots };
};
const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

for (const n of [0, 1, 24, 40, 41, 120, 500]) {
  for (const size of [{ width: 300, height: 400 }, { width: 850, height: 620 }, { width: 1400, height: 900 }]) {
    test(`${n} bots at ${size.width} x ${size.height}: nothing overlaps, all inside, each once`, () => {
      const input = tree(n, (i) => (i % 9 === 0 ? 'restarting' : 'ready'));
      const shape = layout(input.tree, { ...size, bots: input.bots });
      assert.equal(shape.nodes.length, 1 + 6 + 2 + n);
      assert.equal(new Set(shape.nodes.map((i) => i.path)).size, shape.nodes.length);
      for (const a of shape.nodes) {
        assert.ok(a.x >= 0 && a.y >= 0 && a.x + a.w <= shape.width + 1 && a.y + a.h <= shape.height + 1, a.path);
        for (const b of shape.nodes) if (a !== b) assert.ok(!overlaps(a, b), `${a.path} and ${b.path}`);
      }
    });
  }
}

test('24 bots fit without scrolling at 1440 x 900', () => {
  const input = tree(24);
  const shape = layout(input.tree, { width: 854, height: 620, bots: input.bots });
  assert.ok(shape.height <= 640, `height ${shape.height}`);
});

test('the smallest number of columns that fits is taken', () => {
  const input = tree(6);
  assert.equal(layout(input.tree, { width: 1400, height: 900, bots: input.bots }).hive.columns, 1);
});

test('from 41 bots trouble keeps its rows and the calm ones become cells', () => {
  const input = tree(120, (i) => (i < 3 ? 'quarantined' : 'ready'));
  const shape = layout(input.tree, { width: 854, height: 620, bots: input.bots });
  assert.equal(shape.nodes.filter((i) => i.kind === 'bot').length, 3);
  assert.equal(shape.nodes.filter((i) => i.kind === 'cell').length, 117);
});

test('from 1,001 bots the calm ones are counted', () => {
  const input = tree(1200);
  const shape = layout(input.tree, { width: 854, height: 620, bots: input.bots });
  assert.deepEqual(shape.hive.counts, { ready: 1200 });
});

test('a folded supervisor hides its children', () => {
  const input = tree(5);
  const shape = layout(input.tree, { width: 854, height: 620, bots: input.bots, folded: new Set(['root/bots']) });
  assert.equal(shape.nodes.length, 9);
});

test('the same input gives the same output', () => {
  const input = tree(24);
  const at = { width: 854, height: 620, bots: input.bots };
  assert.deepEqual(layout(input.tree, at), layout(input.tree, at));
});

test('the edge to a gate that is down says so', () => {
  const input = tree(1);
  const edge = layout(input.tree, { width: 854, height: 620, bots: input.bots }).edges.find((e) => e.to === 'root/inference/cpu-c');
  assert.equal(edge.kind, 'bad');
});
