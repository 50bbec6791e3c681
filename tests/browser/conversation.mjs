// A conversation on a page, as a person uses it: say, wait for the answer, copy.

import { api as mainApi, until } from './support.mjs';

export const compact = (text) => text.replace(/\s+/g, ' ').trim();

export function conversation(page, api = mainApi) {
  const messages = page.getByRole('log', { name: 'Messages' });
  const lastReply = () => messages.locator('article.bot-m').last();
  let replies = 0; // before the last message was sent

  const count = () => messages.locator('article.bot-m').count();
  /** From here on an answer is a new one; those that were there before must be shown first. */
  async function mark() {
    await page.locator('.conv[aria-busy=false]').waitFor();
    replies = await count();
  }
  async function say(text) {
    await mark();
    await page.locator('#msg').fill(text);
    await page.keyboard.press('Enter');
  }

  /** Waits until the place of the answer to the last message is there. */
  const begun = () => until('the place of the answer', async () => (await count()) > replies);

  /** Waits until another conversation is shown, with its messages. */
  async function shown(id) {
    await page.locator(`.cv.on[href$="c=${id}"]`).waitFor();
    await page.locator('.conv[aria-busy=false]').waitFor();
  }

  /** Waits until the last reply is being written and shows more than `length` characters. */
  const streaming = (length) => until(`${length} characters of a running answer`, () => messages.evaluate((log, least) => {
    const text = [...log.querySelectorAll('article.bot-m.on .prose')].at(-1)?.innerText ?? '';
    return text.replace(/\s+/g, ' ').trim().length > least;
  }, length));

  /** Waits until the last message sent has its whole answer. */
  const answered = () => until('a finished answer', async () => (await count()) > replies && (await lastReply().locator('.m-t').count()) > 0, 60_000);

  /** The exact text of the last reply, as the page itself holds it, through its Copy action; '' where that does nothing. */
  async function copied(patience) {
    const article = lastReply();
    await article.focus();
    await page.evaluate(() => navigator.clipboard.writeText(''));
    await page.keyboard.press('c');
    return until('the copied text', () => page.evaluate(() => navigator.clipboard.readText()), patience).catch(() => '');
  }

  const turnsOf = async (bot) => (await api('GET', `/api/chat/${bot}`)).body.items;
  const storedReply = async (bot) => (await turnsOf(bot)).filter((m) => m.sender === 'bot').at(-1);

  return { messages, lastReply, mark, say, begun, shown, streaming, answered, copied, storedReply };
}
