// The frame around the pages: keys, theme, links.

import assert from 'node:assert/strict';
import { check } from '../harness.mjs';
import { reload, sequence, until, visit } from '../support.mjs';

export default async function run({ page }) {
  await check('shortcuts: G B goes to the bots, ? lists all, Ctrl Shift L switches the theme', async () => {
    await sequence(page, 'g', 'b');
    await until('the bots', () => page.url().includes('/bots'));
    await page.keyboard.press('?');
    const dialog = page.getByRole('dialog', { name: 'Keyboard' });
    await dialog.waitFor();
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
    const before = await theme();
    await page.keyboard.press('Control+Shift+L');
    await until('the other theme', async () => (await theme()) !== before);
    await reload(page);
    assert.notEqual(await theme(), before, 'the choice is forgotten after a reload');
    await page.keyboard.press('Control+Shift+L');
    await until('the first theme', async () => (await theme()) === before);
  });

  await check('no dead link in the navigation', async () => {
    const links = await page.locator('.side a').evaluateAll((all) => all.map((a) => a.getAttribute('href')));
    assert.ok(links.length >= 5, links.join());
    for (const href of links) {
      await visit(page, href);
      await until(`the title of ${href}`, async () => !['', 'DEIA'].includes(await page.locator('h1').innerText()));
    }
  });
}
