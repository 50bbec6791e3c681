// The pure reducer: (state, action) → state. The same input gives the same state; nothing here reads a clock,
// the network or the DOM. Unknown actions and events change nothing.

import * as chats from './chat.js';
import { applyTreeEvent } from './tree.js';

export const initial = {
  connection: { name: 'connecting', tries: 0, since: 0, retryAt: null, rtt: null, reason: null },
  polling: false,
  bots: { loaded: false, byId: {} },
  facts: {},         // bot id → what its last crash or restart said
  pulse: [],         // the last ten minutes: {at, kind}
  servers: [],
  storageDown: null, // since when the database does not answer, as this page saw it
  models: { loaded: false, items: [], error: null },
  pulls: [],
  tree: null,
  treeAt: 0,
  chats: {},         // conversation id → chat
  conversations: {}, // bot id → [Conversation]
  changes: {},       // bot id → how often one of its conversations was changed in the list by itself
  commands: [],
};

const byId = (items) => Object.fromEntries(items.map((item) => [item.id, item]));
const PULSE_MS = 600_000;

/** A list that was asked for when this was another number is older than what is known. */
export const changesOf = (state, botId) => state.changes[botId] ?? 0;
const changed = (state, botId) => ({ ...state, changes: { ...state.changes, [botId]: changesOf(state, botId) + 1 } });

function putBot(state, id, change) {
  const bot = state.bots.byId[id];
  if (!bot) return state;
  const { status, ...rest } = change;
  return { ...state, bots: { ...state.bots, byId: { ...state.bots.byId, [id]: { ...bot, ...rest, status: { ...bot.status, ...status } } } } };
}

function beat(state, event, kind) {
  const at = new Date(event.time).getTime();
  return { ...state, pulse: [...state.pulse.filter((p) => at - p.at < PULSE_MS), { at, kind }] };
}

function botEvent(state, event) {
  const { data } = event;
  const id = data.bot_id;
  const fact = (more) => ({ ...state.facts, [id]: { at: event.time, event: event.event, ...more } });
  switch (event.event) {
    case 'bot_launched':
    case 'bot_state_changed':
    case 'bot_stopped': {
      const next = putBot(state, id, { state: data.state, status: { state: data.state } });
      return data.state === 'processing' && event.event === 'bot_state_changed' ? beat(next, event, 'turn') : next;
    }
    case 'bot_deleted': {
      const { [id]: gone, ...rest } = state.bots.byId;
      return gone ? { ...state, bots: { ...state.bots, byId: rest } } : state;
    }
    case 'bot_crashed':
      return beat({ ...putBot(state, id, { state: 'crashed', status: { state: 'crashed', restarts_left: data.restarts_left, restart_count: data.restarts } }),
        facts: fact({ reason: data.reason, backoff_ms: data.backoff_ms }) }, event, 'bad');
    case 'bot_restarted':
      return { ...putBot(state, id, { state: 'ready', status: { state: 'ready', restarts_left: data.restarts_left, restart_count: data.restarts, uptime_seconds: 0, updated_at: event.time } }),
        facts: fact({ reason: data.reason, took_ms: data.took_ms, backoff_ms: data.backoff_ms }) };
    case 'bot_quarantined':
      return beat({ ...putBot(state, id, { state: 'quarantined', status: { state: 'quarantined', restarts_left: 0, restart_count: data.restarts } }),
        facts: fact({ reason: data.reason }) }, event, 'quar');
    default: return state;
  }
}

function inChat(state, id, change) {
  const chat = state.chats[id];
  if (!chat) return state;
  const next = change(chat);
  return next === chat ? state : { ...state, chats: { ...state.chats, [id]: next } };
}

