"""How a report looks: light and dark, on a desk and on a phone; nothing is loaded from elsewhere."""

CSS = """
:root { color-scheme: light dark;
  --ground: light-dark(#f7f7f5, #16181c); --sheet: light-dark(#ffffff, #1e2127); --ink: light-dark(#1c1e21, #e6e7e9);
  --soft: light-dark(#676b73, #9a9fa8); --line: light-dark(#e3e4e1, #32363e); --good: light-dark(#17713d, #63c98b);
  --bad: light-dark(#b3261e, #f2887f); --more: light-dark(#8a5a00, #e3b25c); --bar: light-dark(#3d6fb4, #7aa6e0);
  --hot: light-dark(#d9480f, #ff8c5a); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0; }
code, pre { font: .92em/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { overflow-x: auto; white-space: pre-wrap; }
.ports { list-style: none; margin: 0; padding: 0; color: var(--soft); overflow-wrap: anywhere; }
.ports span { display: inline-block; min-width: 3.2rem; }
.ports code { color: var(--ink); }
.status { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .8rem; vertical-align: middle;
  border: 1px solid currentColor; color: var(--more); }
.status.ok { color: var(--good); }
.status.failed { color: var(--bad); }
section { background: var(--sheet); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem;
  margin: 1rem 0; }
section.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; padding: 0;
  background: none; border: 0; margin-bottom: 0; }
.card { background: var(--sheet); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.card h2 { color: var(--soft); font-weight: 500; margin: 0; }
.card p { margin: 0 0 .5rem; }
.card b { font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card del { color: var(--soft); }
.bar { height: .3rem; background: var(--line); border-radius: .2rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.more { color: var(--more); }
.same, .remark, footer { color: var(--soft); }
.remark { font-size: .9rem; }
.warning { background: var(--sheet); border-left: .25rem solid var(--more); padding: .6rem 1rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td:has(> code) { min-width: 9rem; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--soft); }
footer { font-size: .85rem; margin-top: 1.5rem; }
.picture { overflow: auto; max-height: 75vh; border: 1px solid var(--line); border-radius: .4rem; text-align: center; }
.graph text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: var(--ink); }
.graph rect { fill: var(--ground); stroke: var(--line); }
.graph .made rect { stroke: var(--bar); stroke-width: 1.5; }
.graph .hot rect { fill: color-mix(in oklab, var(--hot) calc(var(--heat) * 85% + 8%), var(--sheet));
  stroke: var(--hot); }
.graph .node:hover rect { stroke: var(--ink); }
.edges path { fill: none; stroke: var(--soft); stroke-opacity: .55; }
.tools { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: center; }
.tools label { display: inline-flex; align-items: center; gap: .4rem; margin-left: auto; }
.key i { display: inline-block; width: 2.2rem; height: .8rem; vertical-align: -.1rem; border-radius: .2rem; }
.key .heat { background: linear-gradient(90deg, var(--sheet), var(--hot)); border: 1px solid var(--hot); width: 5rem; }
.key .made { border: 1.5px solid var(--bar); }
.search input { font: inherit; width: min(100%, 22rem); padding: .35rem .6rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--ground); color: inherit; }
.sortable th { cursor: pointer; user-select: none; }
.sortable th[aria-sort=descending]::after { content: " ↓"; }
.sortable th[aria-sort=ascending]::after { content: " ↑"; }
.sortable td { font-size: .9rem; }
.share { min-width: 7rem; font-size: .8rem; color: var(--soft); }
.share .bar { height: .6rem; margin: .25rem 0 .1rem; }
.scroll:has(#layers) { max-height: 70vh; overflow: auto; }
.scroll:has(#layers) th { position: sticky; top: 0; background: var(--sheet); }
@media (max-width: 30rem) {
  main { padding: 1rem .6rem 2rem; }
  section { padding: .8rem; }
  table { font-size: .87rem; }
  th, td { padding-right: .5rem; }
  td:has(> code) { min-width: 6.5rem; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
