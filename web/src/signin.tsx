// Signing in, the first owner's setup, and what a user has to do before anything else.

import type { ComponentChildren, Ref } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { COOKIE, get, isUnauthorized, Refused, send, token } from './api';
import { Mark } from './icons';
import type { Me, Problem, ProviderAnswer, TotpProposal } from './types';

interface Props {
  /** Why one has to sign in again. */
  notice?: string;
  onSignedIn: (me: Me, bearer: string) => void;
}

/** What a failed try is told as. */
const told = (error: unknown): string =>
  error instanceof Refused ? `${error.problem.detail}.` : `${error instanceof Error ? error.message : error}. Is popgate running?`;

const problemOf = (error: unknown): Problem | undefined => (error instanceof Refused ? error.problem : undefined);

/** Why one comes back from the provider without being in, by the word that the box sends along. */
const TURNED_AWAY: Record<string, string> = {
  none: 'This box knows no provider to sign in at.',
  limited: 'Too many have tried to sign in at the provider from where you are. Try again in a minute.',
  busy: 'Others are signing in at the provider. Try again.',
  late: 'That took too long, or began in another browser. Try again.',
  unreachable: 'The provider does not answer. Whoever has a password here comes in with that.',
  refused: 'The provider did not sign you in.',
  unproved: 'What the provider says of you does not hold: the log of this box says why.',
  unmapped: 'The provider knows you, but no rule of this box lets you in. Ask its owner.',
  disabled: 'An owner of this box keeps you out.',
  taken: 'Somebody else of the provider has your name on this box. Ask its owner to remove them.',
  failed: 'The box cannot read who may come in: its log says why.',
};

/** What is told of that; the word does not stay in the address. */
export function turnedAway(): string | undefined {
  const word = /^#sign-in=([a-z]+)$/.exec(location.hash)?.[1];
  if (word) history.replaceState(null, '', location.pathname + location.search);
  return word && Object.hasOwn(TURNED_AWAY, word) ? TURNED_AWAY[word] : undefined;
}

export function SignIn({ notice, onSignedIn }: Props) {
  const [problem, setProblem] = useState(notice);
  const [busy, setBusy] = useState(false);
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  /** Absent until the box asks for one. */
  const [code, setCode] = useState<string>();
  const [byToken, setByToken] = useState(false);
  const [provider, setProvider] = useState<ProviderAnswer['provider']>(null);
  useEffect(() => {
    // Without an answer there is the form.
    get<ProviderAnswer>('oidc', COOKIE).then((answer) => setProvider(answer.provider), () => {});
  }, []);
  const first = useRef<HTMLInputElement>(null);
  const asked = useRef<HTMLInputElement>(null);
  useEffect(() => asked.current?.focus(), [code === undefined]);

  const submit = async (event: Event) => {
    event.preventDefault();
    if (!name.trim() || !password) {
      setProblem('Enter your name and your password.');
      first.current?.focus();
      return;
    }
    setBusy(true);
    setProblem(undefined);
    try {
      onSignedIn(await send<Me>('POST', 'session', COOKIE, { name: name.trim(), password, code: code?.trim() || null }), COOKIE);
    } catch (error) {
      const asksForCode = problemOf(error)?.parameter === 'code';
      if (asksForCode && code === undefined) {
        setCode('');
      } else {
        setProblem(told(error));
        if (asksForCode) setCode('');
      }
      setBusy(false);
    }
  };

  if (byToken) return <ByToken onSignedIn={onSignedIn} back={() => setByToken(false)} />;
  return (
    <Page title="popgate" onSubmit={submit} problem={problem}>
      <Field label="Name" value={name} set={setName} autocomplete="username" focus input={first} />
      <Field label="Password" value={password} set={setPassword} type="password" autocomplete="current-password" />
      {code !== undefined && <Field label="Code of your authenticator app" value={code} set={setCode} autocomplete="one-time-code" input={asked} />}
      <Submit busy={busy} doing="Signing in…">
        Sign in
      </Submit>
      {provider && (
        <a class="secondary" href={provider.start}>
          Sign in with {provider.label}
        </a>
      )}
      <p class="hint">
        No account yet? On the box, as root, <code>popgate setup-link</code> prints the link that makes the first one; whoever is an owner
        adds the others.
        <button type="button" class="link" onClick={() => setByToken(true)}>
          Use the box's own token
        </button>
      </p>
    </Page>
  );
}

