// The frame around the pages: keys, theme, links.

import assert from 'node:assert/strict';
import { check } from '../harness.mjs';
import { base, until } from '../support.mjs';

export default async function run({ page }) {
  await check('shortcuts: G B goes to the bots, ? lists all, Ctrl Shift L switches the theme', async () => {
    await page.keyboard.press('g');
    await page.keyboard.press('b');
    await until('the bots', () => page.url().includes('/bots'));
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
    await page.keyboard.press('Escape');
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
    const before = await theme();
    await page.keyboard.press('Control+Shift+L');
    assert.notEqual(await theme(), before);
    await page.reload();
    assert.notEqual(await theme(), before, 'the choice is forgotten after a reload');
    await page.keyboard.press('Control+Shift+L');
  });

  await check('no dead link in the navigation', async () => {
    for (const href of await page.locator('.side a').evaluateAll((links) => links.map((a) => a.getAttribute('href')))) {
      await page.goto(base + href);
      await page.waitForSelector('html[data-page]');
      assert.ok((await page.locator('h1').innerText()).length > 0, href);
    }
  });
}
