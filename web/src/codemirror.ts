// The editor of a configuration's text, fetched when somebody edits: highlighting, completion, and what is wrong at its line.
//
// It lives in a shadow tree, where its styles are adopted and not inline, which the content security policy would refuse.

import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap, type CompletionContext, type CompletionResult } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { HighlightStyle, StreamLanguage, syntaxHighlighting } from '@codemirror/language';
import { toml } from '@codemirror/legacy-modes/mode/toml';
import { lintGutter, lintKeymap, setDiagnostics, type Diagnostic } from '@codemirror/lint';
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState, type Text } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers, tooltips } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import type { Names } from './names';
import { offer } from './toml';

export interface LineProblem {
  /** Counted from 1. */
  line: number;
  message: string;
  level: 'bad' | 'warn';
}

export interface Settings {
  /** What it is called to whoever cannot see it. */
  label: string;
  text: string;
  isReadOnly: boolean;
  /** The file's name, which says what may be in it. */
  file: string;
  /** What is known that the text does not name. */
  names: () => Names;
  onChange: (text: string) => void;
}

/** Colours are the page's, and so is its theme. */
const look = EditorView.theme({
  '&': { color: 'var(--ink)', backgroundColor: 'var(--inset)', border: '1px solid var(--line-2)', borderRadius: '4px', height: '100%' },
  '&.cm-focused': { outline: '2px solid var(--accent)', outlineOffset: '-1px' },
  '.cm-scroller': { fontFamily: 'var(--mono)', fontSize: '12px', lineHeight: '1.5' },
  '.cm-content': { caretColor: 'var(--ink)', padding: '6px 0' },
  '.cm-cursor, .cm-dropCursor': { borderLeftColor: 'var(--ink)' },
  '.cm-gutters': { backgroundColor: 'var(--inset)', color: 'var(--ink-3)', border: 'none', borderRight: '1px solid var(--line)' },
  '.cm-activeLine': { backgroundColor: 'var(--hover)' },
  '.cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground': { backgroundColor: 'var(--accent-soft)' },
  '.cm-selectionMatch, .cm-searchMatch': { backgroundColor: 'var(--warn-soft)', outline: '1px solid var(--warn-line)' },
  '.cm-tooltip': { backgroundColor: 'var(--panel)', color: 'var(--ink)', border: '1px solid var(--line-2)', borderRadius: '4px' },
  '.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', fontSize: '12px' },
  '.cm-tooltip-autocomplete > ul > li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--accent-ink)' },
  '.cm-completionDetail': { color: 'inherit', opacity: '1', fontStyle: 'normal', marginLeft: '1.5em' },
  '.cm-completionMatchedText': { textDecoration: 'none', fontWeight: '700' },
  '.cm-panels': { backgroundColor: 'var(--panel)', color: 'var(--ink)', borderColor: 'var(--line-2)' },
  '.cm-textfield': { backgroundColor: 'var(--inset)', color: 'var(--ink)', border: '1px solid var(--line-2)' },
  '.cm-button': { backgroundImage: 'none', backgroundColor: 'var(--inset)', color: 'var(--ink)', border: '1px solid var(--line-2)' },
  // Signs in place of the pictures that come with it: they are data: URLs, which the policy refuses.
  '.cm-lint-marker': { width: '1em', height: 'auto', lineHeight: 'inherit', textAlign: 'center', fontWeight: '700' },
  '.cm-lint-marker-error': { content: 'none', color: 'var(--bad)' },
  '.cm-lint-marker-warning': { content: 'none', color: 'var(--warn)' },
  '.cm-lint-marker-error::before': { content: '"✕"' },
  '.cm-lint-marker-warning::before': { content: '"▲"' },
  '.cm-lintRange': { backgroundImage: 'none', paddingBottom: '0' },
  '.cm-lintRange-error': { backgroundImage: 'none', textDecoration: 'underline wavy var(--bad)' },
  '.cm-lintRange-warning': { backgroundImage: 'none', textDecoration: 'underline wavy var(--warn)' },
  '.cm-lintPoint::after': { border: 'none' },
  '.cm-diagnostic': { borderLeft: '4px solid var(--line-2)', fontFamily: 'var(--sans)' },
  '.cm-diagnostic-error': { borderLeftColor: 'var(--bad)' },
  '.cm-diagnostic-warning': { borderLeftColor: 'var(--warn)' },
});

