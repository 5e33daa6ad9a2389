// What may be written at a place of a configuration: keys and words from what the box reads (config-keys.json), names from the
// text itself and from what is known of the box.

import known from './config-keys.json';
import { HEADER, namesIn, type Kind, type Names } from './names';

type Keys = Record<string, string[]>;
const TABLES: Readonly<Record<string, Keys>> = known;

/** A key, as the box knows it: one that is misspelled below does not compile. */
type Key = { [T in keyof typeof known]: keyof (typeof known)[T] }[keyof typeof known];

/** What `from` and `to` call what they name. */
const PLACES: [string, Kind][] = [['branch:', 'branch'], ['handoff:', 'handoff'], ['group:', 'address-group'], ['service:', 'publish'], ['tenant:', 'tenant']];

/** Keys whose values are names, and of what. */
const NAMED: Partial<Record<Key, Kind>> = {
  app: 'app',
  class: 'app-class',
  handoff: 'handoff',
  path: 'path',
  pool: 'pool',
  prefer: 'path',
  rule: 'acl',
  service: 'service-group',
  services: 'service-group',
  'sla-class': 'sla-class',
  tenant: 'tenant',
  tenants: 'tenant',
  transport: 'transport',
};

export interface Option {
  /** What is put in, as it stands in the file. */
  text: string;
  what: 'key' | 'table' | 'word' | 'name';
}

export interface Offer {
  /** Where what it takes the place of begins. */
  from: number;
  options: Option[];
}

/** The header that a line stands under, `[[branch.path]]`, and that of the outermost table before any. */
function tableAt(lines: string[], line: number, root: string): string {
  for (let at = line; at >= 0; at -= 1) {
    const found = HEADER.exec(lines[at]!);
    if (found) return found[1] === '[[' ? `[[${found[2]}]]` : `[${found[2]}]`;
  }
  return root;
}

const bare = (table: string): string => (table.startsWith('[') ? table.replace(/[[\]]/g, '') : '');

/** The table that stands under a key of another, if one does. */
function below(table: string, key: string): string | undefined {
  const name = [bare(table), key].filter(Boolean).join('.');
  return [`[[${name}]]`, `[${name}]`, key].find((it) => it in TABLES);
}

/** Without what is in quotes and comments: brackets count where they are not. */
const skeleton = (text: string): string => text.replace(/"(?:[^"\\]|\\.)*"?|'[^']*'?/g, (it) => '"'.repeat(it.length)).replace(/#.*/g, (it) => ' '.repeat(it.length));

const depth = (text: string): number => (text.match(/[[{]/g)?.length ?? 0) - (text.match(/[\]}]/g)?.length ?? 0);

