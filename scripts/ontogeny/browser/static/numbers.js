// Numbers as the server writes them.

/** Write a number with three significant digits. */
export function write(value) {
  const size = Math.abs(value);
  const digits = size === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(size)));
  const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(1).replace("e+", "e")
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return text.replaceAll("-", "\u2212");
}
