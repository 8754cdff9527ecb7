// A slider and its number field show the same value: `data-mirror` names the other one.
// Everything else works by plain forms and htmx; without scripts the number field remains.
document.addEventListener("input", (event) => {
  const selector = event.target instanceof HTMLInputElement && event.target.dataset.mirror;
  if (!selector || !event.isTrusted) return;
  for (const other of document.querySelectorAll(selector)) {
    other.value = event.target.value;
    other.dispatchEvent(new Event("input", { bubbles: true }));
  }
});