/** What may stand at a place of a text: `file` is its name, `elsewhere` what is known that the text does not name. */
export function offer(text: string, at: number, file: string, elsewhere: Names): Offer | undefined {
  const before = text.slice(0, at);
  const lines = before.split('\n');
  const here = lines.at(-1)!;
  const root = file in TABLES ? file : 'tenants/NAME.toml';

  const header = /^\s*(\[\[?[\w.-]*)$/.exec(here);
  if (header) {
    // What follows it on the line, brackets closed by themselves, goes.
    return { from: at - header[1]!.length, options: headersOf(root) };
  }

  // Where the value that this is in begins: lists go on over lines.
  let begins = lines.length - 1;
  while (begins > 0 && !/^\s*[\w-]+\s*=/.test(lines[begins]!) && !HEADER.test(lines[begins]!)) begins -= 1;
  const table = tableAt(lines, lines.length - 1, root);
  const statement = lines.slice(begins).join('\n');
  const bones = skeleton(statement);
  const assigned = /^\s*([\w-]+)\s*=/.exec(statement);
  const isGoingOn = assigned && (begins === lines.length - 1 || depth(bones) > 0);
  if (!assigned || !isGoingOn) {
    const typed = /^\s*([\w-]*)$/.exec(here);
    return typed ? { from: at - typed[1]!.length, options: keysOf(table, isAlone(text, at)) } : undefined;
  }
  if (/#[^\n]*$/.test(statement.replace(/"(?:[^"\\]|\\.)*"?|'[^']*'?/g, ''))) return undefined;

  // Inside a table in braces it is that one's key.
  let key = assigned[1]!;
  let of = table;
  const open = innermostBrace(bones);
  if (open >= 0) {
    const within = below(table, key);
    if (!within) return undefined;
    const field = statement.slice(open + 1).slice(fieldStart(bones.slice(open + 1)));
    const inner = /^\s*([\w-]+)\s*=/.exec(field);
    of = within;
    if (!inner) {
      const typed = /^\s*([\w-]*)$/.exec(field);
      return typed ? { from: at - typed[1]!.length, options: keysOf(of, false) } : undefined;
    }
    key = inner[1]!;
  }
  return valuesAt(of, key, here, at, text, elsewhere);
}

/** Where the brace begins that is still open at the end, -1 if none is. */
function innermostBrace(bones: string): number {
  const open: number[] = [];
  for (let at = 0; at < bones.length; at += 1) {
    if (bones[at] === '{') open.push(at);
    else if (bones[at] === '}') open.pop();
  }
  return open.at(-1) ?? -1;
}

/** Where the last field of an inline table begins that is still open. */
function fieldStart(bones: string): number {
  let level = 0;
  let start = 0;
  for (let at = 0; at < bones.length; at += 1) {
    if (bones[at] === '[') level += 1;
    else if (bones[at] === ']') level -= 1;
    else if (bones[at] === ',' && level === 0) start = at + 1;
  }
  return start;
}

/** Whether nothing follows in the line that would make of a key something else. */
const isAlone = (text: string, at: number): boolean => /^\s*(\n|$)/.test(text.slice(at));

function headersOf(root: string): Option[] {
  // A tenant's file has none of the box's tables.
  const roots = new Set(Object.keys(TABLES[root] ?? {}));
  return Object.keys(TABLES)
    .filter((table) => table.startsWith('[') && roots.has(bare(table).split('.')[0]!))
    .map((text) => ({ text, what: 'table' }));
}

/** Keys that begin tables are offered as their headers, where a table may begin. */
function keysOf(table: string, mayBeginTable: boolean): Option[] {
  const keys = Object.keys(TABLES[table] ?? {});
  return keys.flatMap((key): Option[] => {
    const header = below(table, key);
    if (!header || !header.startsWith('[')) return [{ text: key, what: 'key' }];
    return mayBeginTable ? [{ text: header, what: 'table' }] : [];
  });
}

function valuesAt(table: string, key: string, here: string, at: number, text: string, elsewhere: Names): Offer | undefined {
  const quoted = /"([^"\s]*)$/.exec(skeletonOfString(here));
  const typed = quoted ? quoted[1]! : (/[\w:/.-]*$/.exec(here)?.[0] ?? '');
  // A flow's keys take the same words wherever they stand.
  const own = TABLES[table]?.[key] ?? [];
  const words = own.length > 0 ? own : (TABLES['[[acl]]']?.[key] ?? []);
  const all = [...words, ...namesFor(table, key, text, elsewhere).map((name) => JSON.stringify(name))];
  if (all.length === 0) return undefined;
  const options = [...new Set(all)]
    .filter((value) => !quoted || value.startsWith('"'))
    .map((value): Option => ({ text: quoted ? value.slice(1, -1) : value, what: words.includes(value) ? 'word' : 'name' }));
  return { from: at - typed.length, options };
}

/** What is in the last string of a line that is not closed, with its quote before it; nothing if all are. */
function skeletonOfString(here: string): string {
  let open = -1;
  for (let at = 0; at < here.length; at += 1) if (here[at] === '"') open = open < 0 ? at : -1;
  return open < 0 ? '' : here.slice(open);
}

function namesFor(table: string, key: string, text: string, elsewhere: Names): string[] {
  const own = namesIn(text);
  const of = (kind: Kind): string[] => [...(own[kind] ?? []), ...(elsewhere[kind] ?? [])];
  if (table === '[[canary]]' && key === 'from') return of('branch');
  if (key === 'addresses' || ((key === 'from' || key === 'to') && table !== '[[policy-test]]' && table !== '[[handoff.port-forward]]')) {
    return PLACES.flatMap(([prefix, kind]) => of(kind).map((name) => prefix + name));
  }
  if (table === '[[subscriber]]' && key === 'services') return (own.publish ?? []).map((name) => name.split('/').at(-1)!);
  // A collector's is a protocol, not a link of the box's.
  if (table === '[[export.collector]]' && key === 'transport') return [];
  const kind = NAMED[key as Key];
  return kind ? of(kind) : [];
}
