// Model servers that go away: one of two, then both, and back again.

import assert from 'node:assert/strict';
import { conversation } from '../conversation.mjs';
import { check, looksRight } from '../harness.mjs';
import { startService } from '../service.mjs';
import { openPage, reload, until, visit } from '../support.mjs';

export default async function run({ browser, allProblems }) {
  const { url, api, sims, stop } = await startService();
  const { page, context, problems } = await openPage(browser);
  const { messages, say, answered, storedReply } = conversation(page, api);
  const card = (name) => page.locator(`[data-server="${name}"]`);
  const banner = page.locator('.banner');
  await api('POST', '/api/bot/launch', { bot_id: 'reader', name: 'Legal reader', config: { model: 'simulated' } });

  await check('one dead server: its card says so with the next try, the rest of the page stays', async () => {
    await visit(page, '/models', url);
    await page.locator('tr[data-model="simulated"]').waitFor();
    await sims['gpu-b'].stop();
    await card('gpu-b').getByText(/^Down/).waitFor({ timeout: 30_000 });
    await card('gpu-b').getByText('No turns are sent here.').waitFor();
    await card('gpu-a').getByText('Up', { exact: true }).waitFor();
    await page.locator('tr[data-model="simulated"]').getByText('gpu-a', { exact: true }).waitFor();
    assert.equal(await banner.getByText('Ollama offline.').count(), 0);
    await page.locator('.side a[href="/models"]', { hasText: '1' }).waitFor();
  });

  await check('no server answers: the banner says so, with its icon, and models keep their page', async () => {
    await visit(page, '/chat/reader', url);
    await sims['gpu-a'].stop();
    await banner.getByText('Ollama offline.').waitFor({ timeout: 30_000 });
    await until('the icon of the banner', () => banner.locator('use').first().evaluate((use) => Boolean(document.querySelector(use.getAttribute('href')))));
    assert.equal(await banner.getByRole('link', { name: 'Servers' }).getAttribute('href'), '/models');
  });

  await check('a message sent meanwhile is held, and may wait', async () => {
    await say('Are you there?');
    await messages.locator('.wait').getByText('Held until a model server is back').waitFor();
    await page.locator('.comp button[type=submit]', { hasText: /^Store and queue/ }).waitFor();
  });

  for (const theme of ['dark', 'light']) {
    for (const [width, height] of [[1440, 900], [390, 844], [320, 640]]) {
      const shown = await openPage(browser, { width, height, theme, reducedMotion: 'reduce' });
      for (const path of ['/models', '/chat/reader']) {
        await check(`${path} without servers, ${theme}, ${width} px: axe finds nothing, no sideways scroll`, async () => {
          await visit(shown.page, path, url);
          await shown.page.locator(path === '/models' ? '[data-server="gpu-b"]' : '.wait').first().waitFor();
          await looksRight(shown.page);
        });
      }
      allProblems.push(...shown.problems);
      await shown.context.close();
    }
  }

  await check('when one is back the held message is answered and the banner goes', async () => {
    await sims['gpu-a'].start();
    await banner.getByRole('button', { name: 'Try now' }).click({ timeout: 5000 }).catch(() => { /* it was found before */ });
    await banner.waitFor({ state: 'detached', timeout: 30_000 });
    await answered();
    await until('the stored answer', async () => (await storedReply('reader')).state === 'complete', 30_000);
  });

  await check('a message that bounces off a server which just died is held as well, also after a reload, and answered later', async () => {
    await sims['gpu-a'].stop();
    await say('Still there?');
    const held = messages.locator('.wait').getByText('Held until a model server is back');
    await held.waitFor();
    await reload(page);
    await held.waitFor();
    await page.locator('.insp dd', { hasText: 'none, waits for one' }).waitFor();
    await sims['gpu-a'].start();
    await banner.getByRole('button', { name: 'Try now' }).click({ timeout: 5000 }).catch(() => { /* it was found before */ });
    await held.waitFor({ state: 'detached', timeout: 30_000 });
    await until('the stored answer', async () => (await storedReply('reader')).state === 'complete', 30_000);
  });

  allProblems.push(...problems);
  await context.close();
  await stop();
}
