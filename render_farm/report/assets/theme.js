"use strict";
// As the report was last switched, else as the reader's system is.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("render-farm-theme"); } catch { /* it may not be asked */ }
  document.documentElement.dataset.theme = theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
})();
