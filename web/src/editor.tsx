// A file of the configuration as it would be: the candidate, or what is in force until there is one.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { asProblem, get, send } from './api';
import type { Outlook } from './changes';
import type { Editor, LineProblem } from './codemirror';
import { namesIn, type Names } from './names';
import { narrow, type Route } from './route';
import type { CandidateAnswer, ConfigState, Me } from './types';

const BOX_FILE = 'popgate.toml';

export const nameOf = (scope: string): string => (scope === 'box' ? 'the box' : scope.replace('tenant:', ''));
const fileOf = (scope: string): string => (scope === 'box' ? BOX_FILE : `tenants/${nameOf(scope)}.toml`);

/** Whose file it is, if it is one of the configuration's. */
export function scopeOf(file: string): string | undefined {
  if (file === BOX_FILE) return 'box';
  const name = /^tenants\/(.+)\.toml$/.exec(file)?.[1];
  return name && `tenant:${name}`;
}

interface Props {
  me: Me;
  route: Route;
  tenants: string[];
  state?: ConfigState;
  /** Changes whenever what is edited may have been changed elsewhere. */
  turn: string;
  /** What is wrong with the candidate. */
  wrong?: Outlook;
  bearer: string;
  act: (what: () => Promise<string>) => Promise<void>;
  refused: (error: unknown) => void;
}

/** What the box has of a file. */
interface Seen {
  scope: string;
  text: string;
  tag: string;
  /** Whether it is a candidate's. */
  open: boolean;
  elsewhere: Names;
}

/** What was typed and not kept, while the page lives: whoever looks something up elsewhere finds it again. By user and scope; with
 * the tag of what it began from. */
const typed = new Map<string, { text: string; tag: string }>();

export function PolicyEditor({ me, route, tenants, state, turn, wrong, bearer, act, refused }: Props) {
  const scope = route.query.edit;
  const [text, setText] = useState('');
  /** What the editor is to show; what is typed into it since is `text` alone. */
  const [given, setGiven] = useState({ text });
  const [seen, setSeen] = useState<Seen>();
  const [again, setAgain] = useState(0);
  const key = `${me.name} ${scope}`;
  const shown = useRef<string | undefined>(undefined);
  useEffect(() => {
    if (!scope) return setSeen(undefined);
    const controller = new AbortController();
    const ask = async () => {
      const query = new URLSearchParams({ scope });
      const [answer, { texts }] = await Promise.all([
        get<CandidateAnswer>(`config/candidate?${query}`, bearer, controller.signal),
        get<{ texts: Record<string, string> }>('config/texts', bearer, controller.signal),
      ]);
      const text = answer.candidate ? (answer.candidate.text ?? '') : (texts[fileOf(scope)] ?? '');
      // It takes the place of what it began from alone: another's change is not lost unseen.
      if (typed.has(key) && shown.current === key) return;
      shown.current = key;
      const draft = typed.get(key) ?? { text, tag: answer.tag };
      setText(draft.text);
      setGiven({ text: draft.text });
      setSeen({ scope, text, tag: draft.tag, open: answer.candidate !== null, elsewhere: elsewhere(texts, scope, tenants) });
    };
    ask().catch((error: unknown) => controller.signal.aborted || refused(error));
    return () => controller.abort();
  }, [scope, turn, bearer, again]);
  const type = (text: string) => {
    setText(text);
    if (seen && text !== seen.text) typed.set(key, { text, tag: seen.tag });
    else typed.delete(key);
  };
  const forget = () => {
    typed.delete(key);
    setAgain(again + 1);
  };

  const keep = () =>
    act(async () => {
      const { tag } = await send<CandidateAnswer>('PUT', `config/candidate?${new URLSearchParams({ scope: scope! })}`, bearer, { text }, seen!.tag);
      typed.delete(key);
      setSeen({ ...seen!, text, tag, open: true });
      narrow({ of: scope, line: undefined });
      return `The candidate of ${nameOf(scope!)} is kept. Nothing is in force of it yet.`;
    });
  const discard = () =>
    act(async () => {
      await send('DELETE', `config/candidate?${new URLSearchParams({ scope: scope! })}`, bearer, undefined, seen!.tag);
      typed.delete(key);
      setSeen(undefined);
      narrow({ of: undefined, edit: undefined, line: undefined });
      return `The candidate of ${nameOf(scope!)} is given up.`;
    });

  const own = me.tenant && `tenant:${me.tenant}`;
  const mayChange = me.role !== 'viewer';
  const known = [...new Set([...tenants.map((name) => `tenant:${name}`), ...(state?.candidates.map((it) => it.scope) ?? []), scope ?? 'box'])];
  const scopes = own ? [own] : ['box', ...known.filter((it) => it !== 'box').sort()];
  const problems = useMemo(() => (scope && seen?.open ? problemsOf(fileOf(scope), wrong) : []), [scope, seen?.open, wrong]);
  return (
    <section aria-labelledby="changes-edit">
      <h2 id="changes-edit">{mayChange ? 'Edit' : 'Text'}</h2>
      <label class="field">
        <span>File of</span>
        <select value={scope ?? ''} onChange={(event) => narrow({ edit: event.currentTarget.value || undefined, line: undefined })}>
          <option value="">–</option>
          {scopes.map((it) => (
            <option key={it} value={it}>
              {nameOf(it)}
            </option>
          ))}
        </select>
      </label>
      {!mayChange && <p class="hint">A viewer looks at it; an operator changes it.</p>}
      {scope && seen?.scope === scope && (
        <>
          <CodeField
            key={scope}
            label={`The text of ${nameOf(scope)}`}
            file={fileOf(scope)}
            given={given}
            isReadOnly={!mayChange}
            elsewhere={seen.elsewhere}
            problems={problems}
            line={Number(route.query.line) || undefined}
            onChange={type}
          />
          <p class="buttons">
            {mayChange && (
              <button type="button" class="primary" disabled={text === seen.text} onClick={keep}>
                Keep as candidate
              </button>
            )}
            {mayChange && text !== seen.text && (
              <button type="button" class="secondary" onClick={forget}>
                Back to the box’s text
              </button>
            )}
            {mayChange && seen.open && (
              <button type="button" class="secondary" onClick={discard}>
                Give it up
              </button>
            )}
            <span class="hint">
              <kbd>Ctrl</kbd>+<kbd>Space</kbd> completes, <kbd>Ctrl</kbd>+<kbd>F</kbd> finds, <kbd>F8</kbd> goes to the next problem, <kbd>Tab</kbd> leads on.
            </span>
          </p>
        </>
      )}
    </section>
  );
}

