// What can be done with model servers and models, wherever they are shown.

import * as api from './api.js';
import { guard } from './components/dialog.js';
import { openAddServer } from './components/server-dialog.js';
import { toast } from './components/toast.js';
import { count } from './format.js';
import { modelsSoon, pullsSoon, serversSoon } from './model-feeds.js';
import { usersOf } from './model/models.js';
import { go } from './router.js';
import { store } from './store.js';

const server = (name) => store.state.servers.find((s) => s.name === name);
const model = (name) => store.state.models.items.find((m) => m.name === name);
const bots = () => Object.values(store.state.bots.byId);
const known = (name) => Boolean(server(name)) || 'This server does not exist any more';
const onServer = (name) => (model(name)?.servers.length ? true : 'No server that answers has it');
/** "server model", as the argument of an action on one place. */
const place = (arg) => [arg.slice(0, arg.indexOf(' ')), arg.slice(arg.indexOf(' ') + 1)];

const put = (answer) => store.dispatch({ type: 'server', server: answer });

async function probe(name) {
  const now = await api.probeServer(name);
  put(now);
  modelsSoon();
  return now;
}

function remove(name) {
  const { slots, queue } = server(name);
  guard({
    title: `Remove ${name}?`, ic: 'trash', id: name, confirm: `Remove ${name}`,
    consequences: [
      ['s-stopping', slots?.busy ? `${count(slots.busy, 'turn')} that ${slots.busy === 1 ? 'runs' : 'run'} there ${slots.busy === 1 ? 'goes' : 'go'} on to ${slots.busy === 1 ? 'its' : 'their'} end; no new ones are sent.` : 'No turn is sent there any more.'],
      ['queue', queue?.depth ? `${count(queue.depth, 'waiting turn')} ${queue.depth === 1 ? 'moves' : 'move'} to another server that has the model.` : 'Nothing waits there.'],
      ['s-up', 'The server itself and its models are not touched. It can be added again.'],
    ],
    hint: 'To give it a rest and keep it in the list, use Drain instead.',
    run: async () => {
      await api.removeServer(name);
      store.dispatch({ type: 'server_gone', name });
      modelsSoon();
      toast(`${name} is removed.`);
    },
  });
}

/** Deletes a model from one server or from all; the bots that use it are named first. */
function removeModel(name) {
  const users = usersOf(name, bots());
  const places = model(name).servers.map((s) => s.name);
  const named = users.slice(0, 5).map((b) => b.name || b.id).join(', ');
  guard({
    title: `Delete ${name}?`, ic: 'trash', id: name, confirm: 'Delete the model',
    consequences: [
      users.length ? ['bots', `${named}${users.length > 5 ? ` and ${users.length - 5} more` : ''} ${users.length === 1 ? 'uses' : 'use'} it and cannot answer without it.`] : ['bots', 'No bot uses it.'],
      ['trash', 'Its files are deleted on the server. To have it again, it must be pulled again.'],
    ],
    choice: places.length > 1 ? { label: 'Delete it from', options: [['', `all ${places.length} servers`], ...places.map((p) => [p, p])] } : null,
    hint: 'To free only the memory that it takes, use Unload instead.',
    run: async ({ choice }) => {
      const done = await api.deleteModel(name, choice || undefined, users.length > 0);
      modelsSoon();
      tell(`${name} is deleted from ${done.servers.join(', ')}.`, done);
    },
  });
}

export const serverActions = {
  'server.add': { label: 'Add server', icon: 'plus', key: 'N', group: 'Models', help: 'Add a server', where: () => (location.pathname.startsWith('/models') ? null : undefined), run: () => openAddServer() },
  'server.probe': {
    label: 'Probe now', icon: 'restart', can: known,
    run: async (name) => {
      const now = await probe(name);
      toast(now.state === 'down' ? `${name} does not answer.` : `${name} answers.`, { tone: now.state === 'down' ? 'warn' : 'ok' });
    },
  },
  'server.probeAll': {
    label: 'Try now', icon: 'restart',
    run: async () => {
      const all = await Promise.all(store.state.servers.map((s) => probe(s.name)));
      const up = all.filter((s) => s.state !== 'down');
      toast(up.length ? `${up.map((s) => s.name).join(', ')} ${up.length === 1 ? 'answers' : 'answer'}.` : 'No model server answers.', { tone: up.length ? 'ok' : 'warn' });
    },
  },
  'server.drain': { label: 'Drain', icon: 'pause', can: (name) => (server(name)?.state === 'draining' ? 'It is drained already' : known(name)), run: async (name) => { put(await api.drainServer(name)); toast(`${name} gets no new turns.`); } },
  'server.resume': { label: 'Resume', icon: 'play', can: (name) => (server(name)?.state === 'draining' ? true : 'It is not drained'), run: async (name) => { put(await api.resumeServer(name)); toast(`${name} gets turns again.`); } },
  'server.remove': { label: 'Remove', icon: 'trash', danger: true, can: known, run: remove },
  'model.bots': { label: (name) => `Show its ${count(usersOf(name, bots()).length, 'bot')}`, icon: 'bots', run: (name) => go(`/bots?q=${encodeURIComponent(`model:${name}`)}`) },
  'model.unload': { label: 'Unload', icon: 'x', can: (name) => (model(name)?.servers.some((s) => s.loaded) ? true : 'It is in no memory'), run: (name) => unload(name) },
  'model.unloadAt': { label: 'Unload', icon: 'x', run: (arg) => unload(place(arg)[1], place(arg)[0]) },
  'model.pullAgain': {
    label: 'Pull again', icon: 'download', can: onServer,
    run: async (name) => { await api.pullModel(name, model(name).servers[0].name); pullsSoon(); },
  },
  'model.resume': { label: 'Resume', icon: 'download', run: async (arg) => { await api.pullModel(place(arg)[1], place(arg)[0]); pullsSoon(); } },
  'model.cancel': { label: 'Cancel', icon: 'x', run: async (id) => { await api.cancelPull(id); pullsSoon(); } },
  'model.delete': { label: 'Delete', icon: 'trash', danger: true, can: onServer, run: removeModel },
};

async function unload(name, at) {
  const done = await api.unloadModel(name, at);
  modelsSoon();
  serversSoon();
  tell(`${name} is unloaded from ${done.servers.join(', ')}.`, done);
}

/** What was done, and on which servers it was not. */
function tell(words, { failed = [] }) {
  const not = failed.map((f) => `${f.server}: ${f.problem.detail}`);
  toast([words, ...not].join(' '), { tone: not.length ? 'warn' : 'ok' });
}

export const SERVER_MENU = ['server.probe', 'server.drain', 'server.resume', 'server.remove'];
export const MODEL_MENU = ['model.preload', 'model.unload', 'model.pullAgain', 'model.bots', 'model.delete'];
