// Live data: topics of the socket into the store, with reading over HTTP every 3 s while there is no socket.

import * as api from './api.js';
import { isOver, leafShown, offsets, waitingTurns } from './model/chat.js';
import { changesOf } from './model/reducer.js';
import { allDown } from './model/servers.js';
import { Socket } from './socket.js';
import { store } from './store.js';

const POLL_MS = 3000;
const STORAGE_MS = 5000;
const BOT_MS = 1000;
/** After these another number of the bot's turns waits. */
const TURN_MOVES = ['turn_accepted', 'turn_queued', 'turn_started', 'turn_completed', 'turn_stopped', 'turn_failed', 'turn_interrupted'];
export const socket = new Socket(`${location.origin.replace(/^http/, 'ws')}/ws`);
/** What is read every 3 s while there is no socket. */
export const polls = new Set();
let pollTimer = 0;

export const retryNow = () => socket.retryNow();

export function connect() {
  socket.addEventListener('state', () => {
    store.dispatch({ type: 'connection', connection: socket.state });
    clearTimeout(pollTimer);
    if (socket.state.name === 'live') store.dispatch({ type: 'polling', on: false });
    else pollTimer = setTimeout(poll, POLL_MS);
  });
  socket.connect();
}

async function poll() {
  if (socket.state.name === 'live') return;
  const results = await Promise.allSettled([...polls].map((read) => read()));
  const answered = results.some((r) => r.status === 'fulfilled' || r.reason?.status > 0);
  if (socket.state.name === 'live') return;
  store.dispatch({ type: 'polling', on: answered });
  pollTimer = setTimeout(poll, POLL_MS);
}

/** Reads again soon, at most once per `every` ms however often it is asked. */
export function throttled(read, every) {
  let timer = 0;
  let last = 0;
  const run = () => {
    timer = 0;
    last = Date.now();
    if (!document.hidden) read().catch(() => { /* the next event or poll tries again */ });
  };
  const soon = (delay = 0) => { timer ||= setTimeout(run, Math.max(delay, last + every - Date.now())); };
  soon.cancel = () => clearTimeout(timer);
  return soon;
}

const readBots = async () => store.dispatch({ type: 'bots', items: await api.listBots() });

/** A bot as it is now; an import may have put another main conversation in the place of its own. */
function changed(bot) {
  const moved = store.state.bots.byId[bot.id]?.main_conversation_id !== bot.main_conversation_id;
  store.dispatch({ type: 'bot', bot });
  if (moved && store.state.conversations[bot.id]) readConversations(bot.id).catch(() => { /* the next change */ });
}

/** The list of a bot's conversations, read again where an event changed it before the answer was there. */
async function readConversations(botId) {
  let since;
  do {
    since = changesOf(store.state, botId);
    store.dispatch({ type: 'conversations', botId, items: await api.conversations(botId), since });
  } while (changesOf(store.state, botId) !== since);
}

/** The roster of bots: followed as long as the page is open. */
export function followBots() {
  const refresh = throttled(readBots, 2000);
  polls.add(readBots);
  socket.subscribe('bots', {
    snapshot: (frame) => { if (frame.snapshot) store.dispatch({ type: 'bots', items: frame.snapshot.bots }); },
    event: (event) => {
      store.dispatch({ type: 'bots_event', event });
      store.dispatch({ type: 'tree_event', event });
      const known = event.data.bot_id in store.state.bots.byId;
      // The list knows whether an unknown one is still new or already gone.
      if (known && event.event === 'bot_config_changed') api.getBot(event.data.bot_id).then(changed, () => refresh());
      else refresh(known ? 1000 : 0); // counters (tokens, queue, uptime) do not travel in events
    },
    refused: refresh,
  });
}

/** Whether the database answers, for the banner. Nobody can tell by an event, because events are stored first. */
export function followStorage() {
  const read = async () => store.dispatch({ type: 'storage', down: (await api.storage()).status === 'down', at: Date.now() });
  const refresh = throttled(read, STORAGE_MS);
  setInterval(refresh, STORAGE_MS);
  refresh();
}

/** The tree, while a page shows it. Events change it at once; the whole is read again for counters. */
export function followTree({ live }) {
  const read = async () => store.dispatch({ type: 'tree', tree: await api.tree(), at: Date.now() });
  const refresh = throttled(() => (live() ? read() : Promise.resolve()), 1000);
  const beat = setInterval(() => { if (socket.state.name === 'live') refresh(); }, 5000);
  polls.add(read);
  const end = socket.subscribe('tree', {
    snapshot: (frame) => { if (frame.snapshot) store.dispatch({ type: 'tree', tree: frame.snapshot.tree, at: Date.now() }); else refresh(); },
    event: (event) => {
      if (!live()) return;
      store.dispatch({ type: 'tree_event', event });
      refresh(200);
    },
    refused: () => refresh(),
  });
  const stopBots = store.state.bots;
  const onChange = () => { if (store.state.bots !== stopBots && live()) refresh(500); };
  store.addEventListener('change', onChange);
  return () => {
    end();
    polls.delete(read);
    clearInterval(beat);
    refresh.cancel();
    store.removeEventListener('change', onChange);
  };
}