/** Names that a file may use and does not say itself. */
function elsewhere(texts: Record<string, string>, scope: string, tenants: string[]): Names {
  const others = Object.entries(texts).filter(([file]) => file !== fileOf(scope));
  const named = Object.keys(texts).flatMap((file) => (file === BOX_FILE ? [] : [nameOf(scopeOf(file) ?? '')]));
  const names: Names = { tenant: [...new Set([...named, ...tenants])].filter((name) => name && name !== nameOf(scope)) };
  for (const [file, text] of others) {
    const there = namesIn(text);
    if (file === BOX_FILE) names.transport = there.transport;
    else names.publish = [...(names.publish ?? []), ...(there.publish ?? [])];
  }
  return names;
}

function problemsOf(file: string, wrong?: Outlook): LineProblem[] {
  const of = (level: LineProblem['level'], rows: { file: string | null; line: number | null; message: string }[]) =>
    rows.flatMap((row) => (row.file === file && row.line !== null ? [{ level, line: row.line, message: row.message }] : []));
  return [...of('bad', wrong?.problem?.problems ?? []), ...of('warn', wrong?.warnings ?? [])];
}

interface FieldProps {
  label: string;
  file: string;
  given: { text: string };
  isReadOnly: boolean;
  elsewhere: Names;
  problems: LineProblem[];
  /** To be shown first. */
  line?: number;
  onChange: (text: string) => void;
}

/** The editor, once it is here; a plain field where it cannot be had. */
function CodeField({ label, file, given, isReadOnly, elsewhere, problems, line, onChange }: FieldProps) {
  const host = useRef<HTMLDivElement>(null);
  const [editor, setEditor] = useState<Editor>();
  const [failed, setFailed] = useState<string>();
  const latest = useRef({ given, elsewhere, onChange });
  latest.current = { given, elsewhere, onChange };
  useEffect(() => {
    let gone = false;
    let made: Editor | undefined;
    import('./codemirror')
      .then(({ Editor }) => {
        if (gone) return;
        made = new Editor(host.current!, {
          label,
          file,
          isReadOnly,
          text: latest.current.given.text,
          names: () => latest.current.elsewhere,
          onChange: (text) => latest.current.onChange(text),
        });
        setEditor(made);
      })
      .catch((error: unknown) => gone || setFailed(asProblem(error).detail));
    return () => {
      gone = true;
      made?.destroy();
    };
  }, [file, isReadOnly]);
  useEffect(() => editor?.write(given.text), [editor, given]);
  useEffect(() => editor?.mark(problems), [editor, problems]);
  useEffect(() => void (line && editor?.goTo(line)), [editor, line]);
  if (failed) {
    return (
      <>
        <p class="hint">The editor cannot be had ({failed}); this does without.</p>
        <textarea
          class="mono"
          aria-label={label}
          spellcheck={false}
          autocapitalize="off"
          rows={24}
          readOnly={isReadOnly}
          value={given.text}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      </>
    );
  }
  return <div class="code" ref={host} aria-busy={!editor} />;
}
