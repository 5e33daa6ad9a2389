// What a person does with the console, done by a browser: BASE_URL and TOKEN say where, SESSION_TEXT which session must
// be seen (its source, `10.1.0.77:50123`), SESSION_FILTER how to find it (`address=10.1.0.77&port=50123`; optional), OUT where
// pictures go of what does not last (optional).
// Exits 0 if all of it went well, 1 with what did not.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { claim, launch, need, paste, totp } from './browser.mjs';

const wire = await cuttableWire(new URL(need('BASE_URL')));
const base = wire.url;
const token = need('TOKEN');
const sessionText = need('SESSION_TEXT');
// An address and port that acme's berlin had, when, and which of its hosts.
const held = { address: need('HELD_ADDRESS'), port: need('HELD_PORT'), at: need('HELD_AT'), inside: need('HELD_INSIDE') };
const sessionFilter = Object.fromEntries(new URLSearchParams(process.env.SESSION_FILTER ?? ''));
/** For whatever must show up: many times what a busy machine takes. */
const PATIENCE_MS = 20_000;

const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light' });
context.setDefaultTimeout(PATIENCE_MS);
const page = await context.newPage();
const errors = [];
const elsewhere = [];
page.on('pageerror', (error) => errors.push(String(error)));
// Refusals are asked for below and Chromium reports each; a breach of the content security policy it reports here too.
page.on('console', (message) => {
  if (message.type() === 'error' && !/status of (401|400|404|409|422)/.test(message.text())) errors.push(message.text());
});
page.on('request', (request) => {
  if (new URL(request.url()).origin !== new URL(base).origin) elsewhere.push(request.url());
});