/** Whoever is root on the box has a file with a token in it. */
function ByToken({ onSignedIn, back }: { onSignedIn: Props['onSignedIn']; back: () => void }) {
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);
  const [text, setText] = useState('');
  const field = useRef<HTMLInputElement>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    const bearer = text.trim();
    if (!bearer) {
      setProblem('Paste the admin token first.');
      field.current?.focus();
      return;
    }
    setBusy(true);
    setProblem(undefined);
    try {
      const me = await get<Me>('session', bearer);
      token.set(bearer);
      onSignedIn(me, bearer);
    } catch (error) {
      setProblem(isUnauthorized(error) ? 'This is not the token of this box. Copy the whole line from its token file.' : told(error));
      setBusy(false);
      field.current?.select();
    }
  };
  return (
    <Page title="popgate" onSubmit={submit} problem={problem}>
      <Field label="Admin token" value={text} set={setText} type="password" autocomplete="off" mono focus input={field} />
      <Submit busy={busy} doing="Signing in…">
        Sign in
      </Submit>
      <p class="hint">
        On the box, as root:
        <code>cat /var/lib/popgate/admin-token</code>
        It stays in this tab and is forgotten when the tab closes.
        <button type="button" class="link" onClick={back}>
          Sign in with name and password
        </button>
      </p>
    </Page>
  );
}

/** The page behind the setup link: whoever has it makes the first owner. */
export function Setup({ secret, onSignedIn, leave }: { secret: string; onSignedIn: Props['onSignedIn']; leave: () => void }) {
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  const [proposal, setProposal] = useState<TotpProposal>();
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(undefined);
    try {
      if (!proposal) {
        if (password.length < SHORTEST) throw new Error(`The password has to have at least ${SHORTEST} characters`);
        setProposal(await send<TotpProposal>('POST', 'setup', COOKIE, { secret, name: name.trim() }));
      } else {
        const body = { secret, name: name.trim(), password, 'totp-secret': proposal.secret, code: code.trim() };
        onSignedIn(await send<Me>('PUT', 'setup', COOKIE, body), COOKIE);
        return;
      }
    } catch (error) {
      setProblem(error instanceof Refused ? told(error) : `${error instanceof Error ? error.message : error}.`);
    }
    setBusy(false);
  };
  return (
    <Page title="The first owner" onSubmit={submit} problem={problem}>
      <Field label="Name" value={name} set={setName} autocomplete="username" focus />
      <Field label="Password, 12 characters or more" value={password} set={setPassword} type="password" autocomplete="new-password" />
      {proposal && <Enrolment proposal={proposal} code={code} setCode={setCode} />}
      <Submit busy={busy} doing="One moment…">
        {proposal ? 'Make this owner' : 'Go on'}
      </Submit>
      <p class="hint">
        This link is good once.
        <button type="button" class="link" onClick={leave}>
          Sign in in place of that
        </button>
      </p>
    </Page>
  );
}

const SHORTEST = 12;

/** What a user has to do first: a password of their own, then a second factor. */
export function Todo({ me, onSignedIn, leave }: { me: Me; onSignedIn: Props['onSignedIn']; leave: () => void }) {
  return (
    <main class="signin">
      {me.pending === 'password' ? (
        <NewPassword onDone={(me) => onSignedIn(me, COOKIE)} title={`Welcome, ${me.name}: a password of your own`} />
      ) : (
        <NewTotp onDone={(me) => onSignedIn(me, COOKIE)} title="A second factor" />
      )}
      <button type="button" class="link" onClick={leave}>
        Sign out
      </button>
    </main>
  );
}

interface ChangeProps {
  title: string;
  onDone: (me: Me) => void;
}

