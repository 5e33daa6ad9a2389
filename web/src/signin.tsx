import { useRef, useState } from 'preact/hooks';
import { get, isUnauthorized, token } from './api';
import { Mark } from './icons';
import type { Status } from './types';

interface Props {
  /** Why one has to sign in again. */
  notice?: string;
  onSignedIn: (bearer: string) => void;
}

export function SignIn({ notice, onSignedIn }: Props) {
  const [problem, setProblem] = useState(notice);
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);

  const submit = async (event: Event) => {
    event.preventDefault();
    const bearer = field.current?.value.trim() ?? '';
    if (!bearer) {
      setProblem('Paste the admin token first.');
      field.current?.focus();
      return;
    }
    setBusy(true);
    setProblem(undefined);
    try {
      await get<Status>('status', bearer);
      token.set(bearer);
      onSignedIn(bearer);
    } catch (error) {
      setProblem(
        isUnauthorized(error)
          ? 'This is not the token of this box. Copy the whole line from its token file.'
          : `${error instanceof Error ? error.message : error}. Is popgate running?`,
      );
      setBusy(false);
      field.current?.select();
    }
  };

  return (
    <main class="signin">
      <form onSubmit={submit} aria-labelledby="signin-title">
        <h1 id="signin-title">
          <Mark /> popgate
        </h1>
        <label for="token">Admin token</label>
        <input
          id="token"
          ref={field}
          type="password"
          class="mono"
          autocomplete="off"
          spellcheck={false}
          autofocus
          aria-invalid={problem ? true : undefined}
          aria-describedby="signin-problem signin-hint"
        />
        <p id="signin-problem" class="signin-problem" role="alert">
          {problem}
        </p>
        <button type="submit" class="primary" disabled={busy}>
          {busy ? 'Signing in…' : 'Sign in'}
        </button>
        <p id="signin-hint" class="hint">
          On the box, as root:
          <code>cat /var/lib/popgate/admin-token</code>
          It stays in this tab and is forgotten when the tab closes.
        </p>
      </form>
    </main>
  );
}
