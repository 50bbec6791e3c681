// Every page in both themes and four widths: axe, no sideways scroll.

import { check, looksRight } from '../harness.mjs';
import { openPage, visit } from '../support.mjs';

export default async function run({ browser, id, allProblems }) {
  const views = [['bots', '/bots'], ['bots as cards', '/bots?view=grid'], ['chat', `/chat/${id}`], ['supervision', `/supervision?at=bots/${id}`], ['models', '/models']];
  const opened = (action) => async (p) => { await p.locator(`[data-action="${action}"]:visible`).first().click(); await p.locator('dialog[open]').waitFor(); };
  const dialogs = [['launch dialog', '/bots', opened('bot.launch')], ['add server dialog', '/models', opened('server.add')], ['shortcuts', '/bots', async (p) => { await p.keyboard.press('?'); await p.locator('dialog[open]').waitFor(); }]];

  for (const theme of ['dark', 'light']) {
    for (const [width, height] of [[1440, 900], [1000, 800], [390, 844], [320, 640]]) {
      const shown = await openPage(browser, { width, height, theme, reducedMotion: 'reduce' });
      for (const [name, path, prepare] of width === 1440 ? [...views, ...dialogs] : views) {
        await check(`${name}, ${theme}, ${width} px: axe finds nothing, no sideways scroll`, async () => {
          await visit(shown.page, path);
          await prepare?.(shown.page);
          await looksRight(shown.page);
        });
      }
      allProblems.push(...shown.problems);
      await shown.context.close();
    }
  }
}
