// The page of bots: the first look, launch, filter.

import assert from 'node:assert/strict';
import { check, expected } from '../harness.mjs';
import { api, base, reload, until, visit } from '../support.mjs';

export default async function run({ page, id, problems }) {
  await check('the page opens with the strict policy and every asset from its own origin', async () => {
    const foreign = [];
    page.on('request', (r) => { if (!r.url().startsWith(base) && !r.url().startsWith('data:')) foreign.push(r.url()); });
    const response = await page.goto(`${base}/bots`);
    const policy = response.headers()['content-security-policy'] ?? '';
    assert.match(policy, /default-src 'none'/);
    assert.ok(!policy.includes('unsafe-inline'), policy);
    await page.locator('.conn', { hasText: 'Live' }).waitFor();
    assert.deepEqual(foreign, []);
  });

  await check('it says that it is open because it listens on loopback only', async () => {
    await page.getByText('Open without sign-in because it listens on 127.0.0.1 only').first().waitFor();
  });

  await check('a bot is launched through the dialog, with the model picker', async () => {
    await page.locator('[data-action="bot.launch"]:visible').first().click();
    const dialog = page.getByRole('dialog', { name: 'Launch a bot' });
    await dialog.getByLabel('Name', { exact: true }).fill('Browser test');
    await dialog.getByLabel('Bot ID').fill(id);
    await dialog.getByRole('combobox', { name: 'Model' }).fill('simul');
    await dialog.getByRole('option', { name: /^simulated/ }).click();
    await dialog.getByText('Simulated model. These answers are scripted.').waitFor();
    await dialog.getByRole('button', { name: /^Launch( Ctrl ↵)?$/ }).click();
    await dialog.waitFor({ state: 'hidden' });
    await page.locator(`[data-bot="${id}"]`).waitFor();
    assert.equal((await api('GET', `/api/bot/${id}`)).status, 200);
  });

  await check('an id in use is refused at its field and nothing typed is lost', async () => {
    await page.locator('[data-action="bot.launch"]:visible').first().click();
    const dialog = page.getByRole('dialog', { name: 'Launch a bot' });
    await dialog.getByLabel('Bot ID').fill(id);
    await dialog.getByLabel('Name', { exact: true }).fill('Twice');
    await dialog.getByRole('combobox', { name: 'Model' }).fill('simulated');
    await page.keyboard.press('Control+Enter');
    await dialog.getByText('This id is in use').waitFor();
    await expected(problems, /status of 409/);
    assert.equal(await dialog.getByLabel('Name', { exact: true }).inputValue(), 'Twice');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'hidden' });
  });

  await check('filter and groups narrow the list and stay in the address', async () => {
    await page.locator('#bots-filter').fill(`id:${id}`);
    await until('one row', async () => (await page.locator('[data-bot]').count()) === 1);
    assert.match(page.url(), /q=id/);
    await reload(page);
    await until('one row after reload', async () => (await page.locator('[data-bot]').count()) === 1);
    await page.locator('#bots-filter').fill('no-such-bot-anywhere');
    await page.getByText('No bot matches').waitFor();
    await page.getByRole('button', { name: 'Clear the filter' }).click();
    await page.locator(`[data-bot="${id}"]`).waitFor();
  });
}

/** What ends the bot that the other pages used. */
export async function leave({ page, id }) {
  await check('stop, start and restart from the menu', async () => {
    await visit(page, `/bots?q=id:${id}`);
    const row = page.locator(`[data-bot="${id}"]`);
    const choose = async (name) => {
      await row.locator('[data-action="bots.menu"]').click();
      await page.getByRole('menuitem', { name, exact: true }).click();
    };
    const serving = ['ready', 'idle', 'active'];
    const chosen = async (name) => {
      const answer = page.waitForResponse((r) => r.url().endsWith(`/api/bot/${id}/${name.toLowerCase()}`));
      await choose(name);
      assert.equal((await answer).status(), 200, name);
    };
    const serves = async () => {
      await until('it serves', async () => serving.includes((await api('GET', `/api/bot/${id}`)).body.state));
      await row.locator(serving.map((state) => `[data-state="${state}"]`).join()).first().waitFor();
    };
    await chosen('Stop');
    await row.getByText('Terminated').waitFor();
    await chosen('Start');
    await serves();
    await chosen('Restart');
    await serves();
  });

  await check('deleting asks for the id and takes the bot out of the list', async () => {
    await visit(page, `/bots?q=id:${id}`);
    await page.locator(`[data-bot="${id}"] [data-action="bots.menu"]`).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    const dialog = page.getByRole('alertdialog');
    await dialog.getByText('Delete all its messages too').click();
    await dialog.locator('#g-id').fill(id);
    await dialog.getByRole('button', { name: `Delete ${id}` }).click();
    await dialog.waitFor({ state: 'hidden' });
    await until('the row to go', async () => (await page.locator(`[data-bot="${id}"]`).count()) === 0);
    assert.equal((await api('GET', `/api/bot/${id}`)).status, 404);
  });
}
