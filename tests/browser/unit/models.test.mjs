import assert from 'node:assert/strict';
import { test } from 'node:test';
import { againWords, loadedOn, modelState, onDisk, percentOf, placesOf, pullFacts, pullState, pullWords, rows, same, shownPulls, usersOf } from '../../../assets/js/model/models.js';

const place = (name, more = {}) => ({ name, loaded: false, expires_at: null, size_vram: 0, ...more });
const model = (name, servers = [place('a')], more = {}) => ({ name, size: 2e9, servers, capabilities: [], ...more });
const pull = (id, name, state, more = {}) => ({ id, model: name, server: 'a', state, began_at: `2026-01-01T00:00:0${id}Z`, progress: {}, error: null, ...more });
const joined = (more) => rows({ models: [], pulls: [], bots: [], ...more });

test('a model without a tag is the latest one', () => {
  assert.ok(same('llama3.2', 'llama3.2:latest'));
  assert.ok(!same('llama3.2:1b', 'llama3.2'));
});

test('the bots that use a model are its own and those that fall back on it', () => {
  const bots = [{ id: 'x', config: { model: 'm:latest', fallback: [] } }, { id: 'y', config: { model: 'n', fallback: ['m'] } }, { id: 'z', config: { model: 'n' } }, { id: 'bare' }];
  assert.deepEqual(usersOf('m', bots).map((b) => b.id), ['x', 'y']);
});

test('a pull says how far it is, how fast, and how it ended', () => {
  const half = { completed: 1.24e9, total: 2e9, rate_bytes_s: 48e6, eta_s: 16 };
  assert.equal(percentOf(pull(1, 'm', 'running')), null);
  assert.equal(percentOf(pull(1, 'm', 'running', { progress: half })), 62);
  assert.equal(pullFacts(pull(1, 'm', 'running', { progress: half })), '1.2 GB of 2.0 GB, 48.0 MB/s, about 16 s');
  assert.equal(pullFacts(pull(1, 'm', 'failed', { progress: half })), '1.2 GB of 2.0 GB');
  assert.equal(pullFacts(pull(1, 'm', 'running')), '');
  const label = (state, progress = half) => pullState(pull(1, 'm', state, { progress })).label;
  assert.deepEqual([label('running'), label('failed'), label('cancelled'), label('failed', {}), label('done')], ['pulling', 'cut off at 62%', 'cancelled at 62%', 'failed', 'pulled']);
});

test('a pull names its server also when it has ended, wherever it could be another one', () => {
  const [one, two] = [[{ name: 'a' }], [{ name: 'a' }, { name: 'b' }]];
  const half = { progress: { completed: 1, total: 2 } };
  assert.equal(pullWords(pull(1, 'm', 'running'), one), 'begins, to a');
  assert.equal(pullWords(pull(1, 'm', 'cancelled'), one), 'What is there is kept for another pull.');
  assert.equal(pullWords(pull(1, 'm', 'cancelled'), two), 'To a: What is there is kept for another pull.');
  assert.equal(pullWords(pull(1, 'm', 'failed', { error: { detail: 'It was cut.' } }), two), 'To a: It was cut.');
  assert.equal(pullWords(pull(1, 'm', 'cancelled', { server: 'gone' }), one), 'To gone: What is there is kept for another pull.');
  assert.deepEqual([againWords(pull(1, 'm', 'failed'), one), againWords(pull(1, 'm', 'failed', half), one)], ['Try again', 'Resume']);
  assert.deepEqual([againWords(pull(1, 'm', 'failed'), two), againWords(pull(1, 'm', 'failed', half), two)], ['Try again on a', 'Resume on a']);
});

test('the servers of a model are named, of many the first', () => {
  assert.equal(placesOf(model('m', [])), 'none');
  assert.equal(placesOf(model('m', ['a', 'b', 'c'].map((n) => place(n)))), 'a, b, c');
  assert.equal(placesOf(model('m', ['a', 'b', 'c', 'd'].map((n) => place(n)))), 'a, b and 2 more');
});

test('of several pulls of a model to a server the newest is shown, unless it is over and well or was put away', () => {
  const pulls = [pull(1, 'm', 'failed'), pull(2, 'm', 'running'), pull(3, 'n', 'done'), pull(4, 'o', 'cancelled'), pull(5, 'm', 'failed', { server: 'b' })];
  assert.deepEqual(shownPulls(pulls).map((p) => p.id).sort(), [2, 4, 5]);
  assert.deepEqual(shownPulls(pulls, new Set([4])).map((p) => p.id).sort(), [2, 5]);
});

test('rows hold every model once, and also one that is only being pulled', () => {
  const found = joined({ models: [model('b'), model('a')], pulls: [pull(1, 'c', 'running'), pull(2, 'a:latest', 'running'), pull(3, 'c', 'failed', { server: 'z' })] });
  assert.deepEqual(found.map((r) => [r.name, Boolean(r.model), r.pulls.length]), [['a', true, 1], ['b', true, 0], ['c', false, 2]]);
});

test('the state of a model: pulled before loading before loaded before on disk', () => {
  const label = (row) => modelState(row, 5000).label;
  const loaded = model('m', [place('a', { loaded: true }), place('b')]);
  assert.equal(label({ model: loaded, pulls: [pull(1, 'm', 'running')], loading: 2000 }), 'pulling');
  assert.equal(label({ model: loaded, pulls: [], loading: 2000 }), 'loading, 3 s');
  assert.equal(label({ model: loaded, pulls: [], loading: null }), 'loaded on 1');
  assert.equal(label({ model: model('m', [place('a', { loaded: true })]), pulls: [], loading: null }), 'loaded on a');
  assert.equal(label({ model: model('m'), pulls: [pull(1, 'm', 'failed')], loading: null }), 'on disk');
  assert.equal(label({ model: null, pulls: [pull(1, 'm', 'failed')], loading: null }), 'failed');
  assert.equal(label({ model: model('m', []), pulls: [], loading: null }), 'on no server');
});

test('memory and disk are summed over servers', () => {
  const models = [model('m', [place('a', { loaded: true, size_vram: 7, expires_at: 'soon' }), place('b')]), model('s', [place('a')], { simulated: true })];
  assert.deepEqual(loadedOn('a', models), [{ name: 'm', size: 7, expires_at: 'soon' }]);
  assert.equal(onDisk(models), 4e9);
});
