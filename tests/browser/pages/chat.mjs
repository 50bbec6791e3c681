// Chat: sending, streaming, resume, Stop, drafts, conversations, versions.

import assert from 'node:assert/strict';
import { compact, conversation } from '../conversation.mjs';
import { check, expected } from '../harness.mjs';
import { api, letGo, openPage, reload, until, visit } from '../support.mjs';

// 9 s of text, slow enough for a page on a slow machine, and held before its end: what is to happen in the middle of the answer
// happens there on every machine.
const HELD = 'sim:tokens=100,gap_ms=100,hold_at=90';

export default async function run({ browser, page, id, problems }) {
  const { messages, lastReply, mark, say, shown, streaming, answered, copied, storedReply } = conversation(page);

  await check('a message is answered in the chat and the answer is stored as shown', async () => {
    await page.locator(`[data-bot="${id}"] a`).first().click();
    await page.locator('#msg').waitFor();
    await say('Hello there');
    await answered();
    const stored = await storedReply(id);
    assert.equal(stored.state, 'complete');
    assert.equal(await copied(), stored.content);
  });

  await check('an answer streams, survives a reload in the middle and ends byte for byte as stored', async () => {
    await api('PATCH', `/api/bot/${id}`, { config: { model: HELD } });
    await say('go on');
    await streaming(60);
    const before = await copied();
    assert.ok(before.length > 40, `only ${before.length} characters before the reload`);
    await reload(page);
    await lastReply().locator('.prose').waitFor();
    const after = await until('the text after the reload', () => copied(3000));
    assert.ok(after.startsWith(before), 'the text after the reload does not continue the text before it');
    assert.ok(await lastReply().locator('.live-l').count(), 'the answer had already ended: the reload was not in its middle');
    await until('the text on the page', async () => compact(await lastReply().locator('.prose').innerText()).length > 40);
    await letGo();
    await answered();
    const stored = await storedReply(id);
    assert.equal(stored.state, 'complete');
    assert.equal(await copied(), stored.content);
  });

  await check('a dropped socket in mid-answer resumes where the text stood, with no gap', async () => {
    const drop = await openPage(browser, {});
    const there = conversation(drop.page);
    const wires = [];
    const asked = [];
    await drop.page.routeWebSocket(/\/ws$/, (ws) => {
      const server = ws.connectToServer();
      wires.push(ws);
      ws.onMessage((text) => {
        const frame = JSON.parse(text);
        if (frame.type === 'subscribe' && frame.topic.startsWith('conversation:')) asked.push(frame);
        server.send(text);
      });
    });
    await visit(drop.page, `/chat/${id}`);
    await there.say('go on');
    await there.streaming(60);
    const [connections] = [wires.length, asked.splice(0)];
    await wires.at(-1).close({ code: 1012, reason: 'test' });
    await until('one more connection', () => wires.length > connections);
    await until('a resumed subscription', () => asked.some((f) => f.after));
    const { after } = asked.find((f) => f.after);
    assert.ok(after.epoch && after.seq > 0, JSON.stringify(after));
    assert.ok(Object.values(after.offsets)[0].content > 60, 'the offsets of the running answer are not named');
    assert.ok(await there.lastReply().locator('.live-l').count(), 'the answer had already ended: the drop was not in its middle');
    await letGo();
    await there.answered();
    const stored = await storedReply(id);
    assert.equal(stored.state, 'complete');
    assert.equal(await there.copied(), stored.content);
    await drop.context.close();
  });

  await check('Stop keeps exactly what was shown', async () => {
    await api('PATCH', `/api/bot/${id}`, { config: { model: 'simulated' } });
    await say('count to 5000');
    await streaming(60);
    await page.locator('.comp-f [data-action="chat.stop"]').click();
    await lastReply().getByText('Stopped by you.').waitFor();
    const stored = await until('the partial reply', async () => { const m = await storedReply(id); return m.state === 'partial' && m; });
    assert.equal(await copied(), stored.content);
    assert.ok(stored.content.length > 0);
  });

  await check('a second message waits in line and can leave it', async () => {
    await say('count to 5000');
    await streaming(1);
    await say('and then?');
    await messages.locator('.wait').waitFor();
    await messages.locator('.wait [data-action="chat.stop"]').click();
    await lastReply().getByText('Stopped by you.').waitFor();
    assert.equal(await messages.locator('.live-l').count(), 1, 'the answer before it goes on');
    await page.locator('.comp-f [data-action="chat.stop"]').click();
    await until('both turns to end', async () => (await messages.locator('.live-l, .wait').count()) === 0);
  });

  await check('Markdown of a finished answer is rendered, with code and table', async () => {
    await say('Write Markdown with a code block, a table and a list');
    await answered();
    await lastReply().locator('figure.code pre').first().waitFor();
    await lastReply().locator('table').first().waitFor();
  });

  await check('slash commands are completed and answered', async () => {
    await page.locator('#msg').fill('/he');
    await page.getByRole('option', { name: /\/help/ }).waitFor();
    await page.keyboard.press('Tab');
    await until('the whole command', async () => (await page.locator('#msg').inputValue()).startsWith('/help'));
    await page.keyboard.press('Enter');
    await messages.locator('.sys-m').last().waitFor();
  });

  await check('a draft survives a reload', async () => {
    await page.locator('#msg').fill('half a thought');
    await reload(page);
    await until('the draft', async () => (await page.locator('#msg').inputValue()) === 'half a thought');
    await page.locator('#msg').fill('');
  });

  await check('a message that is refused stays in the composer, with Retry', async () => {
    await page.route('**/api/chat/send*', (route) => route.fulfill({ status: 503, contentType: 'application/problem+json', headers: { 'retry-after': '1' }, body: JSON.stringify({ type: 'about:blank', title: 'Storage', status: 503, code: 'storage_unavailable', detail: 'The database does not answer.' }) }));
    await say('please keep me');
    await page.getByText('Perhaps not sent.').waitFor();
    assert.equal(await page.locator('#msg').inputValue(), 'please keep me');
    await page.unroute('**/api/chat/send*');
    await mark();
    await page.locator('[data-action="chat.resend"]').click();
    await messages.locator('.bub', { hasText: 'please keep me' }).waitFor();
    await answered();
    await expected(problems, /status of 503 .*chat\/send/);
  });

  await check('a message whose answer was lost on the way is not sent twice', async () => {
    await page.route('**/api/chat/send*', async (route) => { await route.fetch(); await route.abort(); });
    await say('only once, please');
    await page.getByText('Perhaps not sent.').waitFor();
    await page.unroute('**/api/chat/send*');
    const again = page.waitForResponse('**/api/chat/send*');
    await page.locator('[data-action="chat.resend"]').click();
    assert.ok((await again).ok());
    await answered();
    const bubbles = messages.locator('.bub', { hasText: 'only once, please' });
    await until('one message, and none on its way', async () => (await bubbles.count()) === 1 && (await messages.locator('.sending').count()) === 0);
    assert.equal((await api('GET', `/api/chat/${id}`)).body.items.filter((m) => m.content === 'only once, please').length, 1);
    assert.equal(await page.locator('#msg').inputValue(), '');
    await expected(problems, /ERR_FAILED/);
  });

  await check('conversations: a new one, renamed, deleted with a guard', async () => {
    await page.keyboard.press('Control+Shift+O');
    const conversation = await until('the new conversation', () => new URL(page.url()).searchParams.get('c'));
    await shown(conversation);
    const item = page.locator('.cv-li', { has: page.locator('.cv.on') });
    await item.hover();
    await item.getByRole('button').click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill('Renamed here');
    await page.getByRole('dialog').getByRole('button', { name: 'Rename' }).click();
    await page.locator('.cv.on', { hasText: 'Renamed here' }).waitFor();
    await item.hover();
    await item.getByRole('button').click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    const dialog = page.getByRole('alertdialog');
    const button = dialog.getByRole('button', { name: 'Delete the conversation' });
    assert.ok(await button.isDisabled());
    await dialog.locator('#g-id').fill(id);
    await button.click();
    await dialog.waitFor({ state: 'hidden' });
    const left = (await api('GET', `/api/chat/${id}/conversations`)).body.items;
    assert.ok(!left.some((c) => c.id === conversation));
  });

  await check('another window lists a new conversation and leaves it once it is deleted', async () => {
    const other = await openPage(browser);
    try {
      await visit(other.page, `/chat/${id}`);
      await other.page.locator('.cv.on').waitFor();
      const made = (await api('POST', `/api/chat/${id}/conversations`, { title: 'Made elsewhere' })).body;
      await other.page.locator('.cv', { hasText: 'Made elsewhere' }).click();
      await until('its tab', () => new URL(other.page.url()).searchParams.get('c') === made.id);
      await api('DELETE', `/api/chat/${id}/conversations/${made.id}`);
      await until('the tab before', () => new URL(other.page.url()).searchParams.get('c') !== made.id);
      await other.page.locator('.cv', { hasText: 'Made elsewhere' }).waitFor({ state: 'detached' });
    } finally {
      await other.context.close();
    }
  });

  await check('versions: regenerate, edit, and the arrows between them; a fork goes its own way', async () => {
    await visit(page, `/chat/${id}`);
    await page.keyboard.press('Control+Shift+O');
    const conversation = await until('the new conversation', () => new URL(page.url()).searchParams.get('c'));
    await shown(conversation);
    const texts = () => messages.locator('.bub').allInnerTexts();
    const last = (name) => lastReply().getByRole('button', { name });
    const said = messages.locator('article.me-m').last();
    assert.equal(await messages.locator('article').count(), 0, 'a new conversation is empty');
    await say('Hello there');
    await answered();
    await last('Regenerate').click();
    await lastReply().getByText('2 of 2').waitFor();
    await until('the second answer', async () => (await lastReply().locator('.m-t').count()) > 0 && !(await lastReply().locator('.live-l').count()));
    assert.equal(await messages.locator('article.bot-m').count(), 1);
    assert.equal(await last('Later version').getAttribute('aria-disabled'), 'true');
    await last('Earlier version').focus();
    await page.keyboard.press('Enter');
    await lastReply().getByText('1 of 2').waitFor();
    await until('the focus stays on the arrow', () => page.evaluate(() => document.activeElement?.dataset.action === 'chat.older'));
    const path = async () => (await api('GET', `/api/chat/${id}?conversation_id=${conversation}`)).body.items;
    assert.equal((await path()).at(-1).siblings.index, 1, 'the choice is stored');

    await said.focus();
    await page.keyboard.press('e');
    await page.getByText('Editing your message.').waitFor();
    assert.equal(await page.locator('#msg').inputValue(), 'Hello there');
    await page.keyboard.press('Escape');
    await page.getByText('Editing your message.').waitFor({ state: 'hidden' });
    assert.equal(await page.locator('#msg').inputValue(), '');
    await page.locator('#msg').press('ArrowUp');
    await page.getByText('Editing your message.').waitFor();
    await say('Hello, better');
    await said.getByText('2 of 2').waitFor();
    await until('the answer to the edit', async () => (await lastReply().locator('.m-t').count()) > 0);
    assert.deepEqual(await texts(), ['Hello, better']);
    await said.getByRole('button', { name: 'Earlier version' }).click();
    await until('the first version', async () => (await texts()).join() === 'Hello there');
    await lastReply().getByText('2 of 2').waitFor(); // where that branch was last continued

    await lastReply().getByRole('button', { name: 'Fork from here' }).click();
    const other = (c) => c !== conversation && c;
    await shown(await until('the fork', () => other(new URL(page.url()).searchParams.get('c'))));
    await messages.locator('.bub', { hasText: 'Hello there' }).waitFor();
    assert.equal(await last('Regenerate').count(), 0, 'that answer is of the other conversation');
    await say('in the fork');
    await answered();
    assert.deepEqual(await texts(), ['Hello there', 'in the fork']);
    assert.equal((await path()).length, 2, 'the origin stays as it is');
    await page.locator('.cv.on', { hasText: 'Fork of' }).waitFor();
  });
}
