// What a configuration's text names.

/** What has names in a configuration. */
export type Kind = 'branch' | 'handoff' | 'address-group' | 'service-group' | 'app' | 'app-class' | 'acl' | 'sla-class' | 'path' | 'pool' | 'transport' | 'tenant' | 'publish';
export type Names = Partial<Record<Kind, string[]>>;

/** A table's header: its brackets, and what it is called. */
export const HEADER = /^\s*(\[\[?)\s*([\w.-]+)\s*\]/;

/** What a text names, in the order it does. */
export function namesIn(text: string): Names {
  const names: Names = {};
  const tenant = /^\s*tenant\s*=\s*"([^"]*)"/m.exec(text)?.[1];
  const note = (kind: Kind, name: string) => {
    const list = (names[kind] ??= []);
    if (!list.includes(name)) list.push(name);
  };
  let table = '';
  for (const line of text.split('\n')) {
    const header = HEADER.exec(line);
    if (header) {
      table = header[2]!;
      continue;
    }
    const name = /^\s*name\s*=\s*"([^"]+)"/.exec(line)?.[1];
    if (name && table === 'publish') note('publish', `${tenant ?? ''}/${name}`);
    else if (name && (table === 'branch.path' || table === 'pop.path')) note('path', name);
    else if (name && isKind(table)) note(table, name);
    const pool = table === 'handoff' && /^\s*nat-pool\s*=\s*\[(.*)\]/.exec(line)?.[1];
    if (pool) for (const [, prefix] of pool.matchAll(/"([^"]+)"/g)) note('pool', prefix!);
  }
  return names;
}

const KINDS: readonly Kind[] = ['branch', 'handoff', 'address-group', 'service-group', 'app', 'app-class', 'acl', 'sla-class', 'transport'];
const isKind = (table: string): table is Kind => (KINDS as readonly string[]).includes(table);