const colours = HighlightStyle.define([
  { tag: tags.comment, color: 'var(--ink-3)', fontStyle: 'italic' },
  { tag: tags.string, color: 'var(--ok)' },
  { tag: [tags.number, tags.bool, tags.atom], color: 'var(--warn)' },
  { tag: tags.propertyName, color: 'var(--ink)' },
  { tag: [tags.bracket, tags.atom], color: 'var(--accent)', fontWeight: '600' },
]);

export class Editor {
  private readonly view: EditorView;
  private readonly writable = new Compartment();

  constructor(host: HTMLElement, settings: Settings) {
    const root = host.shadowRoot ?? host.attachShadow({ mode: 'open' });
    root.replaceChildren();
    const complete = (context: CompletionContext) => completions(context, settings);
    this.view = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: settings.text,
        extensions: [
          lineNumbers(),
          lintGutter(),
          history(),
          drawSelection(),
          highlightActiveLine(),
          highlightSelectionMatches(),
          closeBrackets(),
          search({ top: true }),
          autocompletion({ override: [complete], icons: false }),
          tooltips({ position: 'fixed' }),
          StreamLanguage.define(toml),
          syntaxHighlighting(colours),
          look,
          // Tab is not among them: it leads on through the page.
          keymap.of([...closeBracketsKeymap, ...completionKeymap, ...searchKeymap, ...historyKeymap, ...lintKeymap, ...defaultKeymap]),
          EditorView.contentAttributes.of({ 'aria-label': settings.label, tabindex: '0', spellcheck: 'false', autocapitalize: 'off' }),
          this.writable.of(EditorState.readOnly.of(settings.isReadOnly)),
          EditorView.updateListener.of((update) => update.docChanged && settings.onChange(update.state.doc.toString())),
        ],
      }),
    });
  }

  /** Another text in its place, unless it is that one. */
  write(text: string): void {
    const { doc } = this.view.state;
    if (doc.toString() !== text) this.view.dispatch({ changes: { from: 0, to: doc.length, insert: text } });
  }

  /** Shows what is wrong, each at its line, which moves along with what is written. */
  mark(problems: LineProblem[]): void {
    const { doc } = this.view.state;
    const marks = problems.filter(({ line }) => line >= 1 && line <= doc.lines).map((it) => diagnostic(doc, it));
    this.view.dispatch(setDiagnostics(this.view.state, marks));
  }

  /** Puts the cursor at a line, in sight. */
  goTo(line: number): void {
    const { doc } = this.view.state;
    const { from } = doc.line(Math.min(Math.max(1, line), doc.lines));
    this.view.dispatch({ selection: { anchor: from }, effects: EditorView.scrollIntoView(from, { y: 'center' }) });
    this.view.focus();
  }

  destroy(): void {
    this.view.destroy();
  }
}

function diagnostic(doc: Text, { line, message, level }: LineProblem): Diagnostic {
  const { from, text } = doc.line(line);
  const blank = text.length - text.trimStart().length;
  return { from: from + blank, to: from + Math.max(blank, text.trimEnd().length), severity: level === 'bad' ? 'error' : 'warning', message };
}

function completions(context: CompletionContext, { file, names }: Settings): CompletionResult | null {
  const found = offer(context.state.doc.toString(), context.pos, file, names());
  if (!found) return null;
  // Not before the first letter, unless it is asked for or a value has just been opened.
  if (!context.explicit && found.from === context.pos && !/["[]$/.test(context.state.sliceDoc(0, context.pos))) return null;
  return {
    from: found.from,
    options: found.options.map(({ text, what }) => ({
      label: text,
      detail: what === 'word' || what === 'key' ? undefined : what,
      apply: what === 'table' ? applyHeader(text) : what === 'key' ? `${text} = ` : undefined,
    })),
    validFor: /^[[\]\w:/."-]*$/,
  };
}

/** Takes away the brackets that have been closed by themselves. */
const applyHeader = (text: string) => (view: EditorView, _: unknown, from: number, to: number) => {
  const after = /^\]*/.exec(view.state.sliceDoc(to, to + 2))![0].length;
  view.dispatch({ changes: { from, to: to + after, insert: text }, selection: { anchor: from + text.length }, userEvent: 'input.complete' });
};
