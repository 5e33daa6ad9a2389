// Who may come in: one's own account, tokens, and for owners all users.

import { useEffect, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';
import { get, isUnauthorized, send } from './api';
import { ActionsHead, Scroll } from './scroll';
import { NewPassword, NewTotp } from './signin';
import { Time } from './time';
import type { ApiToken, Me, Role, User } from './types';

interface Props {
  me: Me;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const ROLES: Role[] = ['viewer', 'operator', 'owner'];

/** Days that a token may last. */
const LONGEST_DAYS = 366;

export function Users({ me, bearer, tenants, onUnauthorized }: Props) {
  const [users, setUsers] = useState<User[]>();
  const [tokens, setTokens] = useState<ApiToken[]>([]);
  const [problem, setProblem] = useState<string>();
  const [done, setDone] = useState<{ text: string; secret?: string }>();
  const [again, setAgain] = useState(0);
  const isOwner = me.role === 'owner';
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(error instanceof Error ? error.message : String(error));
  };
  useEffect(() => {
    const controller = new AbortController();
    const ask = async () => {
      if (isOwner) setUsers((await get<{ users: User[] }>('users', bearer, controller.signal)).users);
      setTokens((await get<{ tokens: ApiToken[] }>('tokens', bearer, controller.signal)).tokens);
    };
    ask().catch((error: unknown) => controller.signal.aborted || refused(error));
    return () => controller.abort();
  }, [again, bearer]);
  const act = async (what: () => Promise<{ text: string; secret?: string }>) => {
    setProblem(undefined);
    setDone(undefined);
    try {
      setDone(await what());
    } catch (error) {
      refused(error);
    }
    setAgain((again) => again + 1);
  };
  const change = (name: string, body: unknown, text: string, secret?: string) =>
    act(async () => {
      await send('PATCH', `users/${encodeURIComponent(name)}`, bearer, body);
      return { text, secret };
    });
  return (
    <main class="changes users" id="main">
      <h1 class="visually-hidden">Users</h1>
      {done && (
        <p class="done" role="status">
          {done.text}
          {done.secret && <code class="secret">{done.secret}</code>}
        </p>
      )}
      {problem && (
        <p class="banner warn" role="alert">
          {problem}
        </p>
      )}
      {isOwner && (
        <section aria-labelledby="users-all">
          <h2 id="users-all">Users</h2>
          {users?.length === 0 && <p class="hint">There are none yet: popgate setup-link, on the box, prints the link that makes the first.</p>}
          <Scroll name="All users">
            <thead>
              <tr>
                <th>User</th>
                <th>Role</th>
                <th>Tenant</th>
                <th>Second factor</th>
                <th>Signed in</th>
                <th>Sessions</th>
                <ActionsHead />
              </tr>
            </thead>
            <tbody>
              {users?.map((user) => (
                <tr key={user.name}>
                  <td>
                    {user.name}
                    {(user.disabled || user.unmapped) && <small> {user.disabled ? 'kept out' : 'no rule lets them in'}</small>}
                  </td>
                  <td>{user.role}</td>
                  <td>{user.tenant ?? 'all'}</td>
                  <td title={user.provider ?? undefined}>{user.provider ? 'at the provider' : user['has-totp'] ? 'yes' : 'to be set up'}</td>
                  <td>{user['signed-in-unix-ms'] ? <Time unixMs={user['signed-in-unix-ms']} full /> : '–'}</td>
                  <td class="number">{user.sessions}</td>
                  <td class="actions">
                    {!user.provider && (
                      <>
                        <Act of={user.name} onClick={() => resetPassword(user.name, change)}>
                          Reset password
                        </Act>
                        <Act of={user.name} onClick={() => change(user.name, { 'reset-totp': true }, `${user.name} is asked for another second factor.`)}>
                          Reset second factor
                        </Act>
                      </>
                    )}
                    <Act
                      of={user.name}
                      onClick={() =>
                        change(user.name, { disabled: !user.disabled }, user.disabled ? `${user.name} may come in again.` : `${user.name} is kept out.`)
                      }
                    >
                      {user.disabled ? 'Let in' : 'Keep out'}
                    </Act>
                    <Act of={user.name} onClick={() => change(user.name, { 'end-sessions': true }, `${user.name} is signed out everywhere.`)}>
                      End sessions
                    </Act>
                    <Act
                      of={user.name}
                      onClick={() =>
                        confirm(`Remove ${user.name}, with all sessions and tokens?`) &&
                        act(async () => {
                          await send('DELETE', `users/${encodeURIComponent(user.name)}`, bearer);
                          return { text: `${user.name} is removed.` };
                        })
                      }
                    >
                      Remove
                    </Act>
                  </td>
                </tr>
              ))}
            </tbody>
          </Scroll>
          <AddUser
            tenants={tenants}
            names={users?.filter((user) => !user.provider).map((user) => user.name) ?? []}
            add={(name, role, tenant) =>
              act(async () => {
                const password = fresh();
                await send('POST', 'users', bearer, { name, role, tenant, password });
                return { text: `${name} is added, and signs in with this password for the first time:`, secret: password };
              })
            }
            set={(name, role, tenant) => change(name, { access: { role, tenant } }, `${name} is ${role}${tenant ? ` of ${tenant}` : ''} now.`)}
          />
        </section>
      )}
      <section aria-labelledby="users-tokens">
        <h2 id="users-tokens">API tokens</h2>
        {tokens.length === 0 && <p class="hint">There are none. A program brings one as Authorization: Bearer pgt_…</p>}
        {tokens.length > 0 && (
          <Scroll name="API tokens">
            <thead>
              <tr>
                <th>Token</th>
                <th>Maker</th>
                <th>Role</th>
                <th>Tenant</th>
                <th>Expires</th>
                <th>Used</th>
                <ActionsHead />
              </tr>
            </thead>
            <tbody>
              {tokens.map((it) => (
                <tr key={it.id}>
                  <td>{it.name}</td>
                  <td>{it.maker}</td>
                  <td>{it.role}</td>
                  <td>{it.tenant ?? 'all'}</td>
                  <td>
                    <Time unixMs={it['expires-unix-ms']} full />
                  </td>
                  <td>{it['used-unix-ms'] ? <Time unixMs={it['used-unix-ms']} full /> : 'never'}</td>
                  <td class="actions">
                    <Act
                      of={it.name}
                      onClick={() =>
                        act(async () => {
                          await send('DELETE', `tokens/${it.id}`, bearer);
                          return { text: `The token ${it.name} is worthless now.` };
                        })
                      }
                    >
                      Revoke
                    </Act>
                  </td>
                </tr>
              ))}
            </tbody>
          </Scroll>
        )}
        <AddToken
          me={me}
          tenants={tenants}
          add={(name, role, tenant, days) =>
            act(async () => {
              const body = { name, role, tenant, 'expires-in-secs': days * 86_400 };
              const { token } = await send<{ token: string }>('POST', 'tokens', bearer, body);
              return { text: `The token ${name}, told this once:`, secret: token };
            })
          }
        />
      </section>
      {me['is-user'] && !me['is-vouched'] && (
        <section aria-labelledby="users-own">
          <h2 id="users-own">{`Your account, ${me.name}`}</h2>
          <div class="own">
            <NewPassword title="Password" onDone={() => setDone({ text: 'Your password is changed, and your other sessions are over.' })} />
            <NewTotp title="Second factor" onDone={() => setDone({ text: 'Your second factor is changed, and your other sessions are over.' })} />
          </div>
        </section>
      )}
    </main>
  );
}

function resetPassword(name: string, change: (name: string, body: unknown, text: string, secret?: string) => void) {
  const password = fresh();
  change(name, { password }, `${name} signs in with this password next time, and is asked for another:`, password);
}

/** A password for the first time: 120 random bits. */
function fresh(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(15));
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_');
}