export function NewPassword({ title, onDone }: ChangeProps) {
  const [old, setOld] = useState('');
  const [fresh, setFresh] = useState('');
  const [again, setAgain] = useState('');
  return (
    <Change
      title={title}
      verb="Change the password"
      run={async () => {
        if (fresh !== again) throw new Error('The two new passwords differ');
        onDone(await send<Me>('PUT', 'session/password', COOKIE, { old, new: fresh }));
      }}
    >
      <Field label="Password as it is" value={old} set={setOld} type="password" autocomplete="current-password" />
      <Field label="New password, 12 characters or more" value={fresh} set={setFresh} type="password" autocomplete="new-password" />
      <Field label="New password again" value={again} set={setAgain} type="password" autocomplete="new-password" />
    </Change>
  );
}

export function NewTotp({ title, onDone }: ChangeProps) {
  const [proposal, setProposal] = useState<TotpProposal>();
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  return (
    <Change
      title={title}
      verb={proposal ? 'Take this one' : 'Set up an authenticator app'}
      run={async () => {
        if (!proposal) return setProposal(await send<TotpProposal>('POST', 'session/totp', COOKIE));
        onDone(await send<Me>('PUT', 'session/totp', COOKIE, { password, secret: proposal.secret, code: code.trim() }));
      }}
    >
      {proposal && (
        <>
          <Enrolment proposal={proposal} code={code} setCode={setCode} />
          <Field label="Password" value={password} set={setPassword} type="password" autocomplete="current-password" />
        </>
      )}
    </Change>
  );
}

function Change({ title, verb, run, children }: { title: string; verb: string; run: () => Promise<void>; children: ComponentChildren }) {
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(undefined);
    try {
      await run();
    } catch (error) {
      setProblem(error instanceof Refused ? told(error) : `${error instanceof Error ? error.message : error}.`);
    }
    setBusy(false);
  };
  return (
    <form class="account" aria-label={title} onSubmit={submit}>
      <h2>{title}</h2>
      {children}
      <p class="signin-problem" role="alert">
        {problem}
      </p>
      <Submit busy={busy} doing="One moment…">
        {verb}
      </Submit>
    </form>
  );
}

function Enrolment({ proposal, code, setCode }: { proposal: TotpProposal; code: string; setCode: (code: string) => void }) {
  const size = proposal['qr-size'];
  return (
    <div class="enrolment">
      <p>Scan this with an authenticator app, or type the secret into it:</p>
      <svg class="qr" viewBox={`-4 -4 ${size + 8} ${size + 8}`} role="img" aria-label="The secret as a QR code" shape-rendering="crispEdges">
        <rect x="-4" y="-4" width={size + 8} height={size + 8} fill="#fff" />
        <path d={proposal['qr-path']} fill="#000" />
      </svg>
      <code class="secret">{proposal.secret}</code>
      <p class="hint">
        <a href={proposal.uri}>Open it in an app on this device</a>
      </p>
      <Field label="Code that the app shows" value={code} set={setCode} autocomplete="one-time-code" />
    </div>
  );
}

interface FieldProps {
  label: string;
  value: string;
  set: (value: string) => void;
  type?: 'text' | 'password';
  autocomplete: string;
  mono?: boolean;
  focus?: boolean;
  input?: Ref<HTMLInputElement>;
}

function Field({ label, value, set, type = 'text', autocomplete, mono, focus, input }: FieldProps) {
  const attributes = {
    ref: input,
    class: mono ? 'mono' : undefined,
    autocomplete,
    autocapitalize: 'off',
    spellcheck: false,
    autofocus: focus,
    value,
    onInput: (event: { currentTarget: HTMLInputElement }) => set(event.currentTarget.value),
  } as const;
  return (
    <label>
      {label}
      {type === 'password' ? <input type="password" {...attributes} /> : <input type="text" {...attributes} />}
    </label>
  );
}

function Submit({ busy, doing, children }: { busy: boolean; doing: string; children: ComponentChildren }) {
  return (
    <button type="submit" class="primary" disabled={busy}>
      {busy ? doing : children}
    </button>
  );
}

interface PageProps {
  title: string;
  problem?: string;
  onSubmit: (event: Event) => void;
  children: ComponentChildren;
}

function Page({ title, problem, onSubmit, children }: PageProps) {
  return (
    <main class="signin">
      <form onSubmit={onSubmit} aria-labelledby="signin-title">
        <h1 id="signin-title">
          <Mark /> {title}
        </h1>
        <p class="signin-problem" role="alert">
          {problem}
        </p>
        {children}
      </form>
    </main>
  );
}
