import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NONE, byteLength, merge, whole } from '../../../assets/js/model/offsets.js';

const TEXT = 'Grüße, 世界! 🦀 and a tail with ASCII only. Ω';

test('byte length is that of UTF-8, surrogate pairs included', () => {
  for (const text of ['', 'a', 'é', '世', '🦀', TEXT]) assert.equal(byteLength(text), Buffer.byteLength(text));
});

test('pieces in order give the text', () => {
  let known = NONE;
  for (const c of TEXT) known = merge(known, known.bytes, c);
  assert.deepEqual(known, whole(TEXT));
});

test('repeated, overlapping and differently cut pieces change nothing', () => {
  const chars = [...TEXT];
  let seed = 7;
  const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
  for (let round = 0; round < 200; round += 1) {
    let known = NONE;
    let at = 0;
    while (at < chars.length) {
      const from = Math.max(0, at - random(5));
      const to = Math.min(chars.length, at + 1 + random(6));
      known = merge(known, Buffer.byteLength(chars.slice(0, from).join('')), chars.slice(from, to).join(''));
      at = Math.max(at, to);
    }
    assert.equal(known.text, TEXT);
    assert.equal(known.bytes, Buffer.byteLength(TEXT));
  }
});

test('an old piece returns the same object', () => {
  const known = whole('hello');
  assert.equal(merge(known, 0, 'hell'), known);
  assert.equal(merge(known, 5, ''), known);
});

test('a missing piece is a gap and not a hole in the text', () => {
  const known = merge(whole('abc'), 5, 'x');
  assert.equal(known.gap, true);
  assert.equal(known.text, 'abc');
});
