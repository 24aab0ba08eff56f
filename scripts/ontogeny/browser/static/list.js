// The list: a changed filter is applied at once, and the address says only what was asked for.

const form = document.querySelector("form.filters");

function keepAddressShort() {
  for (const field of form.elements) {
    const isDefault = field.value === "" || (field.name === "sort" && field.value === "feature")
      || (field.name === "size" && field.value === "50") || (field.name === "dead" && field.value === "hide");
    if (field.name && isDefault) field.disabled = true;
  }
}

form.addEventListener("submit", keepAddressShort);
form.addEventListener("change", (event) => {
  if (event.target.matches("select, [type=checkbox]")) form.requestSubmit();
});
// A page that comes back from the history has its fields as they were when it was left.
window.addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
