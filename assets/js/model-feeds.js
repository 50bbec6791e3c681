// Models, their servers and pulls into the store. The topic `models` tells what changed for good; slots, lines, times until
// the next try and the progress of pulls do not travel in events and are read while somebody looks at them.

import * as api from './api.js';
import { polls, socket, throttled } from './feeds.js';
import { store } from './store.js';

const SERVERS_MS = 1000;
const PULLS_MS = 1000;
const MODELS_MS = 5000;
let watchers = 0;

const readServers = async () => store.dispatch({ type: 'servers', items: await api.servers() });
const readPulls = async () => store.dispatch({ type: 'pulls', items: await api.pulls() });
export async function readModels() {
  try {
    store.dispatch({ type: 'models', items: await api.models() });
  } catch (error) {
    store.dispatch({ type: 'models_failed', error: error.message });
  }
}

export const serversSoon = throttled(readServers, SERVERS_MS);
export const pullsSoon = throttled(readPulls, 200);
export const modelsSoon = throttled(readModels, 200);

const healthy = (server) => server.state === 'up' && (server.breaker?.state ?? 'closed') === 'closed' && !server.breaker?.paused_models?.length;

/** State of the servers for banner and waiting cards; read on while one is in trouble, for the time of the next try. */
export function followServers() {
  polls.add(readServers);
  setInterval(() => { if (watchers || !store.state.servers.every(healthy)) serversSoon(); }, SERVERS_MS);
  socket.subscribe('models', {
    snapshot: ({ snapshot }) => {
      if (!snapshot) return serversSoon();
      store.dispatch({ type: 'servers', items: snapshot.servers ?? [] });
      store.dispatch({ type: 'models', items: snapshot.models ?? [] });
    },
    event: ({ event, data }) => {
      if (data.removed) store.dispatch({ type: 'server_gone', name: data.server.name });
      else if (event === 'server_state_changed') store.dispatch({ type: 'server', server: data.server });
      else serversSoon();
      if (watchers) modelsSoon();
    },
    refused: serversSoon,
  });
}

/** Everything about models, while a page shows it. */
export function followModels() {
  watchers += 1;
  const reads = [[readModels, modelsSoon, MODELS_MS], [readPulls, pullsSoon, PULLS_MS]];
  serversSoon();
  const beats = reads.map(([read, soon, every]) => {
    polls.add(read);
    soon();
    return setInterval(soon, every);
  });
  return () => {
    watchers -= 1;
    beats.forEach(clearInterval);
    for (const [read] of reads) polls.delete(read);
  };
}
