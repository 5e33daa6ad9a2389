// Pictures of every view, for somebody to look at: BASE_URL and TOKEN say of what, OUT where to (../target/screens).

import { mkdir } from 'node:fs/promises';
import { claim, launch, need, paste } from './browser.mjs';

const base = need('BASE_URL');
const token = need('TOKEN');
const out = process.env.OUT ?? new URL('../../target/screens', import.meta.url).pathname;
await mkdir(out, { recursive: true });

const browser = await launch();
const sizes = { desk: { width: 1440, height: 900 }, wide: { width: 1880, height: 1000 }, phone: { width: 390, height: 844 } };
for (const scheme of ['light', 'dark']) {
  for (const [size, viewport] of Object.entries(sizes)) {
    if (process.env.ONLY && !`${size}-${scheme}`.includes(process.env.ONLY)) continue;
    const context = await browser.newContext({ viewport, colorScheme: scheme, deviceScaleFactor: size === 'phone' ? 2 : 1 });
    const page = await context.newPage();
    page.on('console', (message) => message.type() === 'error' && console.error('console:', message.text()));
    page.on('pageerror', (error) => console.error('page:', error));
    const picture = async (name) => {
      await page.screenshot({ path: `${out}/${name}-${size}-${scheme}.png` });
      console.log(`${name}-${size}-${scheme}`);
    };
    await page.goto(base);
    await page.getByLabel('Name').waitFor();
    await picture('signin');
    await page.getByRole('button', { name: "Use the box's own token" }).click();
    await page.getByLabel('Admin token').fill('wrong');
    await page.click('button[type=submit]');
    await page.getByText('not the token of this box').waitFor();
    await picture('signin-by-token');
    await page.getByLabel('Admin token').fill(token);
    await page.click('button[type=submit]');
    await page.locator('.paths tbody tr').first().waitFor();
    // The lines need a few samples to be lines.
    await page.waitForTimeout(process.env.QUICK ? 2500 : 14000);
    await picture('overview');
    if (size !== 'wide') await page.screenshot({ path: `${out}/overview-full-${size}-${scheme}.png`, fullPage: true });
    await page.goto(`${base}/sessions`);
    await page.locator('.rows tbody tr.opens').nth(5).waitFor();
    await picture('sessions');
    await page.locator('.rows tbody tr.opens').nth(5).click();
    await page.locator('aside.detail').waitFor();
    await picture('session-open');
    await page.goto(`${base}/flows?tenant=acme&port=x`);
    await page.locator('.field.bad').waitFor();
    await picture('flows-bad-filter');
    await page.goto(`${base}/flows?tenant=acme&sort=-reverse`);
    await page.locator('.rows tbody tr.opens').nth(5).waitFor();
    await picture('flows');
    await page.goto(`${base}/flows?tenant=nobody`);
    await page.locator('.empty').waitFor();
    await picture('flows-empty');
    await page.goto(`${base}/history?q=${encodeURIComponent('class = voice and byts > 1M')}`);
    await page.locator('.field.bad').waitFor();
    await picture('history-bad-filter');
    await page.goto(`${base}/history?by=class,destination`);
    await page.locator('.measured').first().waitFor();
    await picture('history');
    await page.goto(`${base}/history?by=records`);
    await page.locator('.history td').first().waitFor();
    await picture('history-records');
    await page.goto(`${base}/users`);
    await page.getByRole('form', { name: 'User' }).getByLabel('Name').fill(`user-${size}-${scheme}`);
    await page.keyboard.press('Enter');
    await page.getByRole('status').locator('code.secret').waitFor();
    await picture('users');
    await page.goto(`${base}/enrolments`);
    await page.getByLabel('Site').fill(`site-${size}-${scheme}`);
    await page.getByLabel('Prefixes').fill('10.7.0.0/16');
    await page.getByRole('button', { name: 'Make the code' }).click();
    await picture('enrolments-code');
    await claim(base, await page.locator('.new-code code.secret').textContent(), 'isp-a', 7);
    await page.getByRole('button', { name: `Approve site-${size}-${scheme}` }).click();
    await picture('enrolments-approve');
    await page.keyboard.press('Escape');
    await page.screenshot({ path: `${out}/enrolments-full-${size}-${scheme}.png`, fullPage: true });
    await page.goto(`${base}/update`);
    await page.getByRole('form', { name: 'Update' }).waitFor();
    await picture('update');
    await page.goto(`${base}/changes`);
    await page.getByLabel('File of').selectOption('tenant:acme');
    await paste(page.getByRole('textbox', { name: 'The text of acme' }), `[[acl]]\nname = "night-${size}-${scheme}"\naction = "drop"\n`);
    await page.getByRole('button', { name: 'Keep as candidate' }).click();
    await page.locator('.changes .diff').waitFor();
    await picture('changes');
    await page.screenshot({ path: `${out}/changes-full-${size}-${scheme}.png`, fullPage: true });
    await page.getByRole('button', { name: 'Commit' }).click();
    await page.locator('.banner .countdown').waitFor();
    await page.waitForTimeout(300);
    await picture('changes-unconfirmed');
    await page.getByRole('button', { name: 'Confirm' }).click();
    await page.locator('.banner .countdown').waitFor({ state: 'detached' });
    await page.keyboard.press('?');
    await page.locator('dialog[open]').waitFor();
    await picture('help');
    await context.close();
  }
}
await browser.close();
