// Before anything is painted, so that a dark room sees no white flash.
try {
  const theme = localStorage.getItem('popgate-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; the system's choice stands.
}
