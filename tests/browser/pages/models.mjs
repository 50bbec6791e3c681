// Models & servers: cards, gates, pulls, loading, deleting, draining, adding and removing.

import assert from 'node:assert/strict';
import { check, expected } from '../harness.mjs';
import { startService } from '../service.mjs';
import { openPage, sequence, until, visit } from '../support.mjs';

export default async function run({ browser, allProblems }) {
  const { url, api, stop } = await startService();
  const { page, context, problems } = await openPage(browser);
  const card = (name) => page.locator(`[data-server="${name}"]`);
  const row = (name) => page.locator(`tr[data-model="${name}"]`);
  const line = (name) => page.locator(`tr[data-pull="${name}"]`);
  const dialog = page.locator('dialog[open]');
  const type = async (name) => {
    await page.locator('#pull').fill(name);
    await page.keyboard.press('Enter');
  };
  /** Begins a pull; once the field is empty the page has its answer and takes the next one. */
  const pull = async (name) => {
    await type(name);
    await until('the empty field', async () => (await page.locator('#pull').inputValue()) === '');
  };
  const choose = async (at, name) => {
    await at.locator('[aria-haspopup=menu]').click();
    await page.getByRole('menuitem', { name, exact: true }).click();
  };
  const names = async () => (await api('GET', '/api/models')).body.items.map((m) => m.name);

  await check('G M goes to the models: a card for each server, a row for each model', async () => {
    await visit(page, '/bots', url);
    await sequence(page, 'g', 'm');
    await until('two servers', async () => (await page.locator('[data-server]').count()) === 2);
    await card('gpu-a').getByText('Up', { exact: true }).waitFor();
    await card('gpu-a').getByRole('list', { name: 'Breaker: Closed' }).locator('[aria-current=step]', { hasText: 'Closed' }).waitFor();
    await card('gpu-a').getByText('1 slot free, no wait').waitFor();
    await row('llama3.2').getByText('gpu-a, gpu-b').waitFor();
    await row('llama3.2').getByText('simulated', { exact: true }).waitFor();
    await row('llama3.2').getByText('32,768').waitFor();
    await until('the entry of the page', async () => (await page.locator('.side [aria-current=page]').innerText()) === 'Models & servers');
  });

  await check('a pull shows percent, bytes, rate and time left, to everybody; cancelled it can be resumed', async () => {
    const other = await openPage(browser, { width: 390, height: 844 });
    await visit(other.page, '/models', url);
    await pull('slow-qwen3:14b');
    const bar = line('slow-qwen3:14b').getByRole('progressbar');
    await bar.waitFor();
    await until('some percent', async () => Number(await bar.getAttribute('aria-valuenow')) >= 5);
    await until('rate and time left', async () => /of 2\.0 GB, .*B\/s, about/.test(await line('slow-qwen3:14b').innerText()));
    await other.page.locator('li[data-pull="slow-qwen3:14b"]').getByRole('button', { name: 'Cancel' }).click();
    await other.context.close();
    await row('slow-qwen3:14b').getByText(/cancelled at \d+%/).waitFor();
    const before = Number(await bar.getAttribute('aria-valuenow'));
    await line('slow-qwen3:14b').getByRole('button', { name: 'Resume' }).click();
    await line('slow-qwen3:14b').getByRole('button', { name: 'Cancel' }).waitFor();
    await until('it goes on where it was', async () => Number(await bar.getAttribute('aria-valuenow')) > before);
    await line('slow-qwen3:14b').getByRole('button', { name: 'Cancel' }).click();
    await line('slow-qwen3:14b').getByRole('button', { name: /^Put away/ }).click();
    await line('slow-qwen3:14b').waitFor({ state: 'detached' });
  });

  await check('a pull that ends well becomes a row of the table, also one begun elsewhere', async () => {
    await page.getByRole('combobox', { name: 'Pull to server' }).selectOption('gpu-b');
    await pull('phi4');
    const response = await fetch(`${url}/api/models/pull`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'gemma3', server: 'gpu-a' }) });
    await response.body.cancel();
    await until('both models', async () => { const all = await names(); return all.some((n) => n.startsWith('phi4')) && all.some((n) => n.startsWith('gemma3')); });
    await page.locator('tr[data-model^="gemma3"]').getByText('on disk').waitFor();
    await page.locator('tr[data-model^="phi4"]').getByText('on disk').waitFor();
    assert.match(await page.locator('tr[data-model^="phi4"]').innerText(), /gpu-b/);
    await until('no pull is left', async () => (await page.locator('tr.pull').count()) === 0);
  });

  await check('a cut, a full disk and an unknown model are told in words', async () => {
    await pull('cut-deepseek:32b');
    await line('cut-deepseek:32b').getByText('goes on where it stopped').waitFor();
    await row('cut-deepseek:32b').getByText('cut off at 50%').waitFor();
    await line('cut-deepseek:32b').getByText(/^To gpu-b: /).waitFor();
    await line('cut-deepseek:32b').getByRole('button', { name: 'Resume on gpu-b' }).waitFor();
    await pull('full-disk:7b');
    await line('full-disk:7b').getByText('has no room').waitFor();
    await pull('nope');
    await page.locator('tr[data-pull^="nope"]').getByText('The registry has no model nope').waitFor();
  });

  await check('a name that is none is refused at the field and stays there', async () => {
    await type('../x');
    await until('the words at the field', async () => (await page.locator('#pull-e').innerText()).length > 5);
    assert.equal(await page.locator('#pull').getAttribute('aria-invalid'), 'true');
    assert.equal(await page.locator('#pull').inputValue(), '../x');
    await page.locator('#pull').fill('');
    await page.locator('#pull-e').waitFor({ state: 'hidden' });
    await expected(problems, /status of 400/);
  });

  await check('a model is loaded and unloaded, and the card of its server says so', async () => {
    await choose(row('llama3.2'), 'Load into memory');
    await row('llama3.2').getByText(/loaded on/).waitFor();
    const shown = page.locator('.ld li', { hasText: 'llama3.2' });
    await shown.getByText(/left/).waitFor();
    await shown.getByRole('button', { name: /^Unload llama3.2/ }).click();
    await shown.waitFor({ state: 'detached' });
    await row('llama3.2').getByText('on disk').waitFor();
  });

  await check('slots and line of a server are drawn and said', async () => {
    await api('POST', '/api/bot/launch', { bot_id: 'busy', name: 'Busy bot', config: { model: 'sim:tokens=20000,gap_ms=20' } });
    const turns = [];
    for (let i = 0; i < 4; i += 1) {
      const conversation = (await api('POST', '/api/chat/busy/conversations', {})).body.id;
      turns.push((await api('POST', '/api/chat/send?wait=false', { bot_id: 'busy', conversation_id: conversation, content: 'go' })).body.turn.id);
    }
    const waits = page.locator('.srv-g', { hasText: /wait, |waits, /, has: page.locator('.slot.on') }).first();
    await waits.locator('.waiter').first().waitFor();
    for (const turn of turns) await api('POST', `/api/turn/${turn}/stop`);
    await until('nobody waits', async () => (await page.locator('.srv-g', { hasText: 'no wait' }).count()) === 2);
  });

  await check('deleting names the bots that use the model and asks for its name', async () => {
    await api('POST', '/api/bot/launch', { bot_id: 'reader', name: 'Legal reader', config: { model: 'phi4' } });
    const phi = page.locator('tr[data-model^="phi4"]');
    await until('the bot is counted', async () => /\b1\b/.test(await phi.locator('td').nth(6).innerText()));
    await choose(phi, 'Delete');
    await dialog.getByText('Legal reader uses it').waitFor();
    const button = dialog.getByRole('button', { name: 'Delete the model' });
    assert.ok(await button.isDisabled());
    await dialog.locator('#g-id').fill(await phi.getAttribute('data-model'));
    await button.click();
    await dialog.waitFor({ state: 'hidden' });
    await phi.waitFor({ state: 'detached' });
    assert.ok(!(await names()).some((n) => n.startsWith('phi4')));
  });

  await check('a model on two servers is deleted from the one that is chosen', async () => {
    await choose(row('llama3.2'), 'Delete');
    await dialog.getByLabel('Delete it from').selectOption('gpu-b');
    await dialog.locator('#g-id').fill('llama3.2');
    await dialog.getByRole('button', { name: 'Delete the model' }).click();
    await until('it is only on gpu-a', async () => (await row('llama3.2').locator('td').nth(5).innerText()) === 'gpu-a');
  });

  await check('a server is drained and resumed', async () => {
    await choose(card('gpu-b'), 'Drain');
    await card('gpu-b').getByText('Drained.').waitFor();
    await card('gpu-b').getByText(/^Draining/).waitFor();
    await card('gpu-b').locator('.srv-g').getByText('no new turns', { exact: true }).waitFor();
    await card('gpu-b').getByRole('button', { name: 'Resume' }).click();
    await card('gpu-b').getByText('Up', { exact: true }).waitFor();
  });

  await check('adding a server says what is wrong at its field', async () => {
    await page.keyboard.press('n');
    await dialog.getByLabel('Name').fill('gpu-c');
    await dialog.getByLabel('Address').fill('file:///etc/passwd');
    await dialog.getByLabel('Slots').fill('1.5');
    await page.keyboard.press('Enter');
    await dialog.getByText('An address that begins with http').waitFor();
    await dialog.getByText('A whole number from 1 to 1024.').waitFor();
    await dialog.getByLabel('Slots').fill('');
    await page.route('**/api/servers', (route) => (route.request().method() === 'POST' ? route.fulfill({ status: 400, contentType: 'application/problem+json', body: JSON.stringify({ type: 'about:blank', title: 'Bad', status: 400, code: 'invalid_request', detail: 'url: names a metadata address', errors: [{ field: 'url', reason: 'names a metadata address' }] }) }) : route.continue()));
    await dialog.getByLabel('Address').fill('http://169.254.169.254');
    await page.keyboard.press('Enter');
    await dialog.getByText('names a metadata address').waitFor();
    assert.equal(await dialog.getByLabel('Name').inputValue(), 'gpu-c');
    await page.unroute('**/api/servers');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'hidden' });
    await expected(problems, /status of 400/);
  });

  await check('removing a server asks for its name', async () => {
    let asked = null;
    await page.route('**/api/server/gpu-b', (route) => { asked = route.request().method(); return route.fulfill({ status: 200, contentType: 'application/json', body: '{"deleted":"gpu-b"}' }); });
    await choose(card('gpu-b'), 'Remove');
    const button = dialog.getByRole('button', { name: 'Remove gpu-b' });
    assert.ok(await button.isDisabled());
    await dialog.locator('#g-id').fill('gpu-b');
    await button.click();
    await dialog.waitFor({ state: 'hidden' });
    assert.equal(asked, 'DELETE');
    await page.unroute('**/api/server/gpu-b');
  });

  await check('keys: / goes to the pull field, J to the first row, . opens its menu, Esc closes it', async () => {
    await page.locator('main').focus();
    await page.keyboard.press('j');
    await until('a row has the focus', () => page.evaluate(() => document.activeElement.matches('tr[data-model]')));
    await page.keyboard.press('.');
    await page.getByRole('menu').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('menu').waitFor({ state: 'detached' });
    await page.locator('main').focus();
    await page.keyboard.press('/');
    await until('the field has the focus', () => page.evaluate(() => document.activeElement.id === 'pull'));
  });

  allProblems.push(...problems);
  await context.close();
  await stop();
  await longNames(browser, allProblems);
}

