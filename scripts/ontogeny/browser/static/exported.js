// What a server would answer: the features that a list asks for, in its order.

/** Read an address, without parameters that say nothing. */
export function parameters(search) {
  return new URLSearchParams([...new URLSearchParams(search)].filter(([, value]) => value !== ""));
}

/** Read what lists are ordered and filtered by. */
export async function readList() {
  return (await fetch("list.json")).json();
}

/** Cut a text into words as they were cut when the copy was written, where marks of letters stand for themselves. */
function wordsOf(text) {
  const folded = text.toLowerCase().replaceAll("ß", "ss").replaceAll("ς", "σ");
  return (folded.match(/[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]+/gu) ?? []).map((word) => [...word].slice(0, 64).join(""));
}

async function withWords(text, inContext) {
  const files = ["words.json", ...(inContext ? ["context.json"] : [])];
  const indexes = await Promise.all(files.map(async (file) => (await fetch(file)).json()));
  let kept = null;
  for (const part of text.split(/\s+/).filter(Boolean)) {
    const begins = part.length > 1 && part.endsWith("*");
    for (const word of wordsOf(begins ? part.slice(0, -1) : part)) {
      const found = new Set();
      for (const index of indexes) {
        const words = begins ? Object.keys(index).filter((other) => other.startsWith(word)) : Object.hasOwn(index, word) ? [word] : [];
        for (const other of words) for (const feature of index[other]) found.add(feature);
      }
      kept = kept === null ? found : new Set([...kept].filter((feature) => found.has(feature)));
    }
  }
  return kept;
}

/** List the numbers of all features that an address asks for, in its order. */
export async function findFeatures(list, asked) {
  const tests = [];
  const { columns, names } = list;
  const dead = asked.get("dead") ?? "hide";
  if (dead !== "show") tests.push((n) => (columns.dead[n] === 1) === (dead === "only"));
  for (const [name, value] of asked) {
    const [end, column] = name.split(/\.(.*)/s);
    if (!column || !(column in columns)) continue;
    const bound = Number(value);
    if (end === "min") tests.push((n) => columns[column][n] !== null && columns[column][n] >= bound);
    if (end === "max") tests.push((n) => columns[column][n] !== null && columns[column][n] <= bound);
  }
  for (const column of ["class", "type"]) {
    const chosen = new Set(asked.getAll(column).map((word) => names[column]?.indexOf(word)));
    if (chosen.size) tests.push((n) => chosen.has(columns[column]?.[n]));
  }
  if (asked.has("bookmarked")) { const marked = new Set(list.bookmarked); tests.push((n) => marked.has(n)); }
  if (asked.has("tag")) { const tagged = new Set(list.tags[asked.get("tag")] ?? []); tests.push((n) => tagged.has(n)); }
  const words = asked.has("q") ? await withWords(asked.get("q"), asked.has("context")) : null;
  if (words) tests.push((n) => words.has(n));
  const found = Array.from({ length: list.features }, (_, n) => n).filter((n) => tests.every((test) => test(n)));
  return order(found, columns[asked.get("sort")], asked.has("desc"));
}

/** Order features by a column, absent values last either way, equals by number. */
function order(found, column, isDescending) {
  if (!column) return isDescending ? found.reverse() : found;
  const sign = isDescending ? -1 : 1;
  return found.sort((a, b) => {
    const [x, y] = [column[a], column[b]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (x - y) || a - b;
  });
}
