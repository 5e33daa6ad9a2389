// What is asked of the box by a form: its fields, what is known to put into them, and questions that live in the address, so
// that a link shows a colleague the same answer.

import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { asProblem, get, isUnauthorized } from './api';
import { narrow, type Route } from './route';
import type { Problem } from './types';

export const PROTOCOLS = ['tcp', 'udp', 'icmp', 'icmpv6'];

interface FieldProps {
  /** Of its parts' ids, and its class. */
  name: string;
  title: string;
  placeholder: string;
  value: string;
  onInput: (value: string) => void;
  problem?: Problem;
  /** The id of what is known to put into it. */
  list?: string;
  isMono?: boolean;
  isNumber?: boolean;
  /** Where `/` leads. */
  isFirst?: boolean;
  /** Escape leads out of it. */
  isLeft?: boolean;
}

export function Field({ name, title, placeholder, value, onInput, problem, list, isMono, isNumber, isFirst, isLeft }: FieldProps) {
  return (
    <label class={`field ${name}${problem ? ' bad' : ''}`}>
      <span>{title}</span>
      <input
        type="text"
        data-filter={isFirst || undefined}
        class={isMono ? 'mono' : undefined}
        inputMode={isNumber ? 'numeric' : undefined}
        list={list}
        placeholder={placeholder}
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
        value={value}
        aria-invalid={problem ? true : undefined}
        aria-describedby={problem ? `${name}-problem` : undefined}
        onInput={(event) => onInput(event.currentTarget.value)}
        onKeyDown={(event) => isLeft && event.key === 'Escape' && event.currentTarget.blur()}
      />
      {problem && (
        <em id={`${name}-problem`} role="alert">
          {problem.detail.replace(/^[\w-]+: /, '')}
        </em>
      )}
    </label>
  );
}

/** What is known to put into a field. */
export function Known({ id, names }: { id: string; names: string[] }) {
  return (
    <datalist id={id}>
      {names.map((name) => (
        <option key={name} value={name} />
      ))}
    </datalist>
  );
}

/** The form that narrows what a view shows to a tenant. */
export function TenantFilter({ of, tenant, tenants, children }: { of: string; tenant: string; tenants: string[]; children?: ComponentChildren }) {
  return (
    <form class="filter" role="search" aria-label={`Filter ${of}`} onSubmit={(event) => event.preventDefault()}>
      <Field name="tenant" title="Tenant" placeholder="any" value={tenant} list="known-tenant" isFirst onInput={(tenant) => narrow({ tenant })} />
      <Known id="known-tenant" names={tenants} />
      {children}
    </form>
  );
}

/** What is wrong with an answer, and with no one field. */
export function Wrong({ problem }: { problem?: Problem }) {
  if (!problem || problem.parameter !== undefined) return null;
  return (
    <p class="banner warn" role="alert">
      {problem.detail}
    </p>
  );
}

export interface Question<F extends string, T> {
  answer?: T;
  problem?: Problem;
  value: (name: F) => string;
  type: (name: F, text: string) => void;
  /** Puts what was typed into the address, from where it is asked. */
  ask: (event: Event) => void;
}

interface Asked<F extends string> {
  path: string;
  fields: readonly F[];
  needed: readonly F[];
  route: Route;
  bearer: string;
  onUnauthorized: () => void;
}

/** A question whose fields are the address's, asked once all that is needed is there, and again each time it is sent off. */
export function useQuestion<F extends string, T>({ path, fields, needed, route, bearer, onUnauthorized }: Asked<F>): Question<F, T> {
  const asked = new URLSearchParams(fields.flatMap((name) => (route.query[name] ? [[name, route.query[name]!]] : []))).toString();
  const isWhole = needed.every((name) => route.query[name]);
  const [draft, setDraft] = useState<Partial<Record<F, string>>>({});
  const [answer, setAnswer] = useState<T>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  useEffect(() => {
    setAnswer(undefined);
    setProblem(undefined);
    if (!isWhole) return;
    const controller = new AbortController();
    get<T>(`${path}?${asked}`, bearer, controller.signal)
      .then((answer) => setAnswer(() => answer))
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        if (isUnauthorized(error)) return onUnauthorized();
        setProblem(asProblem(error));
      });
    return () => controller.abort();
  }, [asked, bearer, again]);

  const value = (name: F) => draft[name] ?? route.query[name] ?? '';
  const ask = (event: Event) => {
    event.preventDefault();
    const missing = needed.find((name) => value(name).trim() === '');
    if (missing) return setProblem({ title: 'Missing', status: 400, detail: `${missing}: it is needed`, parameter: missing });
    narrow(Object.fromEntries(fields.map((name) => [name, value(name).trim()])));
    setDraft({});
    setAgain(again + 1);
  };
  return { answer, problem, value, type: (name, text) => setDraft({ ...draft, [name]: text }), ask };
}