/** A server that is called like its address, as it is by default, and a long name of a model. */
async function longNames(browser, allProblems) {
  const [address, twin, name] = ['127.0.0.1:11434', '127.0.0.1:11435', 'cut-a-long-name-of-a-model-of-somebody:32b-instruct-q4_K_M'];
  const { url, api, sims, stop } = await startService({ names: [address, twin] });
  await api('POST', '/api/models/delete', { model: 'simulated', server: twin });
  await (await fetch(`${url}/api/models/pull`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: name, server: address }) })).text();
  for (const width of [1440, 1321, 1280, 1181, 1024, 961, 901, 700]) {
    const shown = await openPage(browser, { width, height: 800 });
    await check(`the actions of models and pulls are inside the table whatever the names, ${width} px`, async () => {
      await api('POST', '/api/models/preload', { model: 'simulated', server: address }); // it leaves the memory after some minutes
      await visit(shown.page, '/models', url);
      await shown.page.locator('tr[data-model="simulated"]').getByText(`loaded on ${address}`).waitFor();
      const buttons = shown.page.locator('tr[data-model="simulated"] .act button, tr.pull button');
      // Models and pulls are asked for apart, so the row of the pull may come after the model's.
      await until('the buttons of the model and of the pull', async () => (await buttons.count()) >= 3);
      const table = await shown.page.locator('.mdl-w').evaluate((e) => ({ wide: e.scrollWidth - e.clientWidth, right: e.getBoundingClientRect().right }));
      assert.ok(table.wide <= 1, `${table.wide} px wider than its card`);
      for (const button of await buttons.all()) {
        const { x, width: w } = await button.boundingBox();
        assert.ok(x + w <= table.right, `${await button.innerText()} ends at ${x + w}, the table at ${table.right}`);
      }
      const on = shown.page.locator('tr[data-model="llama3.2"] .on');
      if (await on.isVisible()) {
        assert.equal(await on.innerText(), `${address}, ${twin}`);
        assert.ok(await on.evaluate((e) => e.scrollWidth <= e.clientWidth), 'both servers can be read');
      }
    });
    allProblems.push(...shown.problems);
    await shown.context.close();
  }
  await check('the entry of the page keeps its whole name beside its mark', async () => {
    const shown = await openPage(browser, { width: 1280, height: 800 });
    await visit(shown.page, '/models', url);
    await sims[address].stop();
    const entry = shown.page.locator('.side a[href="/models"]', { hasText: '1' });
    await entry.waitFor({ timeout: 30_000 });
    const cut = await entry.locator('> span:nth-child(2)').evaluate((e) => [e.innerText, e.scrollWidth - e.clientWidth]);
    assert.deepEqual(cut, ['Models & servers', 0]);
    await shown.context.close();
  });
  await stop();
}
