// Chat: tabs of conversations, messages with streaming, composer, inspector.
// Topics `conversation:{id}` of every open tab and `bot:{id}` of their bots; `bots` gives the states.

import { register, run } from '../actions.js';
import * as api from '../api.js';
import { botOf, nameOf, treePath } from '../bot-actions.js';
import { chatTabs } from '../components/chat-tabs.js';
import { Composer } from '../components/composer.js';
import { conversationList, titleOf } from '../components/conversations.js';
import { guard, openDialog } from '../components/dialog.js';
import { icon } from '../components/icon.js';
import { inspector } from '../components/inspector.js';
import { openMenu } from '../components/menu.js';
import { MessageList } from '../components/message-list.js';
import { setTitle } from '../components/shell.js';
import { toast } from '../components/toast.js';
import { followConversation, followConversations } from '../feeds.js';
import { int } from '../format.js';
import { html, patch } from '../html.js';
import { contextShown, isOver, isOwn, keyOf, runningTurn } from '../model/chat.js';
import { allDown } from '../model/servers.js';
import { recall, remember } from '../prefs.js';
import { go, here } from '../router.js';
import { store, watch } from '../store.js';

const MAX_TABS = 8;
const tabKey = (t) => `${t.bot} ${t.c ?? ''}`;
const tabPath = (t) => `/chat/${encodeURIComponent(t.bot)}${t.c ? `?c=${encodeURIComponent(t.c)}` : ''}`;
/** The conversation of a tab: the named one, else the bot's main one. */
const conversationOf = (t) => t.c ?? botOf(t.bot)?.main_conversation_id ?? null;
const copyText = async (text) => { await navigator.clipboard.writeText(text); toast('Copied.'); };