/** The list of a bot's conversations, also as others change it; `gone(id)` where one was deleted. */
export function followConversations(botId, gone) {
  const read = () => readConversations(botId);
  const refresh = () => read().catch(() => { /* the next poll or snapshot tries again */ });
  polls.add(read);
  const end = socket.subscribe(`bot:${botId}`, {
    snapshot: (frame) => { if (frame.recovered === false) refresh(); },
    event: ({ event, data }) => {
      if (event === 'conversation_changed' && data.conversation) store.dispatch({ type: 'conversation_told', conversation: data.conversation });
      if (event !== 'history_cleared' || !data.removed) return;
      store.dispatch({ type: 'conversation_gone', botId, id: data.conversation_id });
      gone(data.conversation_id);
    },
    refused: refresh,
  });
  refresh();
  return () => {
    end();
    polls.delete(read);
  };
}

/** One conversation, while it is open in a tab. */
export function followConversation(botId, id) {
  store.dispatch({ type: 'chat_open', botId, id });
  const topic = `conversation:${id}`;
  const chat = () => store.state.chats[id];
  const asked = new Set();

  const readTurns = () => {
    // How a partial answer ended, and the place of a waiting one, are facts of its turn.
    for (const message of Object.values(chat()?.messages ?? {})) {
      const turn = message.turn_id;
      const known = chat().turns[turn];
      // What was acknowledged is no end: a snapshot may be the first word of that.
      const needed = message.sender === 'bot' && turn && message.state !== 'complete' && !isOver(known?.full) && known?.state !== 'generating';
      const question = `${turn} ${message.state}`;
      if (needed && !asked.has(question)) {
        asked.add(question);
        api.getTurn(turn).then((t) => store.dispatch({ type: 'chat_turn', id, turn: t }), () => asked.delete(question));
      }
    }
    const last = [...(chat()?.order ?? [])].reverse().find((k) => k.startsWith('turn:'))?.slice(5);
    if (last && !chat().turns[last]?.full && !asked.has(last)) {
      asked.add(last);
      api.getTurn(last).then((t) => store.dispatch({ type: 'chat_turn', id, turn: t }), () => asked.delete(last));
    }
  };

  const read = async () => {
    const page = await api.history(botId, { conversation_id: id });
    store.dispatch({ type: 'chat_snapshot', id, snapshot: { messages: page.items, has_more: page.has_more } });
    readTurns();
  };

  // Until when a turn is held does not travel in events, and without a socket nothing does.
  const beat = setInterval(() => {
    if (socket.state.name === 'live' && !allDown(store.state.servers)) return;
    for (const { id: turn } of waitingTurns(chat())) api.getTurn(turn).then((t) => store.dispatch({ type: 'chat_turn', id, turn: t }), () => { /* the next beat */ });
  }, POLL_MS);

  // How many of its turns wait does not travel in events, and a turn that waits changes nothing else of its bot.
  const botSoon = throttled(async () => store.dispatch({ type: 'bot', bot: await api.getBot(botId) }), BOT_MS);

  polls.add(read);
  const end = socket.subscribe(topic, {
    render: 'html',
    offsets: () => offsets(chat()),
    snapshot: (frame) => {
      if (frame.snapshot) store.dispatch({ type: 'chat_snapshot', id, snapshot: frame.snapshot, running: frame.running, gap: frame.recovered === false });
      else store.dispatch({ type: 'chat_resumed', id, running: frame.running });
      readTurns();
    },
    event: (event) => {
      store.dispatch({ type: 'chat_event', id, event });
      if (TURN_MOVES.includes(event.event)) botSoon();
      if (chat()?.gap) {
        store.dispatch({ type: 'chat_gap_handled', id });
        socket.resync(topic);
      }
      if (event.event === 'conversation_changed') store.dispatch({ type: 'conversation', conversation: event.data.conversation });
      // Another branch is shown, or messages are gone that this conversation goes on from: what it shows is read anew.
      const turned = event.event === 'conversation_changed' && event.data.conversation.leaf_message_id !== leafShown(chat());
      if (turned || event.event === 'history_cleared') socket.resync(topic);
      if (event.event === 'message_received') readConversations(botId).catch(() => { /* the next change */ });
    },
    refused: () => { read().catch(() => { /* shown as loading; polling tries again */ }); },
  });
  return () => {
    end();
    clearInterval(beat);
    botSoon.cancel();
    polls.delete(read);
    store.dispatch({ type: 'chat_closed', id });
  };
}