/** A way to the server that can be cut: as emulated by Chromium, being offline leaves an open stream alone. */
async function cuttableWire(target) {
  const sockets = new Set();
  let whole = true;
  const server = createServer((near) => {
    if (!whole) return near.destroy();
    const far = connect(Number(target.port || 80), target.hostname.replace(/^\[|\]$/g, ''));
    for (const [socket, other] of [[near, far], [far, near]]) {
      sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      whole = false;
      sockets.forEach((socket) => socket.destroy());
    },
    mend: () => (whole = true),
  };
}

/** The users that the steps add: one who looks at a tenant, and one who changes the box. */
const vera = { name: 'vera' };
const olga = { name: 'olga' };

async function signIn(user, password = user.password) {
  await page.getByLabel('Name').fill(user.name);
  await page.getByLabel('Password').fill(password);
  await page.keyboard.press('Enter');
}

/** Adds a user, and keeps the password that is shown this once. */
async function add(user, role, tenant) {
  const form = page.getByRole('form', { name: 'User' });
  await form.getByLabel('Name').fill(user.name);
  await form.getByLabel('Role').selectOption(role);
  await form.getByLabel('Tenant').selectOption(tenant);
  await form.getByRole('button', { name: 'Add' }).click();
  await page.getByRole('status').filter({ hasText: `${user.name} is added` }).waitFor();
  user.password = await page.getByRole('status').locator('code.secret').textContent();
  assert.equal(user.password.length, 20);
  await page.getByRole('region', { name: 'All users' }).getByRole('row').filter({ hasText: user.name }).waitFor();
}

/** What a user is asked for who signs in for the first time. */
async function begin(user, password) {
  await page.getByLabel('Password as it is').fill(user.password);
  await page.getByLabel('New password, 12 characters or more').fill(password);
  await page.getByLabel('New password again').fill(password);
  await page.keyboard.press('Enter');
  user.password = password;
  await page.getByRole('button', { name: 'Set up an authenticator app' }).click();
  await page.getByRole('img', { name: 'The secret as a QR code' }).waitFor();
  user.secret = await page.locator('code.secret').textContent();
  user.firstStep = Math.floor(Date.now() / 30_000);
  await page.getByLabel('Code that the app shows').fill(code(user, 0));
  await page.getByLabel('Password').fill(user.password);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation').waitFor();
}

/** A file's text, as it is in force. */
async function textInForce(file) {
  const answer = await page.evaluate(async () => (await fetch('/api/v1/config/texts', { headers: { 'Popgate-Request': '1' } })).json());
  return answer.texts[file];
}

const picture = async (name) => {
  if (process.env.OUT) await page.screenshot({ path: `${process.env.OUT}/${name}.png` });
};

/** A user's code, so many half minutes after the first. */
const code = (user, after) => totp(user.secret, user.firstStep + after);

const steps = {
  async 'asks who one is before it shows anything'() {
    await page.goto(base);
    await page.getByLabel('Name').waitFor();
    assert.equal(await page.getByRole('navigation').count(), 0);
    await page.getByRole('button', { name: "Use the box's own token" }).click();
    await page.getByLabel('Admin token').waitFor();
  },

  async 'refuses a wrong token and says so'() {
    await page.getByLabel('Admin token').fill('not-the-token');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'not the token of this box' }).waitFor();
    assert.equal(await page.getByRole('navigation').count(), 0);
  },

  async 'takes the right one, and keeps it for this tab alone'() {
    await page.getByLabel('Admin token').fill(token);
    await page.keyboard.press('Enter');
    await page.getByRole('navigation').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 1);
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    assert.equal((await context.cookies()).length, 0);
    assert.ok(!page.url().includes(token));
  },

  async 'shows live paths'() {
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
    await page.getByRole('grid', { name: 'Paths' }).locator('tbody tr .state.up').first().waitFor();
    // A rate takes two samples, so this is an event stream that goes on.
    const throughput = page.locator('.metric').filter({ hasText: 'Throughput' }).locator('.value');
    await page.waitForFunction((element) => /bit\/s$/.test(element.textContent), await throughput.elementHandle());
  },

  async 'draws a map of what leads to the box, whose sites and paths can be gone to by keyboard'() {
    const map = page.getByRole('region', { name: 'Map' });
    const site = map.getByRole('link', { name: /^acme berlin: \w+, \d of \d paths$/ });
    await site.focus();
    await page.keyboard.press('Enter');
    await page.waitForURL(/find=acme(\+|%20)berlin/);
    const paths = page.getByRole('grid', { name: 'Paths' }).locator('tbody tr');
    await paths.first().waitFor();
    for (const row of await paths.allTextContents()) assert.match(row, /acme.*berlin/);
    const path = map.getByRole('link', { name: /^Path acme berlin / }).first();
    const name = (await path.getAttribute('aria-label')).split(' ')[3].replace(':', '');
    await path.focus();
    await page.keyboard.press('Enter');
    await page.waitForURL((url) => url.pathname === '/path' && url.searchParams.get('path') === name);
    await page.goto(base);
    await page.getByRole('grid', { name: 'Paths' }).locator('tbody tr').first().waitFor();
  },

  async 'keeps the map of thousands of branches to what can be seen, the worst of it first'() {
    const get = async (what) => (await fetch(`${base}/api/v1/${what}`, { headers: { Authorization: `Bearer ${token}` } })).json();
    const [status, { paths }, drops] = [await get('status'), await get('paths'), await get('drops')];
    const branch = (at) => ({ ...paths[0], tenant: `tenant-${at % 60}`, site: `branch-${at}`, path: 'dsl', state: at === 2999 ? 'down' : 'up', loss: 0 });
    const sample = { status, paths: { paths: Array.from({ length: 3000 }, (_, at) => branch(at)) }, drops };
    const body = Object.entries(sample).map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    await page.route('**/api/v1/events', (route) => route.fulfill({ contentType: 'text/event-stream', body: body.join('') }));
    await page.reload();
    const map = page.getByRole('region', { name: 'Map' });
    await map.getByText('The 24 that are worst off, and 36 more').waitFor();
    await map.getByRole('link', { name: 'tenant-59 50 sites, 1 down' }).click();
    await map.getByRole('link', { name: 'tenant-59 branch-2999: down, 0 of 1 paths' }).waitFor();
    assert.ok((await map.getByRole('link').count()) <= 2 * 24 + 1);
    await map.getByRole('link', { name: 'All tenants' }).click();
    await map.getByRole('link', { name: /^tenant-0 50 sites, all up$/ }).waitFor();
    await page.unroute('**/api/v1/events');
    await page.goto(base);
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
  },

  async 'tells the busiest classes, each leading to its flows'() {
    // From the flow history, where one is kept.
    if (!process.env.HAS_FLOW_HISTORY) return;
    const busiest = page.getByRole('region', { name: 'Busiest classes', exact: true });
    const link = busiest.getByRole('row').nth(1).getByRole('link');
    const name = await link.textContent();
    await link.click();
    await page.waitForURL((url) => url.pathname === '/history' && url.searchParams.get('q') === `class = ${name}`);
    await page.goBack();
    await page.getByRole('grid', { name: 'Paths' }).waitFor();
  },

  async 'says which collector gets no flow records, and what the others were sent'() {
    // A box may have none.
    const failing = process.env.FAILING_COLLECTOR;
    if (!failing) return;
    const wrong = page.getByRole('region', { name: 'What is wrong now' });
    await wrong.getByText(`Collector ${failing} gets no flow records`).waitFor();
    await page.getByRole('region', { name: 'This box' }).getByText(/^is sent to, [\d.,\s\u202f]+ records/).waitFor();
  },

  async 'draws how good a path has been, with what its classes ask of it'() {
    await page.getByRole('grid', { name: 'Paths' }).locator('tbody a[href^="/path?"]').first().click();
    // A box that has just been started has nothing to draw.
    if (process.env.HAS_HISTORY) {
      for (const measure of ['Latency', 'Jitter', 'Loss', 'MOS']) {
        await page.getByRole('region', { name: measure, exact: true }).locator('.line.out').waitFor();
      }
      await page.getByRole('region', { name: 'By DSCP' }).getByRole('cell', { name: 'ef', exact: true }).waitFor();
      await page.getByRole('region', { name: 'Queues' }).getByRole('cell', { name: 'weight 10' }).waitFor();
    }
    await page.getByRole('heading', { name: 'Moves' }).waitFor();
    if (process.env.SCREENSHOT_PATH) await page.screenshot({ path: process.env.SCREENSHOT_PATH, fullPage: true });
    await page.goBack();
    await page.getByRole('grid', { name: 'Paths' }).waitFor();
  },

  async 'goes to the sessions by keyboard and finds one by its filter'() {
    await page.keyboard.press('g');
    await page.keyboard.press('s');
    await page.getByRole('grid', { name: 'Sessions' }).waitFor();
    await page.keyboard.press('/');
    assert.equal(await page.evaluate(() => document.activeElement.closest('label')?.textContent.trim()), 'Tenant');
    for (const [name, value] of Object.entries(sessionFilter)) {
      await page.getByLabel(name, { exact: false }).and(page.locator('.filter input')).fill(value);
    }
    await page.locator('.rows tbody tr').filter({ hasText: sessionText }).first().waitFor();
    const url = new URL(page.url());
    assert.equal(url.pathname, '/sessions');
    for (const [name, value] of Object.entries(sessionFilter)) assert.equal(url.searchParams.get(name), value);
  },

  async 'opens it by keyboard and tells all there is to know'() {
    await page.getByRole('group', { name: 'Sessions' }).focus();
    await page.keyboard.press('Home');
    const rows = page.locator('.rows tbody tr.opens');
    const texts = await rows.allTextContents();
    for (let row = texts.findIndex((text) => text.includes(sessionText)); row > 0; row -= 1) {
      await page.keyboard.press('ArrowDown');
    }
    await page.keyboard.press('Enter');
    const detail = page.getByRole('complementary');
    for (const fact of ['Tenant', 'NAT source', 'Class', 'Rule', 'Path']) {
      await detail.locator('dt').filter({ hasText: new RegExp(`^${fact}$`) }).waitFor();
    }
    await page.keyboard.press('Escape');
    await detail.waitFor({ state: 'detached' });
  },

  async 'finds it again in a page loaded anew from that address'() {
    await page.reload();
    await page.locator('.rows tbody tr').filter({ hasText: sessionText }).first().waitFor();
  },

  async 'takes the filter along to the flows, and names a field at fault'() {
    await page.keyboard.press('g');
    await page.keyboard.press('f');
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
    for (const [name, value] of Object.entries(sessionFilter)) {
      assert.equal(new URL(page.url()).searchParams.get(name), value);
    }
    await page.keyboard.press('c');
    await page.locator('.field.address input').fill('10.0.0.0/8');
    await page.getByRole('alert').filter({ hasText: 'is not an IPv4 or IPv6 address' }).waitFor();
    assert.equal(await page.locator('.field.address input').getAttribute('aria-invalid'), 'true');
    await page.keyboard.press('Escape');
    await page.keyboard.press('c');
    await page.getByRole('alert').waitFor({ state: 'detached' });
  },

  async 'keeps only the rows in sight in the page, which itself does not scroll'() {
    await page.locator('.rows tbody tr.opens').first().waitFor();
    assert.ok((await page.locator('.rows tbody tr').count()) < 120);
    const [page_, window_] = await page.evaluate(() => [document.documentElement.scrollHeight, innerHeight]);
    assert.ok(page_ <= window_, `the page is ${page_} high in a window of ${window_}`);
    const pane = page.getByRole('group', { name: 'Flow records' });
    await pane.focus();
    await page.keyboard.press('End');
    await page.waitForFunction((rows) => {
      const count = Number(rows.querySelector('[aria-rowcount]').getAttribute('aria-rowcount'));
      const last = rows.querySelector('tbody tr.cursor');
      return last && Number(last.getAttribute('aria-rowindex')) === count && rows.scrollTop + rows.clientHeight >= rows.scrollHeight - 1;
    }, await pane.elementHandle());
    await page.keyboard.press('Home');
  },

  async 'sorts by a column'() {
    await page.getByRole('button', { name: 'Reverse' }).click();
    await page.locator('th[aria-sort=descending]').filter({ hasText: 'Reverse' }).waitFor();
    assert.equal(new URL(page.url()).searchParams.get('sort'), '-reverse');
  },

  async 'shows the rules in their order, and which never decided'() {
    await page.keyboard.press('g');
    await page.keyboard.press('r');
    const rules = page.getByRole('grid', { name: 'Rules' });
    await rules.locator('tbody tr').first().waitFor();
    assert.equal(new URL(page.url()).pathname, '/rules');
    assert.match(await page.locator('.standing .count').textContent(), /^\d+ rules/);
  },

  async 'explains a flow by keyboard, and names a field at fault'() {
    const tenant = (await page.locator('.rows tbody tr td').first().textContent()).trim();
    await page.keyboard.press('g');
    await page.keyboard.press('e');
    await page.getByRole('form', { name: 'Flow to explain' }).waitFor();
    await page.keyboard.press('/');
    await page.keyboard.type(tenant);
    await page.keyboard.press('Tab');
    await page.keyboard.type('10.1.0.5');
    await page.keyboard.press('Tab');
    await page.keyboard.type('10.0.0.0/8');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'is not an address' }).waitFor();
    assert.equal(await page.locator('.asked-to input').getAttribute('aria-invalid'), 'true');
    await page.locator('.asked-to input').fill('203.0.113.80:443');
    await page.keyboard.press('Enter');
    const answer = page.getByRole('region', { name: 'Explanation' });
    await answer.getByRole('heading').filter({ hasText: /^(Accepted|Dropped|Rejected)/ }).waitFor();
    await answer.locator('.steps li').filter({ hasText: /tenants\/.*\.toml:\d+/ }).first().waitFor();
    assert.equal(new URL(page.url()).searchParams.get('to'), '203.0.113.80:443');
    await page.goBack();
    await page.goBack();
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
  },

  async 'ends a session when one presses twice, and asks a candidate what it would do'() {
    const back = page.url();
    await page.goto(`${base}/sessions?${new URLSearchParams(sessionFilter)}`);
    await page.locator('.rows tbody tr.opens').filter({ hasText: sessionText }).first().click();
    const pane = page.getByRole('complementary');
    await pane.getByRole('button', { name: 'Clear session' }).click();
    // A real one is needed once more.
    if (process.env.HAS_HISTORY) {
      await pane.getByRole('button', { name: 'press again' }).click();
      await pane.getByRole('status').filter({ hasText: 'It has been ended' }).waitFor();
    }
    await page.goto(`${base}/explain?tenant=acme&from=10.1.0.77&to=203.0.113.80:443`);
    const answer = page.getByRole('region', { name: 'Explanation' });
    const inForce = await answer.getByRole('heading').textContent();
    await page.getByLabel('Configuration').fill('in-force');
    await page.keyboard.press('Enter');
    await page.waitForURL((url) => url.searchParams.get('of') === 'in-force');
    assert.equal(await answer.getByRole('heading').textContent(), inForce);
    await page.getByLabel('Configuration').fill('next');
    await page.keyboard.press('Enter');
    await page.getByText(/"next" is none of/).first().waitFor();
    if (process.env.HAS_HISTORY) {
      await page.getByLabel('Configuration').fill('files');
      await page.keyboard.press('Enter');
      await answer.getByRole('heading', { name: 'Dropped: files' }).waitFor();
    }
    await page.goto(back);
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
  },

  async 'tells what became of a session, reached from its row'() {
    const back = page.url();
    await page.goto(`${base}/sessions?${new URLSearchParams(sessionFilter)}`);
    await page.locator('.rows tbody tr.opens').filter({ hasText: sessionText }).first().click();
    await page.getByRole('complementary').getByRole('link', { name: 'trace' }).click();
    await page.getByRole('form', { name: 'Flow to trace' }).waitFor();
    assert.equal(new URL(page.url()).searchParams.get('from'), sessionText);
    const events = page.getByRole('list', { name: 'What happened, in order' }).first();
    await events.locator('li').filter({ hasText: 'began: class' }).waitFor();
    await page.getByRole('region', { name: 'What would become of it now' }).waitFor();
    await page.reload();
    await events.locator('li').filter({ hasText: 'began: class' }).waitFor();
    await page.locator('.traced-to input').fill('203.0.113.80');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'has no port' }).waitFor();
    await page.goto(back);
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
  },

  async 'says who had an address by keyboard, and that a time lacks its zone'() {
    await page.keyboard.press('g');
    await page.keyboard.press('w');
    await page.getByRole('form', { name: 'Address and port to look up' }).waitFor();
    await page.keyboard.press('/');
    await page.keyboard.type(held.address);
    await page.keyboard.press('Tab');
    await page.keyboard.type(held.port);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    await page.keyboard.type(held.at.replace(/Z$/, ''));
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'is not a time with its zone' }).waitFor();
    await page.locator('.looked-at input').fill(held.at);
    await page.keyboard.press('Enter');
    const answer = page.getByRole('region', { name: 'Who had it' });
    await answer.getByRole('heading', { name: 'acme, berlin' }).waitFor();
    await answer.getByText(held.inside).waitFor();
    if (process.env.HELD_UNTIL) await answer.getByText(`until ${process.env.HELD_UNTIL}`).waitFor();
    assert.equal(new URL(page.url()).searchParams.get('at'), held.at);
    await page.reload();
    await answer.getByRole('heading', { name: 'acme, berlin' }).waitFor();
    await page.goBack();
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
  },

  async 'asks the flow history, and points at what is wrong in a filter'() {
    // A box that keeps none says how to have it keep one.
    const kept = process.env.HAS_FLOW_HISTORY;
    await page.keyboard.press('g');
    await page.keyboard.press('h');
    const question = page.getByRole('form', { name: 'Question to the flow history' });
    await question.waitFor();
    if (!kept) {
      await page.getByText('[flow-history] in popgate.toml').waitFor();
      await page.goBack();
      return page.getByRole('grid', { name: 'Flow records' }).waitFor();
    }
    await page.keyboard.press('/');
    await page.keyboard.type('class = voice and byts > 1M');
    await page.keyboard.press('Enter');
    const wrong = page.getByRole('alert').filter({ hasText: 'did you mean "bytes"?' });
    await wrong.waitFor();
    assert.match((await wrong.textContent()) ?? '', /\n {18}\^{4} /);
    // What a lab has seen, and no more than that.
    if (kept !== 'much') {
      await question.locator('.asked-q input').fill('dport = 443');
      await question.locator('.asked-by input').fill('class,destination');
      await page.keyboard.press('Enter');
      await wrong.waitFor({ state: 'detached' });
      await page.getByRole('cell', { name: kept }).first().waitFor();
      await picture('history-of-the-lab');
      await page.goBack();
      return page.getByRole('grid', { name: 'Flow records' }).waitFor();
    }
    await question.locator('.asked-q input').fill('class = voice and bytes > 1M');
    await question.locator('.asked-by input').fill('class,destination');
    await page.keyboard.press('Enter');
    await wrong.waitFor({ state: 'detached' });
    await page.getByRole('region', { name: 'bytes over time' }).waitFor();
    await page.getByRole('cell', { name: '203.0.113.9' }).first().waitFor();
    const ways = page.getByRole('region', { name: 'bytes by class and destination' });
    const narrower = ways.getByRole('link', { name: /^Only class [\w-]+, \d/ }).first();
    const only = (await narrower.getAttribute('aria-label')).split(' ')[2].replace(',', '');
    await narrower.focus();
    await page.keyboard.press('Enter');
    await page.waitForURL((url) => url.searchParams.get('q') === `(class = voice and bytes > 1M) and class = ${only}`);
    await page.goBack();
    const asked = new URL(page.url()).searchParams;
    assert.deepEqual([asked.get('q'), asked.get('by')], ['class = voice and bytes > 1M', 'class,destination']);
    const range = question.getByLabel('Last');
    const missing = page.getByText(/^What ended before .* is not all in it/);
    await range.selectOption('7d');
    await missing.waitFor();
    await range.selectOption('1h');
    await missing.waitFor({ state: 'detached' });
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'CSV' }).click()]);
    assert.equal(file.suggestedFilename(), 'flows.csv');
    await question.locator('.asked-by input').fill('records');
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'Older' }).click();
    await page.getByRole('heading', { name: 'Records' }).waitFor();
    assert.equal(new URL(page.url()).searchParams.get('cursor'), '1-1');
    await page.goBack();
    await page.goBack();
    await page.getByRole('grid', { name: 'Flow records' }).waitFor();
  },

  async 'explains its keys'() {
    await page.keyboard.press('?');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
  },

  async 'turns dark and light'() {
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const before = await ground();
    await page.getByRole('button', { name: /^Theme/ }).click();
    assert.equal(await ground(), before, 'the system is light already');
    await page.getByRole('button', { name: /^Theme/ }).click();
    assert.notEqual(await ground(), before);
    await page.getByRole('button', { name: /^Theme/ }).click();
  },

  async 'shows how much of the NAT pools is used, and who had a block'() {
    await page.keyboard.press('g');
    await page.keyboard.press('n');
    const pools = page.getByRole('region', { name: 'Pools' });
    await pools.getByRole('row').filter({ hasText: '198.51.100.0/29' }).first().waitFor();
    const block = page.getByRole('region', { name: 'Blocks' }).getByRole('link', { name: /^Who had/ }).first();
    // A box may give ports out without blocks.
    if (!process.env.HAS_BLOCKS) return;
    const hosts = page.getByRole('button', { name: new RegExp(`^Hosts that hold ports of ${held.address}, `) }).first();
    await hosts.click();
    await page.getByRole('list', { name: /^Hosts with ports of/ }).getByText(process.env.BLOCK_HOST).waitFor();
    await hosts.click();
    await block.click();
    await page.waitForURL(/\/who-had\?address=198\.51\.100\.\d+&port=\d+/);
  },

  async 'captures packets and downloads the file'() {
    await page.keyboard.press('g');
    await page.keyboard.press('p');
    const main = page.getByRole('main');
    await main.getByText('None. Say whose packets').waitFor();
    await main.getByLabel('Tenant').fill('nobody');
    await main.getByRole('button', { name: 'Capture', exact: true }).click();
    await main.getByRole('alert').filter({ hasText: 'there is no tenant "nobody"' }).waitFor();
    await main.getByLabel('Tenant').fill('acme');
    await main.getByRole('textbox', { name: 'Packets' }).fill('many');
    await main.getByRole('button', { name: 'Capture', exact: true }).click();
    await main.getByRole('alert').filter({ hasText: '"many" is not a number' }).waitFor();
    await main.getByRole('textbox', { name: 'Packets' }).fill('1');
    await main.getByRole('textbox', { name: 'Seconds' }).fill('10');
    await main.getByRole('button', { name: 'Capture', exact: true }).click();
    const row = main.getByRole('row').filter({ hasText: 'acme' });
    await row.filter({ hasText: 'over' }).waitFor();
    // On a phone nothing of it is out of sight.
    await page.setViewportSize({ width: 390, height: 844 });
    const edge = (await row.getByRole('button', { name: /^Delete/ }).boundingBox());
    assert.ok(edge.x + edge.width <= 390, `it can be deleted at ${edge.x + edge.width}`);
    await page.setViewportSize({ width: 1440, height: 900 });
    const saved = page.waitForEvent('download');
    await row.getByRole('button', { name: /^Download/ }).click();
    assert.match((await saved).suggestedFilename(), /^acme-\d+\.pcapng$/);
    await row.getByRole('button', { name: /^Delete/ }).click();
    await main.getByText('None. Say whose packets').waitFor();
  },

  async 'makes a code for a branch, shows it once, and says who waits with it'() {
    if (!process.env.ENROLS) return;
    await page.keyboard.press('g');
    await page.keyboard.press('b');
    const main = page.getByRole('main');
    await main.getByText('There are none yet. A code makes').waitFor();
    const form = main.getByRole('form', { name: 'Code' });
    const make = form.getByRole('button', { name: 'Make the code' });
    // Of a branch that there is, the tenant's file knows the prefixes.
    await form.getByLabel('Site').fill('lyon');
    await form.getByText("lyon is in acme's file already").waitFor();
    assert.equal(await form.getByLabel('Prefixes').count(), 0);
    await form.getByLabel('Site').fill('Nantes!');
    await form.getByLabel('Prefixes').fill('10.7.0.0/16');
    await make.click();
    await form.locator('.enrolled-site.bad').waitFor();
    await form.getByLabel('Site').fill('nantes');
    await form.getByLabel('Prefixes').fill('10.7.0.0/33');
    await form.getByText('Its LAN, its paths').click();
    await form.getByRole('button', { name: 'Name a path' }).click();
    const path = form.getByRole('group', { name: 'Path 1' });
    await path.getByLabel('Path', { exact: true }).fill('dsl');
    await path.getByLabel('Transport').selectOption('isp-a');
    await path.getByLabel('Dialled at').fill('nowhere');
    await make.click();
    await form.locator('.enrolled-prefixes.bad').waitFor();
    await form.getByLabel('Prefixes').fill('10.7.0.0/16, 2001:db8:7::/48');
    await make.click();
    await form.getByRole('alert').filter({ hasText: '"nowhere" is not an address' }).waitFor();
    await path.getByRole('button', { name: 'Leave it out' }).click();
    await form.getByLabel('DHCP').fill('10.9.0.1-10.9.0.9');
    await make.click();
    await form.getByRole('alert').filter({ hasText: '10.9.0.1' }).waitFor();
    await form.getByLabel('DHCP').fill('none');
    await form.getByLabel('Site').focus();
    await page.keyboard.press('Enter');
    const made = main.getByRole('region', { name: 'The code for nantes, told this once' });
    const code = await made.locator('code.secret').textContent();
    await made.getByText('10.7.0.1/16').waitFor();
    assert.match(code, /^PG1(-[0-9A-Z]{1,5})+$/);
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await made.getByRole('button', { name: 'Copy' }).click();
    await made.getByRole('button', { name: 'Copied' }).waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
    const saved = page.waitForEvent('download');
    await made.getByRole('link', { name: 'Save as enrol-code' }).click();
    assert.equal((await saved).suggestedFilename(), 'enrol-code');
    await picture('enrolments-code');
    await page.setViewportSize({ width: 390, height: 844 });
    const [page_, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(page_ <= window_, `it is ${page_} wide in a window of ${window_}`);
    await page.setViewportSize({ width: 1440, height: 900 });
    await made.getByRole('button', { name: 'I have it' }).click();
    assert.ok(!(await main.textContent()).includes(code));
    const all = main.getByRole('region', { name: 'All enrolments, the newest first' });
    await all.getByRole('row').filter({ hasText: 'nantes' }).filter({ hasText: /open\s*until/ }).waitFor();

    await claim(base, code, 'isp-a', 7);
    await page.keyboard.press('g');
    await page.keyboard.press('o');
    const wrong = page.getByRole('region', { name: 'What is wrong now' }).getByRole('listitem').filter({ hasText: 'A box waits to be approved as acme / nantes' });
    await wrong.filter({ hasText: 'It calls from 127.0.0.1' }).getByRole('link', { name: 'Compare its fingerprint' }).click();
    await main.getByRole('heading', { name: 'A box waits to be approved' }).waitFor();
  },

  async 'approves a box once its fingerprint is compared, says why it cannot be, refuses and revokes'() {
    if (!process.env.ENROLS) return;
    const main = page.getByRole('main');
    const all = main.getByRole('region', { name: 'All enrolments, the newest first' });
    const waits = main.getByRole('listitem').filter({ has: page.getByRole('heading', { name: 'nantes of acme' }) });
    const print = await waits.locator('.fingerprint').textContent();
    const dialog = page.getByRole('dialog');
    // Nothing happens by a key that slips.
    await waits.getByRole('button', { name: 'Approve' }).click();
    await dialog.getByText(print).waitFor();
    await picture('enrolments-approve');
    await page.keyboard.press('Enter');
    await dialog.waitFor({ state: 'detached' });
    await waits.waitFor();

    // What somebody else is about to change would be committed along.
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    const candidate = `${base}/api/v1/config/candidate?scope=tenant:acme`;
    const { tag } = await (await fetch(candidate, { headers })).json();
    const put = await fetch(candidate, { method: 'PUT', headers: { ...headers, 'If-Match': `"${tag}"` }, body: JSON.stringify({ text: '# half done\n' }) });
    assert.ok(put.ok, await put.text());
    const approve = async () => {
      await waits.getByRole('button', { name: 'Approve' }).click();
      await dialog.getByRole('button', { name: 'Approve' }).click();
    };
    await approve();
    await main.getByRole('alert').filter({ hasText: 'a candidate of tenant:acme is open' }).waitFor();
    await main.getByRole('link', { name: 'Go to Changes' }).waitFor();
    await waits.waitFor();
    const { tag: latest } = await (await fetch(candidate, { headers })).json();
    assert.ok((await fetch(candidate, { method: 'DELETE', headers: { ...headers, 'If-Match': `"${latest}"` } })).ok);
    await approve();
    await main.getByRole('status').filter({ hasText: /nantes is approved, with revision \d+/ }).waitFor();
    await all.getByRole('row').filter({ hasText: 'nantes' }).filter({ hasText: 'approved, fetches its configuration' }).filter({ hasText: print }).waitFor();
    assert.equal(await waits.count(), 0);

    const form = main.getByRole('form', { name: 'Code' });
    const make = async (site) => {
      await form.getByLabel('Site').fill(site);
      await form.getByLabel('Prefixes').fill('10.8.0.0/16');
      await form.getByRole('button', { name: 'Make the code' }).click();
      return main.getByRole('region', { name: `The code for ${site}, told this once` }).locator('code.secret').textContent();
    };
    await claim(base, await make('toulouse'), 'isp-a', 8);
    await main.getByRole('button', { name: 'Refuse toulouse' }).click();
    await dialog.getByRole('button', { name: 'Refuse' }).click();
    await all.getByRole('row').filter({ hasText: 'toulouse' }).filter({ hasText: 'refused' }).waitFor();
    await make('brest');
    await main.getByRole('button', { name: 'I have it' }).click();
    await all.getByRole('row').filter({ hasText: 'brest' }).getByRole('button', { name: 'Revoke' }).click();
    await dialog.getByRole('button', { name: 'Revoke' }).click();
    await main.getByRole('status').filter({ hasText: 'The code for brest is worthless now' }).waitFor();
    await all.getByRole('row').filter({ hasText: 'brest' }).filter({ hasText: 'revoked' }).waitFor();
  },

  async 'updates the box by a file, says why one is not taken, and takes an older one if that is forced'() {
    await page.keyboard.press('g');
    await page.keyboard.press('v');
    const main = page.getByRole('main');
    await main.getByRole('heading', { name: 'Versions on this box' }).waitFor();
    if (!process.env.UPDATES) return main.getByText('This box takes no updates here').waitFor();
    const slots = main.getByRole('region', { name: 'Versions on this box as a table' });
    await slots.getByRole('row').filter({ hasText: 'A0.1.0+20261128215258' }).filter({ hasText: 'runs' }).waitFor();
    const button = main.getByRole('button', { name: 'Update', exact: true });
    assert.ok(await button.isDisabled());
    const dialog = page.getByRole('dialog');
    const give = async (version) => {
      await main.getByLabel('The file popgate-VERSION.update').setInputFiles({ name: `popgate-${version}.update`, mimeType: 'application/octet-stream', buffer: Buffer.from(version) });
      await button.click();
      await dialog.getByText(`Update this box with popgate-${version}.update?`).waitFor();
      await dialog.getByRole('button', { name: 'Update' }).click();
    };
    await give('nonsense');
    await main.getByRole('alert').filter({ hasText: 'signed by none of the keys' }).waitFor();
    await give('0.1.0+20251128215258.gold');
    await main.getByRole('alert').filter({ hasText: 'is older than 0.1.0+2026' }).waitFor();
    await main.getByLabel('Take it also if it is older').check();
    await main.getByLabel('Start the box anew').uncheck();
    await give('0.1.0+20251128215258.gold');
    await main.getByRole('status').filter({ hasText: '0.1.0+20251128215258.gold is signed by whom it should be' }).filter({ hasText: 'when the box starts anew' }).waitFor();
    await slots.getByRole('row').filter({ hasText: 'B0.1.0+20251128215258' }).filter({ hasText: 'tried when the box starts anew' }).waitFor();
  },

  async 'fits a phone'() {
    await page.setViewportSize({ width: 390, height: 844 });
    for (const view of ['Overview', 'Sessions', 'Flows', 'History', 'Rules', 'Explain', 'NAT', 'Who had', 'Captures']) {
      await page.getByRole('navigation').getByText(view, { exact: true }).click();
      await page.locator('.rows, .answer, .panel').first().waitFor();
      const [page_, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(page_ <= window_, `${view} is ${page_} wide in a window of ${window_}`);
    }
    await page.setViewportSize({ width: 1440, height: 900 });
  },

  async 'says when the connection is lost, and comes back by itself'() {
    await page.getByRole('navigation').getByText('Overview').click();
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
    wire.cut();
    await page.getByRole('alert').filter({ hasText: 'Connection to popgate lost' }).waitFor();
    wire.mend();
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
    await page.getByRole('alert').waitFor({ state: 'detached' });
  },

  async 'adds users, and shows each password once'() {
    await page.keyboard.press('g');
    await page.keyboard.press('u');
    await add(olga, 'operator', '');
    await add(vera, 'viewer', 'acme');
    await page.setViewportSize({ width: 390, height: 844 });
    const [page_, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(page_ <= window_, `it is ${page_} wide in a window of ${window_}`);
    await page.setViewportSize({ width: 1440, height: 900 });
  },

  async 'forgets the token on signing out'() {
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Name').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  },

  async 'asks a new user for a password of their own and a second factor'() {
    await signIn(vera, 'wrong password');
    await page.getByRole('alert').filter({ hasText: 'the name or the password is wrong' }).waitFor();
    await signIn(vera);
    await page.getByLabel('Password as it is').fill(vera.password);
    await page.getByLabel('New password, 12 characters or more').fill('too short');
    await page.getByLabel('New password again').fill('too short');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'at least 12 characters' }).waitFor();
    await begin(vera, 'correct horse battery');
  },

  async 'shows a user of one tenant nothing of others, and nothing that they may not do'() {
    await page.keyboard.press('g');
    await page.keyboard.press('o');
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
    const tenants = page.getByRole('grid', { name: 'Paths' }).locator('tbody tr');
    await tenants.first().waitFor();
    const all = await page.getByRole('main').textContent();
    for (const other of (process.env.OTHER_TENANTS ?? '').split(',').filter(Boolean)) assert.ok(!all.includes(other), other);
    await page.keyboard.press('g');
    await page.keyboard.press('c');
    await page.getByRole('heading', { name: 'Audit log' }).waitFor();
    await page.getByLabel('File of').selectOption('tenant:acme');
    const text = page.getByRole('textbox', { name: 'The text of acme' });
    await text.waitFor();
    assert.equal(await text.getAttribute('aria-readonly'), 'true');
    assert.equal(await page.getByRole('button', { name: 'Keep as candidate' }).count(), 0);
    assert.equal(await page.getByRole('heading', { name: 'Revisions' }).count(), 0);
    await page.keyboard.press('g');
    await page.keyboard.press('p');
    await page.getByText('An operator begins them').waitFor();
    assert.equal(await page.getByRole('button', { name: 'Capture' }).count(), 0);
    assert.equal(await page.getByRole('navigation').getByText('Update').count(), 0);
    await page.keyboard.press('g');
    await page.keyboard.press('b');
    await page.getByRole('heading', { name: 'Enrolments', exact: true, level: 2 }).waitFor();
    if (process.env.ENROLS) await page.getByRole('row').filter({ hasText: 'nantes' }).waitFor();
    assert.equal(await page.getByRole('form', { name: 'Code' }).count(), 0);
    assert.equal(await page.getByRole('button', { name: /Revoke|Approve|Refuse/ }).count(), 0);
    await page.keyboard.press('g');
    await page.keyboard.press('u');
    await page.getByRole('heading', { name: 'Your account, vera' }).waitFor();
    assert.equal(await page.getByRole('region', { name: 'All users' }).count(), 0);
  },

  async 'keeps a session in a cookie that no script can read, and asks for a code the next time'() {
    const [cookie] = await context.cookies();
    assert.deepEqual([cookie.name, cookie.httpOnly, cookie.secure, cookie.sameSite], ['__Host-popgate', true, true, 'Strict']);
    assert.equal(await page.evaluate(() => document.cookie + sessionStorage.length + localStorage.length), '00');
    await page.reload();
    await page.getByRole('navigation').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Name').waitFor();
    assert.equal((await context.cookies()).length, 0);
    await signIn(vera);
    const field = page.getByLabel('Code of your authenticator app');
    await field.fill(code(vera, 0));
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'has been used' }).waitFor();
    // The one after it is taken too: a phone's clock may be fast.
    await field.fill(code(vera, 1));
    await page.keyboard.press('Enter');
    await page.getByRole('navigation').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Name').waitFor();
  },

  async 'shows who has signed in with a code what a change would do, commits it, counts down, and takes it back'() {
    await signIn(olga);
    await begin(olga, 'another horse battery');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await signIn(olga);
    await page.getByLabel('Code of your authenticator app').fill(code(olga, 1));
    await page.keyboard.press('Enter');
    await page.getByRole('navigation').waitFor();
    await page.keyboard.press('g');
    await page.keyboard.press('c');
    const main = page.getByRole('main');
    await main.getByText('It is what is in force').waitFor();
    await main.getByLabel('File of').selectOption('tenant:acme');
    const editor = main.getByRole('textbox', { name: 'The text of acme' });
    await editor.waitFor();
    const before = await textInForce('tenants/acme.toml');

    await paste(editor, `${before}\nnonsense = 1\n`);
    await main.getByRole('button', { name: 'Keep as candidate' }).click();
    const line = before.split('\n').length + 1;
    const problem = main.getByRole('alert').filter({ hasText: 'nonsense' });
    await problem.getByRole('link', { name: `tenants/acme.toml:${line}` }).click();
    assert.equal(await main.getByRole('button', { name: 'Commit' }).count(), 0);
    // The editor stays as it is, says so where it is, and has gone there.
    await main.locator('.cm-lint-marker-error').waitFor();
    await main.locator('.cm-activeLine').filter({ hasText: 'nonsense = 1' }).waitFor();
    await page.keyboard.press('F8');
    await main.locator('.cm-tooltip').filter({ hasText: 'nonsense' }).waitFor();

    // Nor does what a policy test says is not to be.
    await paste(editor, before.replace('[[acl]]', '[[acl]]\nname = "no-web"\naction = "drop"\nprotocol = "tcp"\ndst-port = [80, 443, 8080]\n\n[[acl]]'));
    await main.getByRole('button', { name: 'Keep as candidate' }).click();
    if (process.env.POLICY_TEST) {
      const tests = main.getByRole('region', { name: 'Policy tests' });
      await tests.getByRole('row').nth(1).filter({ hasText: process.env.POLICY_TEST }).filter({ hasText: '✕ fails' }).filter({ hasText: 'it is dropped by ACL rule "no-web"' }).waitFor();
      await tests.getByRole('row').filter({ hasText: '✓ passes' }).first().waitFor();
      assert.equal(await main.getByRole('button', { name: 'Commit' }).count(), 0);
    }

    const deny = '[[acl]]\nname = "night"\naction = "drop"\nprotocol = "tcp"\ndst-port = [80, 443]\n\n';
    await paste(editor, before.replace('[[acl]]', `${deny}[[acl]]`));
    await main.getByRole('button', { name: 'Keep as candidate' }).click();
    await main.getByLabel('What differs in tenants/acme.toml').filter({ hasText: '+name = "night"' }).waitFor();
    if (process.env.POLICY_TEST) await main.getByText(/^\d+ policy tests: all pass$/).waitFor();
    const flows = process.env.DRY_RUN_NAMES;
    if (flows) await main.getByRole('region', { name: 'What would happen to flows' }).filter({ hasText: flows }).waitFor();

    await main.getByRole('region', { name: 'What would happen to flows' }).scrollIntoViewIfNeeded();
    await picture('changes-dry-run');
    await main.getByLabel('Comment').fill('ticket 4711');
    await main.getByLabel('Minutes').fill('0.1');
    // A list of candidates that is older than the commit may come after it.
    const listed = await page.evaluate(async () => (await fetch('/api/v1/config', { headers: { 'Popgate-Request': '1' } })).text());
    assert.equal(JSON.parse(listed).candidates.length, 1);
    await page.route('**/api/v1/config', (route) => route.fulfill({ body: listed, contentType: 'application/json' }), { times: 1 });
    await main.getByRole('button', { name: 'Commit' }).click();
    const banner = page.getByRole('alert').filter({ hasText: 'is to be confirmed' });
    await banner.filter({ hasText: /taken back in \d/ }).waitFor();
    await main.getByText('It is what is in force').waitFor();
    assert.equal(await main.getByText('no candidate is open').count(), 0);
    await picture('changes-countdown');
    await page.keyboard.press('g');
    await page.keyboard.press('o');
    await banner.waitFor();
    await banner.waitFor({ state: 'detached' });
    await page.keyboard.press('g');
    await page.keyboard.press('c');
    const revisions = main.getByRole('region', { name: 'Revisions, the one in force first' });
    await revisions.getByRole('row').filter({ hasText: 'not confirmed in time' }).first().waitFor();
    const audit = main.getByRole('region', { name: 'Audit log' }).getByRole('row');
    const noted = (action, who) => audit.filter({ has: page.getByRole('cell', { name: action, exact: true }) }).filter({ hasText: `${who} from ` }).first();
    await noted('revert', 'popgate').waitFor();
    await noted('commit', 'olga').waitFor();

    await revisions.getByRole('row').filter({ hasText: 'ticket 4711' }).getByRole('button').click();
    await main.getByLabel('What differs in tenants/acme.toml').waitFor();
    await main.getByRole('button', { name: 'Commit' }).click();
    await banner.getByRole('button', { name: 'Confirm' }).click();
    await banner.waitFor({ state: 'detached' });
    await noted('confirm', 'olga').waitFor();
    // And back, so that what comes after finds the policy it knows.
    await revisions.getByRole('row').nth(2).getByRole('button').click();
    await main.getByLabel('What differs in tenants/acme.toml').waitFor();
    await main.getByLabel('Take it back unless').uncheck();
    await main.getByRole('button', { name: 'Commit' }).click();
    await main.getByText(/Revision \d+ is in force/).waitFor();
  },

  async 'offers keys, words and names while somebody edits, and lets the keyboard out'() {
    const main = page.getByRole('main');
    await page.goto(`${base}/changes?edit=tenant:acme`);
    const editor = main.getByRole('textbox', { name: 'The text of acme' });
    await editor.waitFor();
    await editor.press('Control+End');
    const offered = main.locator('.cm-tooltip-autocomplete');
    const take = async (typed, name) => {
      await page.keyboard.type(typed);
      await offered.getByRole('option').filter({ hasText: name }).first().waitFor();
      // What has just been shown is not taken yet: who types on meant something else.
      await page.waitForTimeout(150);
      await page.keyboard.press('Enter');
      await offered.waitFor({ state: 'detached' });
    };
    await page.keyboard.type('\n');
    await take('[[ac', '[[acl]]');
    await page.keyboard.type('\n');
    await take('act', 'action');
    await take('"re', 'reject');
    await page.keyboard.press('End');
    await page.keyboard.type('\n');
    await take('fro', 'from');
    await take('["branch:b', 'branch:berlin');
    await page.keyboard.press('End');
    await page.keyboard.type('\n');
    const tail = (await main.locator('.cm-line').allTextContents()).slice(-4);
    assert.deepEqual(tail, ['[[acl]]', 'action = "reject"', 'from = ["branch:berlin"]', '']);
    // Neither of the two keys is a word of the text, nor does one of the console's.
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Keep as candidate');
    await page.keyboard.press('Shift+Tab');
    await page.keyboard.type('?');
    assert.equal(await page.getByRole('dialog').count(), 0);
    await main.locator('.cm-line').last().filter({ hasText: '?' }).waitFor();
    // Whoever looks something up elsewhere finds what was typed again.
    await page.getByRole('navigation').getByText('Rules', { exact: true }).click();
    await page.getByRole('grid', { name: 'Rules' }).waitFor();
    await page.goBack();
    await editor.press('Control+End');
    await main.locator('.cm-line').last().filter({ hasText: '?' }).waitFor();
    await main.getByRole('button', { name: 'Back to the box’s text' }).click();
    await main.getByRole('button', { name: 'Back to the box’s text' }).waitFor({ state: 'detached' });
    await main.locator('.cm-line').filter({ hasText: '?' }).waitFor({ state: 'detached' });
  },

  async 'has asked nobody else for anything, and met no error'() {
    assert.deepEqual(elsewhere, []);
    assert.deepEqual(errors.filter((error) => !/ERR_(CONNECTION|INCOMPLETE|EMPTY|SOCKET)/.test(error)), []);
  },
};

let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  try {
    await step();
    console.log(`ok: the console ${name}`);
  } catch (error) {
    console.error(`FAILED: the console ${name}\n  ${String(error.stack ?? error).replaceAll('\n', '\n  ')}`);
    if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
    failed = 1;
    // Each step stands on the one before.
    break;
  }
}
await browser.close();
process.exit(failed);