export function mount(root) {
  let tabs = recall('tabs', []).filter((t) => t?.bot);
  let current = null; // key of the chosen tab
  let filter = '';
  const follows = new Map(); // conversation id → stop
  const lists = new Map(); // bot id → stop
  let spoken = 0;
  let focusOn = null; // {key, action}: a button to focus once the message is shown
  let stop = null;

  root.append(html`<div class="tabs"></div><div class="chat"><nav class="cvs" aria-label="Conversations"></nav>
    <section class="conv" id="conv" role="tabpanel" aria-label="Conversation" aria-busy="true"><h2 class="vh">Messages</h2><div class="msgs-w"></div><p class="vh" role="status"></p><div class="comp-h"></div></section>
    <aside class="insp" aria-label="About this turn"></aside></div><div class="none"></div>`);
  const [tabsEl, chatEl, listEl, convEl, sideEl, noneEl, statusEl] = ['.tabs', '.chat', '.cvs', '.conv', '.insp', '.none', '.conv > [role=status]'].map((s) => root.querySelector(s));
  const messages = new MessageList(root.querySelector('.msgs-w'), { older: loadOlder });
  const composer = new Composer(root.querySelector('.comp-h'), { send });

  if (!store.state.commands.length) api.commands().then((items) => store.dispatch({ type: 'commands', items }), () => { /* no completion then */ });

  const tab = () => tabs.find((t) => tabKey(t) === current) ?? null;
  const conversationId = () => (tab() ? conversationOf(tab()) : null);
  const chat = () => store.state.chats[conversationId()];
  const save = () => remember('tabs', tabs);

  /** Takes the place that the address names. */
  function arrive({ params, query }) {
    const [botId] = params;
    if (!botId) {
      const first = tabs[0] ?? Object.values(store.state.bots.byId).map((b) => ({ bot: b.id, c: null }))[0];
      if (first) go(tabPath(first), { replace: true });
      return;
    }
    const wanted = { bot: botId, c: query.get('c') };
    if (wanted.c && wanted.c === botOf(botId)?.main_conversation_id) wanted.c = null;
    current = tabKey(wanted);
    if (!tabs.some((t) => tabKey(t) === current)) tabs = [...tabs, wanted].slice(-MAX_TABS);
    save();
    chatEl.classList.remove('list-open', 'side-open');
    stop?.soon();
  }

  function follow() {
    const wanted = new Set();
    for (const t of tabs) {
      const id = botOf(t.bot) && conversationOf(t);
      if (!id) continue;
      wanted.add(id);
      if (!follows.has(id)) follows.set(id, followConversation(t.bot, id));
      if (!lists.has(t.bot)) lists.set(t.bot, followConversations(t.bot, (gone) => leave({ bot: t.bot, c: gone })));
    }
    for (const [bot, end] of lists) {
      if (tabs.some((t) => t.bot === bot && botOf(bot))) continue;
      end();
      lists.delete(bot);
    }
    for (const [id, end] of follows) {
      if (wanted.has(id)) continue;
      end();
      follows.delete(id);
    }
  }

  async function send(id, content, key, more = {}) {
    const t = tab();
    const known = store.state.chats[id];
    store.dispatch({ type: 'chat_sending', id, draft: { key, content } });
    messages.follow();
    try {
      const answer = await api.send({ bot_id: known?.botId ?? t.bot, conversation_id: id, content, ...more }, key);
      store.dispatch({ type: 'chat_acknowledged', id, key, answer });
    } catch (error) {
      store.dispatch({ type: 'chat_send_failed', id, key });
      throw error;
    }
  }

  async function loadOlder() {
    const c = chat();
    const first = c?.order.map((k) => c.messages[k]).find((m) => m.id);
    if (!c?.hasMore || !first) return;
    const page = await api.history(c.botId, { conversation_id: c.id, before: first.id });
    store.dispatch({ type: 'chat_older', id: c.id, page: { items: page.items, hasMore: page.has_more } });
  }

  /** The turn that the inspector is about: the one running, else the last. */
  const shownTurn = (c) => {
    const last = [...(c?.order ?? [])].reverse().find((k) => k.startsWith('turn:') && c.turns[k.slice(5)]);
    return runningTurn(c) ?? (last ? c.turns[last.slice(5)] : null);
  };

  function speak(c, turn) {
    const text = !turn || !c ? '' : turn.state === 'generating' ? `${nameOf(c.botId)} answers` : isOver(turn) ? `Answer ${turn.state}` : '';
    if (statusEl.textContent === text || Date.now() - spoken < 5000) return;
    spoken = Date.now();
    statusEl.textContent = text;
  }

  function draw() {
    const { bots, servers, connection } = store.state;
    if (!current && bots.loaded) arrive(here());
    follow();
    const t = tab();
    const bot = t && botOf(t.bot);
    const c = chat();
    const missing = !t || (bots.loaded && !bot);
    chatEl.hidden = missing;
    tabsEl.hidden = !tabs.length;
    patch(noneEl, !missing ? '' : bots.loaded ? nobody(t) : '');
    noneEl.hidden = !missing;
    patch(tabsEl, chatTabs(tabs.map((x) => ({ key: tabKey(x), botId: x.bot, bot: botOf(x.bot), chat: store.state.chats[conversationOf(x)], conversation: store.state.conversations[x.bot]?.find((k) => k.id === conversationOf(x)) })), current));
    if (missing || !bot) {
      setTitle('Chat', missing && bots.loaded && t ? 'no such bot' : '');
      return;
    }
    const conversation = store.state.conversations[t.bot]?.find((k) => k.id === c?.id) ?? c?.conversation;
    setTitle(bot.name || bot.id, conversation ? titleOf(conversation) : '');
    if (c?.unread && !document.hidden) store.dispatch({ type: 'chat_read', id: c.id, keepNotice: true });
    const turn = shownTurn(c);
    const offline = allDown(servers);
    messages.draw(c, { name: bot.name || bot.id, model: bot.config?.model ?? '', lost: connection.name !== 'live', servers, busy: Boolean(runningTurn(c)), now: Date.now() });
    const wanted = focusOn && root.querySelector(`article[data-key="${CSS.escape(focusOn.key)}"] [data-action="${focusOn.action}"]`);
    if (wanted) {
      focusOn = null;
      wanted.focus();
    }
    composer.open(c?.id ?? conversationId());
    const stopped = bot.state === 'terminated';
    const quarantined = bot.state === 'quarantined';
    composer.draw({
      running: runningTurn(c), offline, model: bot.config?.model, context: contextShown(c, turn),
      can: !stopped && !quarantined, why: stopped ? `${bot.name || bot.id} is stopped. Start it to go on.` : quarantined ? `${bot.name || bot.id} is quarantined. Restart it when the cause is gone.` : '',
    });
    patch(listEl, conversationList({ filter, current: c?.id, open: [...new Set(tabs.map((x) => x.bot))], chats: store.state.chats, conversations: store.state.conversations, bots: bots.byId }));
    patch(sideEl, inspector(turn, bot, Date.now(), contextShown(c, turn)));
    convEl.setAttribute('aria-busy', String(!c?.loaded));
    speak(c, turn);
  }

  stop = watch(draw, { every: 500 });
  arrive(here());
  stop.soon();

  const toggle = (name) => () => {
    chatEl.classList.toggle(name);
    const pane = name === 'list-open' ? listEl : sideEl;
    if (chatEl.classList.contains(name)) pane.querySelector('.insp-x button')?.focus();
  };
  const focused = () => document.activeElement?.closest?.('article[data-key]')?.dataset.key;
  const textOf = (key) => {
    const c = chat();
    const turn = key.startsWith('turn:') && c.turns[key.slice(5)];
    return turn && !isOver(turn) && turn.state === 'generating' ? turn.content.text : c.messages[key]?.content ?? '';
  };
  const focusedIf = (fits) => {
    const key = focused();
    const message = key && chat()?.messages[key];
    return message && fits(key, message) ? key : undefined;
  };
  const siblings = (key) => chat()?.messages[key]?.siblings;
  /** True where no answer is being written or waits here; the path must not turn under it. */
  const quiet = () => (runningTurn(chat()) ? 'Wait for the end of the answer, or stop it' : true);
  /** The message to edit: the one named, else the last one that a person said. */
  const asked = (key) => {
    const c = chat();
    const last = c?.order.findLast((k) => c.messages[k].sender === 'user' && c.messages[k].turn_id);
    return c?.messages[key || last];
  };
  /** Shows the branch of the version before or after a message, where it was last continued. */
  async function choose(key, step) {
    const { id, botId, messages: all } = chat();
    const { siblings: { ids } } = await api.message(botId, all[key].id, id);
    const beside = ids[ids.indexOf(all[key].id) + step];
    if (!beside) return;
    const other = await api.message(botId, beside, id);
    // The event of this change makes every page read the conversation anew.
    focusOn = { key: keyOf(other), action: step < 0 ? 'chat.older' : 'chat.newer' };
    try {
      await api.patchConversation(botId, id, { leaf_message_id: other.newest_below });
    } catch (error) {
      focusOn = null;
      throw error;
    }
  }
  const pair = (arg) => {
    const [botId, id] = arg.split(' ');
    return { botId, id, conversation: store.state.conversations[botId]?.find((k) => k.id === id) };
  };
  const closeTab = (key) => {
    const at = tabs.findIndex((t) => tabKey(t) === key);
    tabs = tabs.filter((t) => tabKey(t) !== key);
    save();
    if (key !== current) { stop.soon(); return; }
    current = null;
    const next = tabs[Math.min(at, tabs.length - 1)];
    go(next ? tabPath(next) : '/bots');
  };
  /** Somebody deleted what a tab shows. */
  const leave = (t) => {
    if (!tabs.some((x) => tabKey(x) === tabKey(t))) return;
    closeTab(tabKey(t));
    toast('A conversation that was open here was deleted.');
  };

  const off = register({
    'chat.stop': {
      label: 'Stop', icon: 'stop', key: 'Escape', where: () => runningTurn(chat())?.id,
      run: async (turnId) => {
        const { id } = chat();
        store.dispatch({ type: 'chat_stopping', id, turnId, on: true });
        try {
          store.dispatch({ type: 'chat_turn', id, turn: await api.stopTurn(turnId) });
        } catch (error) {
          store.dispatch({ type: 'chat_stopping', id, turnId, on: false });
          throw error;
        }
      },
    },
    'chat.resend': { label: 'Retry', run: () => composer.submit() },
    'chat.regenerate': {
      label: 'Regenerate', icon: 'restart', key: 'R', group: 'Chat', help: 'Regenerate the answer', where: () => focusedIf((key, m) => key.startsWith('turn:') && isOwn(chat(), m)),
      can: () => quiet(),
      run: async (key) => {
        messages.follow();
        // The new answer comes with the events of the conversation.
        await api.regenerate(key.slice(5), crypto.randomUUID());
      },
    },
    'chat.edit': {
      label: 'Edit', icon: 'edit', key: 'E', group: 'Chat', help: 'Edit message', where: () => focusedIf((_, m) => m.sender === 'user' && m.turn_id),
      can: (key) => (asked(key) ? quiet() : false),
      run: (key) => composer.edit(asked(key)),
    },
    'chat.editEnd': { label: 'Cancel', run: () => composer.editEnd() },
    'chat.fork': {
      label: 'Fork from here', icon: 'fork', key: 'F', group: 'Chat', help: 'Fork from message', where: () => focusedIf((_, m) => m.id),
      can: (key) => (chat()?.messages[key]?.state === 'pending' ? 'Wait for the end of the answer, or stop it' : true),
      run: async (key) => {
        const c = chat();
        const conversation = store.state.conversations[c.botId]?.find((k) => k.id === c.id) ?? c.conversation;
        const title = `Fork of ${titleOf(conversation)}`.slice(0, 100);
        const made = await api.newConversation(c.botId, { title, from_message_id: c.messages[key].id });
        store.dispatch({ type: 'conversation', conversation: made });
        go(tabPath({ bot: made.bot_id, c: made.id }));
        toast('This conversation goes on from that message. The other one stays as it is.');
        composer.focus();
      },
    },
    'chat.older': { label: 'Earlier version', icon: 'left', can: (key) => (siblings(key)?.index > 1 ? quiet() : 'This is the first version'), run: (key) => choose(key, -1) },
    'chat.newer': { label: 'Later version', icon: 'right', can: (key) => (siblings(key)?.index < siblings(key)?.count ? quiet() : 'This is the last version'), run: (key) => choose(key, 1) },
    'chat.copy': { label: 'Copy', icon: 'copy', key: 'C', group: 'Chat', help: 'Copy message', where: focused, run: (key) => copyText(textOf(key)) },
    'chat.copyCode': { label: 'Copy', run: (_, from) => copyText(from.closest('figure').querySelector('pre').textContent) },
    'chat.crash': { label: 'See the crash', icon: 'tree', run: () => go(treePath(tab().bot)) },
    'chat.raise': {
      label: () => `Raise to ${int((botOf(tab()?.bot)?.config?.options?.num_ctx ?? 4096) * 2)}`,
      run: async () => {
        const bot = botOf(tab().bot);
        const numCtx = (bot.config.options?.num_ctx ?? 4096) * 2;
        store.dispatch({ type: 'bot', bot: await api.patchBot(bot.id, { config: { options: { num_ctx: numCtx } } }) });
        toast(`Context window is ${int(numCtx)} tokens from the next turn on.`);
      },
    },
    'chat.side': { label: 'About this turn', icon: 'info', run: toggle('side-open') },
    'chat.list': { label: 'Conversations', icon: 'menu', run: toggle('list-open') },
    'chat.end': { label: 'Follow the end', icon: 'down', key: 'End', group: 'Chat', help: 'Follow the answer', where: () => null, run: () => messages.follow() },
    'chat.tab': { label: 'Open tab', key: 'Alt 1', keyHelp: 'Alt 1 to 9', group: 'Chat', help: 'Tab 1 to 9', keys: Array.from({ length: 8 }, (_, i) => `Alt ${i + 2}`), where: (e, key) => { const t = tabs[Number(key.at(-1)) - 1]; return t && tabKey(t); }, run: (key) => { const t = tabs.find((x) => tabKey(x) === key); if (t) go(tabPath(t)); } },
    'chat.close': { label: 'Close tab', icon: 'x', key: 'Alt W', group: 'Chat', where: () => null, run: (key) => closeTab(key || current) },
    'chat.new': {
      label: 'New conversation', icon: 'plus', key: 'Ctrl Shift O', group: 'Chat', where: () => null,
      can: () => (tab() && botOf(tab().bot) ? true : 'Open a bot first'),
      run: async () => {
        const made = await api.newConversation(tab().bot);
        store.dispatch({ type: 'conversation', conversation: made });
        go(tabPath({ bot: made.bot_id, c: made.id }));
        composer.focus();
      },
    },
    'chat.convMenu': { label: 'Actions', run: (arg, from) => openMenu(from, 'Conversation', ['chat.rename', 'chat.archive', 'chat.delete'], arg) },
    'chat.rename': { label: 'Rename', icon: 'edit', run: (arg) => rename(pair(arg)) },
    'chat.archive': {
      label: 'Archive', icon: 'download', can: (arg) => (pair(arg).conversation?.main ? 'The main conversation stays' : true),
      run: async (arg) => {
        const { botId, id } = pair(arg);
        store.dispatch({ type: 'conversation', conversation: await api.patchConversation(botId, id, { archived: true }) });
        if (tabs.some((t) => t.c === id)) closeTab(tabKey({ bot: botId, c: id }));
      },
    },
    'chat.delete': {
      label: 'Delete', icon: 'trash', danger: true, can: (arg) => (pair(arg).conversation?.main ? 'The main conversation stays. /clear empties it' : true),
      run: (arg) => {
        const { botId, id, conversation } = pair(arg);
        guard({
          title: `Delete "${titleOf(conversation)}"?`, ic: 'trash', id: botId, confirm: 'Delete the conversation',
          consequences: [['x', `${int(conversation.message_count ?? 0)} messages are deleted. This cannot be undone.`], ['s-up', `${nameOf(botId)} and its other conversations stay.`]],
          hint: 'To keep the messages, archive the conversation instead.',
          run: async () => {
            await api.deleteConversation(botId, id);
            store.dispatch({ type: 'conversation_gone', botId, id });
            closeTab(tabKey({ bot: botId, c: id }));
          },
        });
      },
    },
  });

  const onInput = (e) => {
    if (e.target.id !== 'cv-filter') return;
    filter = e.target.value;
    stop.soon();
  };
  const onKey = (e) => {
    if (e.key !== 'Escape' || !chatEl.matches('.list-open, .side-open')) return;
    e.stopPropagation();
    chatEl.classList.remove('list-open', 'side-open');
  };
  const onMiddle = (e) => {
    const key = e.button === 1 && e.target.closest('[role=tab]')?.dataset.arg;
    if (key) run('chat.close', key);
  };
  root.addEventListener('input', onInput);
  root.addEventListener('keydown', onKey, true);
  root.addEventListener('auxclick', onMiddle);

  return {
    moved: arrive,
    unmount() {
      stop();
      off();
      messages.end();
      for (const end of [...follows.values(), ...lists.values()]) end();
      root.removeEventListener('input', onInput);
      root.removeEventListener('keydown', onKey, true);
      root.removeEventListener('auxclick', onMiddle);
    },
  };
}

