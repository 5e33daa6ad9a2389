// Light, dark, or as the system has it.

export type Theme = 'auto' | 'light' | 'dark';

const KEPT_AS = 'popgate-theme';
const NEXT: Record<Theme, Theme> = { auto: 'light', light: 'dark', dark: 'auto' };

export const theme = (): Theme => (document.documentElement.dataset.theme as Theme | undefined) ?? 'auto';

export function nextTheme(): Theme {
  const next = NEXT[theme()];
  if (next === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === 'auto') localStorage.removeItem(KEPT_AS);
    else localStorage.setItem(KEPT_AS, next);
  } catch {
    // Storage may be forbidden; then it holds for this page.
  }
  return next;
}
