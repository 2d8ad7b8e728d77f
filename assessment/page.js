"use strict";
(() => {
  const form = document.getElementById("filters");
  const words = document.getElementById("words");
  const status = document.getElementById("status");
  const family = document.getElementById("family");
  const shown = document.getElementById("shown");
  const rows = [...document.querySelectorAll("#controls tbody tr")].map(
    (row) => ({ row, text: row.textContent.toLowerCase() }));
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text } of rows) {
      const fits = (!status.value || row.dataset.status === status.value)
        && (!family.value || row.dataset.family === family.value)
        && wanted.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} controls`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  // A link to a control must find it, whatever was filtered; what is folded is printed too.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.hidden) { form.reset(); filter(); target.scrollIntoView(); }
  });
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  filter();
})();
