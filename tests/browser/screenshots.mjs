// Pictures of a running deia (DEIA_URL, simulated model): the three pages, dark and light, desktop and phone, into the
// folder given as argument, and docs/screenshot.png of the repository for README.
// usage: node screenshots.mjs FOLDER [--no-readme]

import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { api, base, launchBrowser, openPage, until, visit } from './support.mjs';

const [folder = 'output', flag] = process.argv.slice(2);
const readme = path.resolve(import.meta.dirname, '../../docs/screenshot.png');
await mkdir(folder, { recursive: true });

const BOTS = [['shot-architect', 'Architect', 'simulated'], ['shot-support', 'Support desk', 'simulated'], ['shot-release', 'Release notes', 'simulated'], ['shot-triage', 'Triage', 'sim:tokens=400,gap_ms=10'], ['shot-tutor', 'Maths tutor', 'simulated'], ['shot-night', 'Night batch', 'simulated']];
for (const [id, name, model] of BOTS) {
  const { status, body } = await api('POST', '/api/bot/launch', { bot_id: id, name, config: { model } });
  if (status !== 201 && status !== 409) throw new Error(`launch of ${id}: ${status} ${JSON.stringify(body)}`);
}
const send = (bot, content, wait) => api('POST', `/api/chat/send?wait=${wait}`, { bot_id: bot, content });
await send('shot-architect', 'Write Markdown with a code block, a table and a list', true);
for (let i = 0; i < 2; i += 1) {
  await api('POST', '/api/bot/shot-triage/kill', { how: 'panic', reason: 'tool result was not valid JSON' });
  await until('Triage is back', async () => ['ready', 'idle', 'active'].includes((await api('GET', '/api/bot/shot-triage')).body.state));
}
await api('POST', '/api/bot/shot-night/stop');

const browser = await launchBrowser();
const SIZES = [['desktop', 1440, 900, 1], ['phone', 390, 844, 2]];
const PAGES = [['bots', '/bots'], ['chat', '/chat/shot-architect'], ['supervision', '/supervision?at=bots/shot-triage']];

for (const theme of ['dark', 'light']) {
  for (const [size, width, height, scale] of SIZES) {
    const { context, page } = await openPage(browser, { width, height, theme, scale, reducedMotion: 'reduce' });
    for (const [name, address] of PAGES) {
      if (name === 'chat') await send('shot-architect', 'count to 300', false);
      await visit(page, address);
      if (name === 'chat') await until('text of the running answer', async () => (await page.locator('.bot-m.on .prose').innerText().catch(() => '')).length > 60);
      else await page.locator(name === 'bots' ? '[data-bot]' : '[role=treeitem]').first().waitFor();
      await page.evaluate(() => document.fonts.ready);
      const file = path.join(folder, `${name}-${size}-${theme}.png`);
      await page.screenshot({ path: file });
      console.log(file);
      if (name === 'chat' && size === 'desktop' && theme === 'dark' && flag !== '--no-readme') {
        await mkdir(path.dirname(readme), { recursive: true });
        await page.screenshot({ path: readme });
        console.log(readme);
      }
      if (name === 'chat') {
        await page.locator('.comp-f [data-action="chat.stop"]').click();
        await page.locator('.comp-f [data-action="chat.stop"]').waitFor({ state: 'detached' });
      }
    }
    await context.close();
  }
}
await browser.close();
for (const [id] of BOTS) await api('DELETE', `/api/bot/${id}?purge=true`);
console.log(`pictures of ${base} are in ${folder}`);