interface AddUserProps {
  tenants: string[];
  names: string[];
  add: (name: string, role: Role, tenant: string | null) => void;
  set: (name: string, role: Role, tenant: string | null) => void;
}

/** Adds a user, or says anew what one may do who is there. */
function AddUser({ tenants, names, add, set }: AddUserProps) {
  const [name, setName] = useState('');
  const [role, setRole] = useState<Role>('viewer');
  const [tenant, setTenant] = useState('');
  const isKnown = names.includes(name.trim());
  const submit = (event: Event) => {
    event.preventDefault();
    const of = role === 'owner' ? null : tenant || null;
    (isKnown ? set : add)(name.trim(), role, of);
    setName('');
  };
  return (
    <form class="commit" aria-label="User" onSubmit={submit}>
      <Text label="Name" value={name} set={setName} />
      <Choice label="Role" value={role} set={(it) => setRole(it as Role)} options={ROLES.map((it) => [it, it])} />
      {role !== 'owner' && (
        <Choice label="Tenant" value={tenant} set={setTenant} options={[['', 'all'], ...tenants.map((it): [string, string] => [it, it])]} />
      )}
      <button type="submit" class="primary" disabled={!name.trim()}>
        {isKnown ? 'Change the role' : 'Add'}
      </button>
    </form>
  );
}

