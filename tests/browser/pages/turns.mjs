// A turn in the chat: its place in the line, a full queue, thinking, tools, the context and its cut.

import assert from 'node:assert/strict';
import { conversation } from '../conversation.mjs';
import { check, expected } from '../harness.mjs';
import { startService } from '../service.mjs';
import { letGo, openPage, reload, until, visit } from '../support.mjs';

export default async function run({ browser, allProblems }) {
  const { url, api, stop } = await startService({ names: ['gpu-a'], queueLimit: 2 });
  const { page, context, problems } = await openPage(browser);
  const { messages, lastReply, say, begun, answered, storedReply } = conversation(page, api);
  const launch = (id, config) => api('POST', '/api/bot/launch', { bot_id: id, name: id, config });
  const send = async (bot) => {
    const made = (await api('POST', `/api/chat/${bot}/conversations`, {})).body.id;
    return (await api('POST', '/api/chat/send?wait=false', { bot_id: bot, conversation_id: made, content: 'go' })).body.turn.id;
  };
  const end = (turn) => api('POST', `/api/turn/${turn}/stop`);
  const wait = messages.locator('.wait');

  await launch('busy', { model: 'sim:tokens=20000,gap_ms=20' });
  await launch('reader', { model: 'simulated' });
  await launch('short', { model: 'simulated', options: { num_predict: 5 } });
  await launch('thinker', { model: 'sim:think,tokens=5,gap_ms=20,hold_at=12', think: true });
  await launch('clock', { model: 'simulated', tools: [{ type: 'function', function: { name: 'current_time', parameters: { type: 'object', properties: { timezone: { type: 'string' } } } } }] });
  await launch('small', { model: 'sim:tokens=60', options: { num_ctx: 512 } });

  await check('a waiting turn shows place, server and what it waits for, and moves up', async () => {
    const running = await send('busy');
    await until('the slot is taken', async () => (await api('GET', '/api/servers')).body.items[0].slots.busy === 1);
    const ahead = await send('busy');
    await until('one waits', async () => (await api('GET', '/api/servers')).body.items[0].queue.depth === 1);
    await visit(page, '/chat/reader', url);
    await say('Hello there');
    await wait.getByText('2nd', { exact: true }).waitFor();
    await wait.getByText('The only slot of gpu-a is busy.').waitFor();
    await until('its place in words', async () => /^2nd in line at gpu-a/.test(await wait.getAttribute('aria-label')));
    await until('both that wait', async () => (await wait.locator('.waiter').count()) === 2);
    const figure = page.locator('.insp dt', { hasText: /^Waiting$/ }).locator('+ dd');
    await until('the pane counts it', async () => (await figure.innerText()) === '1');
    await page.locator('.insp section', { hasText: 'Restart budget' }).getByText('Queued', { exact: true }).waitFor();
    await reload(page);
    await wait.getByText('2nd', { exact: true }).waitFor();
    await end(ahead);
    await wait.getByText('1st', { exact: true }).waitFor();
    await end(running);
    await answered();
    await until('nobody waits', async () => (await figure.innerText()) === '0');
  });

  await check('a full queue is told in words with the time to wait, the text stays and can be sent again', async () => {
    const turns = [await send('busy')];
    await until('the slot is taken', async () => (await api('GET', '/api/servers')).body.items[0].slots.busy === 1);
    turns.push(await send('busy'), await send('busy'));
    await until('the line is full', async () => (await api('GET', '/api/servers')).body.items[0].queue.depth === 2);
    await say('please keep me');
    // In one wait: the time to wait is told until it is over.
    await page.locator('.lost', { hasText: /Not sent\..*2 turns wait for gpu-a\..*Try again in \d+ s/ }).waitFor();
    assert.equal(await page.locator('#msg').inputValue(), 'please keep me');
    for (const turn of turns) await end(turn);
    await until('the line is empty', async () => (await api('GET', '/api/servers')).body.items[0].queue.depth === 0);
    await page.locator('[data-action="chat.resend"]').click();
    await messages.locator('.bub', { hasText: 'please keep me' }).waitFor();
    await answered();
    await page.locator('.lost').waitFor({ state: 'detached' });
    await expected(problems, /status of 429/);
  });

  await check('an answer that was cut at its longest length says so, also after a reload; a whole one does not', async () => {
    const cut = lastReply().locator('.end', { hasText: 'Cut: the answer reached its longest length.' });
    assert.equal(await cut.count(), 0);
    await visit(page, '/chat/short', url);
    await say('count to 100');
    await answered();
    await cut.waitFor();
    await reload(page);
    await cut.waitFor();
  });

  await check('thinking streams open, folds to one line when the answer begins, and opens again', async () => {
    await visit(page, '/chat/thinker', url);
    await say('What is it?');
    const think = lastReply().locator('details.think');
    await until('open thinking', async () => (await think.count()) && think.evaluate((e) => e.open && /^Thinking/.test(e.innerText) && e.textContent.length > 30));
    await letGo(api);
    await think.getByText(/^Thought for/).waitFor();
    assert.equal(await think.evaluate((e) => e.open), false);
    await answered();
    // 18 tokens of thinking: this one is held in its answer, to be opened before its end.
    await api('PATCH', '/api/bot/thinker', { config: { model: 'sim:think,tokens=5,gap_ms=20,hold_at=20' } });
    await say('And now?');
    await begun();
    await think.getByText(/^Thought for/).waitFor();
    await think.locator('summary').focus();
    await page.keyboard.press('Enter');
    await until('it is open', () => think.evaluate((e) => e.open));
    assert.ok(await lastReply().locator('.live-l').count(), 'the answer had ended before');
    await letGo(api);
    await answered();
    assert.equal(await think.evaluate((e) => e.open), true, 'the end of the answer closes what the reader opened');
    await reload(page);
    await lastReply().locator('details.think').getByText(/^Thought/).waitFor();
  });

  await check('the context meter and the line of the cut tell what is not sent', async () => {
    await visit(page, '/chat/small', url);
    for (let i = 0; i < 5; i += 1) {
      await say(`${i} ${'word '.repeat(100)}`);
      await answered();
    }
    const cut = messages.locator('.cut');
    await cut.waitFor();
    const said = await cut.innerText();
    const turn = (await api('GET', `/api/turn/${(await api('GET', '/api/chat/small')).body.items.at(-1).turn_id}`)).body;
    const { num_ctx: size, used, trimmed_messages: trimmed } = turn.context;
    assert.ok(trimmed > 0);
    assert.match(said, new RegExp(`${trimmed} earlier messages, [\\d,]+ tokens, are not sent to the model`));
    const above = await cut.evaluate((e) => { let n = 0; for (let at = e.previousElementSibling; at; at = at.previousElementSibling) n += 1; return n; });
    assert.equal(above, trimmed, 'the line stands behind the last message that is not sent');
    const meter = page.locator('.insp').getByRole('meter', { name: 'Context used' });
    assert.deepEqual([await meter.getAttribute('aria-valuenow'), await meter.getAttribute('aria-valuemax')], [String(used), String(size)]);
    await page.locator('.insp').getByText(`${trimmed} messages not sent`).waitFor();
  });

  await check('a tool that the bot runs is a line of the reply, also after a reload', async () => {
    await visit(page, '/chat/clock', url);
    await say('Use current_time, please');
    await answered();
    await until('the stored answer', async () => (await storedReply('clock'))?.state === 'complete');
    const tool = lastReply().locator('details.tool');
    await tool.locator('.tool-r').waitFor();
    assert.equal(await tool.locator('summary b').innerText(), 'current_time');
    const result = (await api('GET', '/api/chat/clock')).body.items.find((m) => m.sender === 'tool').content;
    await tool.locator('summary').click();
    await tool.getByText(result.slice(0, 12)).last().waitFor();
    await reload(page);
    await tool.locator('.tool-r').waitFor();
    await until('one message and one reply: call and result are no rows of their own', async () => (await messages.locator('article').count()) === 2);
  });

  await check('calls of tools are lines with arguments, result and time; markup in them stays text', async () => {
    const shown = await openPage(browser);
    let wire = null;
    let topic = null;
    await shown.page.routeWebSocket(/\/ws$/, (ws) => {
      const server = ws.connectToServer();
      wire = ws;
      ws.onMessage((text) => {
        const frame = JSON.parse(text);
        if (frame.type === 'subscribe' && frame.topic.startsWith('conversation:')) topic = frame.topic;
        server.send(text);
      });
    });
    await visit(shown.page, '/chat/busy', url);
    await shown.page.locator('#msg').fill('use your tools');
    await shown.page.keyboard.press('Enter');
    const reply = shown.page.locator('article.bot-m.on').last();
    await reply.waitFor();
    const turnId = (await reply.getAttribute('data-key')).slice(5);
    const tell = (event, data) => wire.send(JSON.stringify({ type: 'event', topic, epoch: 'x', seq: 0, event, time: new Date().toISOString(), data: { turn_id: turnId, ...data } }));
    tell('tool_called', { call_id: 'c1', name: 'search_code', arguments: { query: '<img src=x onerror=alert(1)>' } });
    const first = reply.locator('details.tool').first();
    await first.getByText(/^runs, /).waitFor();
    tell('tool_returned', { call_id: 'c1', result: '<b>9 matches</b>\nin 3 files', took_ms: 120 });
    tell('tool_called', { call_id: 'c2', name: 'read_file', arguments: { path: 'keys.pem' } });
    tell('tool_returned', { call_id: 'c2', result: null, error: 'refused: outside the allowed paths', took_ms: 1 });
    await first.getByText('0.12 s').waitFor();
    await reply.locator('details.tool').nth(1).getByText('refused: outside the allowed paths').first().waitFor();
    await first.locator('summary').focus();
    await shown.page.keyboard.press('Enter');
    await first.getByText('in 3 files').waitFor();
    assert.equal(await reply.locator('img, .tool b:not(.mono)').count(), 0, 'markup of a tool became elements');
    await shown.page.keyboard.press('Escape');
    allProblems.push(...shown.problems);
    await shown.context.close();
  });

  allProblems.push(...problems);
  await context.close();
  await stop();
}
