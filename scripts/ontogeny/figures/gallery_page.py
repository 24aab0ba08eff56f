"""The frame of the gallery: one HTML file, for narrow and wide, dark and light screens."""

from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ground: #fcfcfa; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d8d8d4; --link: #005a8f; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181a; --ink: #ececea; --soft: #a8aaac; --line: #3a3d40; --link: #7fc4f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1128px; padding: 24px 16px 64px; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 8px; font-size: 26px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 48px 0 12px; font-size: 20px; line-height: 1.3; }
a { color: var(--link); }
nav ul { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; }
figure { margin: 0; }
.paper { overflow-x: auto; padding: 12px; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
.paper img { display: block; max-width: 100%; height: auto; }
figure.wide .paper img { min-width: 720px; }
figure.narrow { display: flex; flex-wrap: wrap; align-items: flex-start; column-gap: 32px; }
figure.narrow figcaption { flex: 1 1 320px; }
figcaption { max-width: 75ch; overflow-wrap: anywhere; }
figcaption p { margin: 12px 0 0; color: var(--soft); }
figcaption .finding { color: var(--ink); }
.facts, table, .versions { font-size: 14px; }
.table { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 6px 20px 6px 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; }
td { font-variant-numeric: tabular-nums; }
.versions { max-width: 75ch; color: var(--soft); }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<nav aria-label="Figures"><ul>
$contents
</ul></nav>
</header>
<main>
$figures
<section aria-labelledby="provenance">
<h2 id="provenance">Provenance</h2>
<div class="table" tabindex="0" role="group" aria-label="Provenance">
<table>
<thead><tr><th scope="col">figure</th><th scope="col">run</th><th scope="col">measured on</th>
<th scope="col">study hash</th><th scope="col">commit</th><th scope="col">seed</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
<p class="versions">$versions</p>
</section>
</main>
</body>
</html>
""")
"""Its fields are HTML that is already escaped."""