interface AddTokenProps {
  me: Me;
  tenants: string[];
  add: (name: string, role: Role, tenant: string | null, days: number) => void;
}

function AddToken({ me, tenants, add }: AddTokenProps) {
  const [name, setName] = useState('');
  const [role, setRole] = useState<Role>('viewer');
  const [tenant, setTenant] = useState('');
  const [days, setDays] = useState('90');
  const roles = ROLES.slice(0, ROLES.indexOf(me.role) + 1);
  const isWrong = !(Number(days) >= 1 && Number(days) <= LONGEST_DAYS);
  const submit = (event: Event) => {
    event.preventDefault();
    add(name.trim(), role, role === 'owner' ? null : (me.tenant ?? (tenant || null)), Math.round(Number(days)));
    setName('');
  };
  return (
    <form class="commit" aria-label="API token" onSubmit={submit}>
      <Text label="What for" value={name} set={setName} />
      <Choice label="Role" value={role} set={(it) => setRole(it as Role)} options={roles.map((it) => [it, it])} />
      {!me.tenant && role !== 'owner' && (
        <Choice label="Tenant" value={tenant} set={setTenant} options={[['', 'all'], ...tenants.map((it): [string, string] => [it, it])]} />
      )}
      <Text label="Days" value={days} set={setDays} isWrong={isWrong} />
      <button type="submit" class="primary" disabled={!name.trim() || isWrong}>
        Make it
      </button>
    </form>
  );
}

function Text({ label, value, set, isWrong }: { label: string; value: string; set: (value: string) => void; isWrong?: boolean }) {
  return (
    <label class={`field${isWrong ? ' bad' : ''}`}>
      <span>{label}</span>
      <input
        type="text"
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
        aria-invalid={isWrong || undefined}
        value={value}
        onInput={(event) => set(event.currentTarget.value)}
      />
    </label>
  );
}

interface ChoiceProps {
  label: string;
  value: string;
  set: (value: string) => void;
  options: [string, string][];
}

function Choice({ label, value, set, options }: ChoiceProps) {
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {options.map(([value, title]) => (
          <option key={value} value={value}>
            {title}
          </option>
        ))}
      </select>
    </label>
  );
}

function Act({ of, onClick, children }: { of: string; onClick: () => void; children: ComponentChildren }) {
  return (
    <button type="button" class="link" onClick={onClick}>
      {children}
      <span class="visually-hidden"> of {of}</span>
    </button>
  );
}
