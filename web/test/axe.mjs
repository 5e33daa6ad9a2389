// Every view in both themes, looked at by axe: BASE_URL and TOKEN say where. Exits 0 if it finds nothing, 1 with what it does.

import axe from 'axe-core';
import { launch, need } from './browser.mjs';

const base = need('BASE_URL');
const token = need('TOKEN');

/** What each view is brought to before it is looked at. */
const VIEWS = {
  overview: async (page) => page.getByRole('grid', { name: 'Paths' }).locator('tbody tr').first().waitFor(),
  path: async (page) => {
    await page.goto(`${base}/`);
    await page.getByRole('grid', { name: 'Paths' }).locator('tbody a[href^="/path?"]').first().click();
    await page.getByRole('heading', { name: 'Moves' }).waitFor();
  },
  sessions: async (page) => {
    await page.locator('.rows tbody tr.opens').first().click();
    await page.getByRole('complementary').waitFor();
  },
  flows: async (page) => page.locator('.rows tbody tr.opens').first().waitFor(),
  'flows?port=x': async (page) => page.locator('.field.bad').waitFor(),
  'flows?tenant=nobody': async (page) => page.locator('.empty').waitFor(),
  'history?by=class': async (page) => page.locator('.measured, td').first().waitFor(),
  rules: async (page) => page.locator('.rows tbody tr').first().waitFor(),
  'explain?tenant=acme&from=10.1.0.5&to=203.0.113.80:443': async (page) => page.locator('.answer .steps, .answer .empty').first().waitFor(),
  trace: async (page) => page.getByRole('main').waitFor(),
  nat: async (page) => page.getByRole('region', { name: 'Pools' }).locator('td').first().waitFor(),
  'who-had?address=198.51.100.7&port=40112&at=2026-11-22T10:00Z': async (page) => page.locator('.answer header').first().waitFor(),
  captures: async (page) => {
    await page.getByLabel('Tenant').fill('acme');
    await page.getByRole('button', { name: 'Capture', exact: true }).click();
    await page.getByRole('button', { name: /^Download/ }).first().waitFor();
  },
  changes: async (page) => page.getByRole('region', { name: 'Audit log' }).first().waitFor(),
  users: async (page) => page.getByRole('heading', { name: 'Users' }).first().waitFor(),
};

const browser = await launch();
let failed = 0;

async function look(page, name) {
  // Evaluated, not put into the page: its policy lets no such script in.
  if (!(await page.evaluate('typeof axe === "object"'))) await page.evaluate(axe.source);
  const { violations } = await page.evaluate('axe.run()');
  for (const { id, help, nodes } of violations) {
    failed = 1;
    console.error(`FAILED: ${name}: ${id}: ${help}`);
    for (const { target, failureSummary } of nodes.slice(0, 5)) {
      console.error(`  ${target.join(' ')}\n    ${(failureSummary ?? '').replaceAll('\n', '\n    ')}`);
    }
  }
  if (violations.length === 0) console.log(`ok: axe finds nothing in ${name}`);
}

for (const colorScheme of ['light', 'dark']) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme, reducedMotion: 'reduce' });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  await page.goto(base);
  await page.getByLabel('Name').waitFor();
  await look(page, `signin, ${colorScheme}`);
  await page.getByRole('button', { name: "Use the box's own token" }).click();
  await page.getByLabel('Admin token').waitFor();
  await look(page, `signin by token, ${colorScheme}`);
  await page.getByLabel('Admin token').fill(token);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation').waitFor();
  for (const [view, prepare] of Object.entries(VIEWS)) {
    if (view !== 'path') await page.goto(`${base}/${view === 'overview' ? '' : view}`);
    await prepare(page);
    await look(page, `${view.split('?')[0]}, ${colorScheme}`);
  }
  await page.keyboard.press('Escape');
  await page.locator('body').press('?');
  await page.locator('dialog[open]').waitFor();
  await look(page, `help, ${colorScheme}`);
  await context.close();
}
await browser.close();
process.exit(failed);
