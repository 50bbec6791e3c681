// What can be done with a bot, wherever it is shown. Each action says why it is not possible.

import * as api from './api.js';
import { guard } from './components/dialog.js';
import { openLaunch } from './components/launch-dialog.js';
import { toast } from './components/toast.js';
import { count } from './format.js';
import { go } from './router.js';
import { look } from './states.js';
import { store } from './store.js';

export const botOf = (id) => store.state.bots.byId[id];
export const nameOf = (id) => botOf(id)?.name || id;
export const chatPath = (id) => `/chat/${encodeURIComponent(id)}`;
export const treePath = (id) => `/supervision?at=${encodeURIComponent(`bots/${id}`)}`;

const state = (id) => look(botOf(id)?.state).state;
const known = (id) => Boolean(botOf(id)) || 'This bot does not exist any more';

/** Shows the new state at once; the answer of the server is the truth. */
async function change(id, during, call, done) {
  const before = botOf(id);
  store.dispatch({ type: 'bot', bot: { ...before, state: during, status: { ...before.status, state: during } } });
  try {
    store.dispatch({ type: 'bot', bot: await call(id) });
    toast(done);
  } catch (error) {
    if (botOf(id)?.state === during) store.dispatch({ type: 'bot', bot: before });
    throw error;
  }
}

export const botActions = {
  'bot.launch': { label: 'Launch bot', icon: 'plus', key: 'N', group: 'Bots', help: 'Launch a bot', where: () => (location.pathname.startsWith('/bots') ? null : undefined), run: () => openLaunch() },
  'bot.chat': { label: 'Open chat', icon: 'chat', can: known, run: (id) => go(chatPath(id)) },
  'bot.inTree': { label: 'Show in the supervision tree', icon: 'tree', can: known, run: (id) => go(treePath(id)) },
  'bot.start': {
    label: (id) => (state(id) === 'quarantined' ? 'Release and start' : 'Start'), icon: 'play',
    can: (id) => (['terminated', 'quarantined'].includes(state(id)) ? true : `${nameOf(id)} is running already`),
    run: (id) => change(id, 'starting', api.startBot, `${nameOf(id)} started.`),
  },
  'bot.stop': {
    label: 'Stop', icon: 'stop',
    can: (id) => (state(id) === 'terminated' ? `${nameOf(id)} is stopped already` : known(id)),
    run: (id) => change(id, 'stopping', api.stopBot, `${nameOf(id)} stopped. Start it again when you need it.`),
  },
  'bot.restart': {
    label: 'Restart', icon: 'restart',
    can: (id) => (state(id) === 'terminated' ? `${nameOf(id)} is stopped. Start it instead` : known(id)),
    run: (id) => change(id, 'restarting', api.restartBot, `${nameOf(id)} restarted with a fresh budget.`),
  },
  'bot.kill': {
    label: 'Kill', icon: 'kill', danger: true,
    can: (id) => (['terminated', 'quarantined'].includes(state(id)) ? `${nameOf(id)} does not run` : known(id)),
    run: (id) => {
      const bot = botOf(id);
      const left = bot.status?.restarts_left;
      const running = bot.status?.active_turns?.length;
      const waiting = bot.status?.queue_depth;
      guard({
        title: `Kill ${nameOf(id)}?`, ic: 'kill', id, confirm: `Kill ${id}`,
        consequences: [
          ['stop', running ? 'The running turn ends as interrupted. What was written is kept.' : 'No turn is running now.'],
          ['queue', waiting ? `${count(waiting, 'waiting message')} are stored and run after the restart.` : 'Messages sent meanwhile are stored and run after the restart.'],
          ['restart', left === undefined ? 'Its supervisor starts it again.' : left > 0 ? `Its supervisor starts it again. This uses 1 of the ${count(left, 'restart')} left.` : 'No restart is left: it will be quarantined.'],
          ['s-up', 'No other bot is touched.'],
        ],
        reason: 'Reason, goes to the audit log',
        hint: 'To stop it for good, use Stop instead. Stop does not restart.',
        run: async ({ reason }) => {
          await api.killBot(id, reason || undefined);
          toast(`${nameOf(id)} was killed. Its supervisor brings it back.`);
        },
      });
    },
  },
  'bot.delete': {
    label: 'Delete', icon: 'trash', danger: true, can: known,
    run: (id) => {
      guard({
        title: `Delete ${nameOf(id)}?`, ic: 'trash', id, confirm: `Delete ${id}`,
        consequences: [
          ['stop', 'The bot stops. A running turn ends and what was written is kept.'],
          ['x', 'It disappears from this list and from the tree. This cannot be undone.'],
          ['s-up', 'Its messages stay stored, unless you tick the box below.'],
        ],
        extra: 'Delete all its messages too',
        hint: 'To keep the bot and only pause it, use Stop instead.',
        run: async ({ extra }) => {
          const name = nameOf(id);
          await api.deleteBot(id, extra);
          store.dispatch({ type: 'bot_gone', id });
          toast(extra ? `${name} and its messages are deleted.` : `${name} is deleted. Its messages are kept.`);
        },
      });
    },
  },
};

export const BOT_MENU = ['bot.chat', 'bot.inTree', 'bot.start', 'bot.restart', 'bot.stop', 'bot.kill', 'bot.delete'];
