// Signing in at a provider, in a browser: at BASE_URL its button is there, and its own page asks who one is. Exits 0 if all of it went
// well.

import assert from 'node:assert/strict';
import { launch, need } from './browser.mjs';

const base = need('BASE_URL');
const browser = await launch();

const visit = async (name, work) => {
  // Nobody has signed the lab's certificates.
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const blocked = [];
  page.on('console', (message) => message.type() === 'error' && blocked.push(message.text()));
  await page.goto(base);
  await page.getByRole('link', { name: 'Sign in with Example' }).click();
  await page.locator('input[name="login"]').fill(name);
  await page.locator('input[name="password"]').fill('any');
  await page.keyboard.press('Enter');
  await work(page);
  assert.deepEqual(blocked.filter((text) => text.includes('Content Security Policy')), []);
  await context.close();
};

try {
  await visit('olga', async (page) => {
    await page.getByRole('navigation').waitFor();
    assert.equal(new URL(page.url()).search, '', 'no code stays in the address');
    await page.keyboard.press('g');
    await page.keyboard.press('u');
    const row = page.getByRole('region', { name: 'All users' }).getByRole('row').filter({ hasText: 'oidc:olga' });
    await row.filter({ hasText: 'at the provider' }).waitFor();
    assert.equal(await row.getByRole('button', { name: 'Reset password' }).count(), 0);
    await row.getByRole('button', { name: 'Keep out' }).waitFor();
    // It is a session as any: the page comes back with it, until one signs out.
    await page.reload();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('link', { name: 'Sign in with Example' }).waitFor();
  });
  await visit('bert', async (page) => {
    await page.getByRole('alert').filter({ hasText: 'no rule of this box lets you in' }).waitFor();
    assert.equal(new URL(page.url()).hash, '');
  });
  console.log('ok: the button leads to the provider and back, in or out');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
