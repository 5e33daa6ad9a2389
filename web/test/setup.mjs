// The first owner, made by whoever opens the setup link (SETUP_LINK), in a browser. KEEP is the file where its name, password and
// second factor are kept for what comes after (optional). Exits 0 if all of it went well.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { launch, need, totp } from './browser.mjs';

const link = need('SETUP_LINK');
const browser = await launch();
const context = await browser.newContext();
const page = await context.newPage();
context.setDefaultTimeout(20_000);
const asked = [];
page.on('request', (request) => asked.push(request.url()));

const fill = async (name, password) => {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password, 12 characters or more').fill(password);
  await page.keyboard.press('Enter');
};
const enrol = async () => {
  const secret = await page.locator('code.secret').textContent();
  if (process.env.KEEP) await writeFile(process.env.KEEP, JSON.stringify({ name: 'anna', password: 'correct horse battery', secret }));
  await page.getByLabel('Code that the app shows').fill(totp(secret, Math.floor(Date.now() / 30_000)));
  await page.keyboard.press('Enter');
};

try {
  await page.goto(link);
  await fill('anna', 'too short');
  await page.getByRole('alert').filter({ hasText: 'at least 12 characters' }).waitFor();
  await fill('anna', 'correct horse battery');
  await enrol();
  await page.getByRole('navigation').waitFor();
  // What opens the box stays nowhere: not in the address, and in nothing that was asked for.
  const secret = link.split('#setup=')[1];
  assert.ok(!page.url().includes(secret));
  assert.ok(!asked.some((url) => url.includes(secret)));
  await page.keyboard.press('g');
  await page.keyboard.press('u');
  await page.getByRole('region', { name: 'All users' }).getByRole('row').filter({ hasText: 'anna' }).filter({ hasText: 'owner' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Name').waitFor();

  // It is good once.
  await page.goto('about:blank');
  await page.goto(link);
  await fill('eve', 'correct horse battery');
  await page.getByRole('alert').filter({ hasText: 'this link has been used' }).waitFor();
  console.log('ok: the setup link makes the first owner, once');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