export function reduce(state, action) {
  switch (action.type) {
    case 'connection': return { ...state, connection: action.connection };
    case 'polling': return state.polling === action.on ? state : { ...state, polling: action.on };

    case 'bots': return { ...state, bots: { loaded: true, byId: byId(action.items) } };
    case 'bot': return { ...state, bots: { ...state.bots, byId: { ...state.bots.byId, [action.bot.id]: action.bot } } };
    case 'bot_gone': return botEvent(state, { event: 'bot_deleted', data: { bot_id: action.id } });
    case 'bots_event': return botEvent(state, action.event);

    case 'models': return { ...state, models: { loaded: true, items: action.items, error: null } };
    case 'models_failed': return { ...state, models: { ...state.models, error: action.error } };
    case 'storage': {
      const storageDown = action.down ? state.storageDown ?? action.at : null;
      return storageDown === state.storageDown ? state : { ...state, storageDown };
    }
    case 'servers': return { ...state, servers: action.items };
    case 'server': {
      const known = state.servers.some((s) => s.name === action.server.name);
      return { ...state, servers: known ? state.servers.map((s) => (s.name === action.server.name ? { ...s, ...action.server } : s)) : [...state.servers, action.server] };
    }
    case 'server_gone': return { ...state, servers: state.servers.filter((s) => s.name !== action.name) };
    case 'pulls': return { ...state, pulls: action.items };

    case 'tree': return { ...state, tree: action.tree, treeAt: action.at };
    case 'tree_event': {
      const tree = state.tree && applyTreeEvent(state.tree, action.event);
      return tree === state.tree ? state : { ...state, tree };
    }

    case 'commands': return { ...state, commands: action.items };
    case 'conversations':
      return action.since === changesOf(state, action.botId) ? { ...state, conversations: { ...state.conversations, [action.botId]: action.items } } : state;
    case 'conversation_told': {
      // By the topic of its bot. An open one is told of by its own topic too, in the order of its messages.
      const { id, bot_id: botId } = action.conversation;
      const listed = state.conversations[botId]?.some((c) => c.id === id);
      return listed && state.chats[id] ? state : reduce(state, { ...action, type: 'conversation' });
    }
    case 'conversation': {
      const items = state.conversations[action.conversation.bot_id] ?? [];
      const known = items.some((c) => c.id === action.conversation.id);
      const next = known ? items.map((c) => (c.id === action.conversation.id ? action.conversation : c)) : [action.conversation, ...items];
      const listed = { ...changed(state, action.conversation.bot_id), conversations: { ...state.conversations, [action.conversation.bot_id]: next } };
      return inChat(listed, action.conversation.id, (c) => ({ ...c, conversation: action.conversation }));
    }
    case 'conversation_gone':
      return { ...changed(state, action.botId), conversations: { ...state.conversations, [action.botId]: (state.conversations[action.botId] ?? []).filter((c) => c.id !== action.id) } };

    case 'chat_open':
      return state.chats[action.id] ? state : { ...state, chats: { ...state.chats, [action.id]: chats.emptyChat(action.botId, action.id) } };
    case 'chat_closed': {
      const { [action.id]: gone, ...rest } = state.chats;
      return gone ? { ...state, chats: rest } : state;
    }
    case 'chat_snapshot': return inChat(state, action.id, (c) => chats.applyRunning(chats.applySnapshot(c, action.snapshot, action.gap), action.running));
    case 'chat_resumed': return inChat(state, action.id, (c) => chats.applyRunning({ ...c, gap: false }, action.running));
    case 'chat_event': return inChat(state, action.id, (c) => chats.applyEvent(c, action.event));
    case 'chat_older': return inChat(state, action.id, (c) => chats.applyOlder(c, action.page));
    case 'chat_turn': return inChat(state, action.id, (c) => chats.applyTurn(c, action.turn));
    case 'chat_sending': return inChat(state, action.id, (c) => chats.sending(c, action.draft));
    case 'chat_send_failed': return inChat(state, action.id, (c) => chats.sendingFailed(c, action.key));
    case 'chat_acknowledged': return inChat(state, action.id, (c) => chats.acknowledged(c, action.key, action.answer));
    case 'chat_stopping': return inChat(state, action.id, (c) => ({ ...c, turns: { ...c.turns, [action.turnId]: { ...c.turns[action.turnId], stopping: action.on } } }));
    case 'chat_read': return inChat(state, action.id, (c) => (c.unread || c.notice ? { ...c, unread: 0, notice: action.keepNotice ? c.notice : null } : c));
    case 'chat_notice': return inChat(state, action.id, (c) => ({ ...c, notice: action.notice }));
    case 'chat_gap_handled': return inChat(state, action.id, (c) => ({ ...c, gap: false }));
    default: return state;
  }
}
