"""The report's style sheet."""

STYLE = """
:root{--ink:#1b1f24;--paper:#fff;--soft:#5b6570;--line:#d9dee4;--tint:#f3f5f8;--blue:#1f6feb;--good:#2f9e44;--bad:#d9480f;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#14171b;--soft:#9aa5b1;--line:#30363d;--tint:#1d2228;
--blue:#6ea8fe;--good:#51cf66;--bad:#ff922b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:980px;margin:auto;padding:1.2rem}
h1{font-size:1.6rem;margin:.4rem 0 1rem}h1 small{color:var(--soft);font-weight:400}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);padding-top:1rem}
p{color:var(--soft);margin:.4rem 0 1rem}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem}
.tile{background:var(--tint);border-radius:10px;padding:.7rem 1.1rem;min-width:8rem}
.tile b{display:block;font-size:1.5rem}.tile span{color:var(--soft);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:1rem}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft)}figcaption b{color:var(--ink)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
.curve{fill:none;stroke:var(--blue);stroke-width:2;stroke-linejoin:round}
.curve.dashed{stroke-dasharray:6 4}.curve.thin{stroke:var(--soft);stroke-width:1;opacity:.55}
.keys{display:flex;flex-wrap:wrap;gap:0 .9rem}.keys svg{display:inline-block;width:24px;margin-right:.4em;
vertical-align:.15em}.keys u{display:inline-block;width:.9em;height:.9em;border-radius:3px;margin-right:.35em;
vertical-align:-.1em}
rect.right,u.right{fill:var(--good);background:var(--good)}rect.wrong,u.wrong{fill:var(--bad);background:var(--bad)}
.mark{stroke:var(--ink);stroke-dasharray:3 3}
.bars{display:grid;grid-template-columns:fit-content(9rem) minmax(6rem,1fr) auto;gap:.35rem .7rem;align-items:center;
font-size:.9rem;margin-bottom:1.6rem}
.bars i{display:block;height:1rem}.bars b{display:block;height:100%;min-width:2px;background:var(--blue);
border-radius:3px}.bars em{font-style:normal;color:var(--soft);font-variant-numeric:tabular-nums}
.grid,.axis{stroke:var(--line);fill:none}.dashed{stroke-dasharray:4 4}.dot{fill:var(--blue);opacity:.75}
.square{max-width:320px;margin-top:1.2rem}
.thumbs{display:grid;grid-template-columns:repeat(auto-fill,minmax(105px,1fr));gap:.7rem}
.thumb img{width:100%;border-radius:6px;display:block}
.thumb figcaption{padding:.15rem 0;overflow-wrap:anywhere;line-height:1.25}
.good figcaption{color:var(--good)}.bad figcaption{color:var(--bad)}
.triple{display:grid;grid-template-columns:repeat(3,1fr);gap:.5rem;margin-bottom:.8rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:.7rem;margin-bottom:1.2rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem}.legend i{display:inline-block;width:.9em;height:.9em;
border-radius:3px;margin-right:.35em;vertical-align:-.1em}
.lines i{width:1.7em;height:1.1em;margin-right:.5em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .7rem;text-align:left;border-bottom:1px solid var(--line)}
td{font-variant-numeric:tabular-nums}.numbers td{white-space:nowrap}
.facts th{color:var(--soft);font-weight:400;white-space:nowrap}.facts td{overflow-wrap:anywhere}
.confusion th,.confusion td{padding:.2rem .4rem;text-align:center;min-width:2.1rem;border:1px solid var(--line)}
.confusion .right{background:color-mix(in srgb,var(--good) calc(var(--part)*55%),transparent)}
.confusion .wrong{background:color-mix(in srgb,var(--bad) calc(var(--part)*160%),transparent)}
pre{background:var(--tint);padding:1rem;overflow-x:auto;border-radius:8px;font-size:.8rem}
summary{cursor:pointer;margin-top:1rem}
"""