function rename({ botId, id, conversation }) {
  openDialog({
    title: 'Rename conversation', cls: 'narrow', state: { title: conversation?.title ?? '' },
    body: (d) => html`<div class="field"><label for="cv-title">Title</label><div class="inp"><input id="cv-title" maxlength="200" autocomplete="off" .value="${d.state.title}"></div></div>`,
    footer: () => html`<span class="grow"></span><button type="button" class="btn ghost" data-close>Cancel</button><button type="submit" class="btn primary">Rename</button>`,
    submit: async (d) => {
      const title = d.el.querySelector('#cv-title').value.trim();
      store.dispatch({ type: 'conversation', conversation: await api.patchConversation(botId, id, { title }) });
      d.close();
    },
    onOpen: (d) => d.el.addEventListener('input', (e) => { d.state.title = e.target.value; }),
  });
}

const nobody = (t) => html`<div class="empty">${icon('chat', 'big')}<h2>${t ? html`There is no bot <span class="mono">${t.bot}</span>.` : 'No bot to chat with yet'}</h2><p>${t ? 'It may have been deleted. Its messages are kept unless they were deleted too.' : 'Launch a bot, then write to it here.'}</p><div class="row">${t ? html`<button type="button" class="btn" data-action="chat.close">Close this tab</button>` : ''}<a class="btn primary" href="/bots">Go to the bots</a></div></div>`;

