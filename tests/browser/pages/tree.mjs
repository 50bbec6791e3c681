// Supervision: a crash as the tree and the chat tell it, keys.

import assert from 'node:assert/strict';
import { conversation } from '../conversation.mjs';
import { check } from '../harness.mjs';
import { api, until, visit } from '../support.mjs';

// Longer than any page takes to open: the kill ends it.
const slow = 'sim:tokens=20000,gap_ms=20';

export default async function run({ context, page, id }) {
  const { messages, say, streaming, answered, copied, storedReply } = conversation(page);

  await check('a bot killed in mid-answer: interrupted, partial kept, restart in tree and history', async () => {
    await api('PATCH', `/api/bot/${id}`, { config: { model: slow } });
    await visit(page, `/chat/${id}`);
    await say('go on');
    await streaming(40);
    const other = await context.newPage();
    await visit(other, `/supervision?at=bots/${id}`);
    await other.getByRole('button', { name: 'Kill' }).click();
    const dialog = other.getByRole('alertdialog');
    const button = dialog.getByRole('button', { name: `Kill ${id}` });
    assert.ok(await button.isDisabled(), 'the button is on before the id is typed');
    await dialog.getByLabel('Reason, goes to the audit log').fill('browser test');
    await dialog.locator('#g-id').fill(id);
    await button.click();
    await dialog.waitFor({ state: 'hidden' });
    await other.locator('.det .hist li').first().waitFor();
    await other.locator('.rec .lanes li', { hasText: 'Browser test' }).waitFor();
    await until('4 restarts left', async () => (await other.locator('.det .pips.big').getAttribute('aria-label')) === '4 of 5 restarts left');
    await other.close();
    await messages.getByText('Interrupted: the bot crashed').waitFor();
    const stored = await storedReply(id);
    assert.equal(stored.state, 'partial');
    assert.equal(await copied(), stored.content);
    await api('PATCH', `/api/bot/${id}`, { config: { model: 'simulated' } });
    await say('are you back?');
    await answered();
    assert.equal((await storedReply(id)).state, 'complete');
  });

  await check('the tree answers to arrow keys', async () => {
    await visit(page, '/supervision');
    const chosen = page.getByRole('treeitem', { selected: true });
    await chosen.focus();
    await page.keyboard.press('Home');
    await until('the root', async () => (await chosen.getAttribute('aria-level')) === '1');
    await page.keyboard.press('ArrowRight');
    await until('its first child', async () => (await chosen.getAttribute('aria-level')) === '2');
    await page.keyboard.press('ArrowLeft');
    await until('the root again', async () => (await chosen.getAttribute('aria-level')) === '1');
  });
}
