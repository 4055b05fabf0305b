"""The frame of a page: its style sheet, in a light and a dark theme, and the script for charts and pictures."""

from html import escape

STYLE = """
:root{--ink:#1b1f24;--paper:#fff;--soft:#5b6570;--line:#d9dee4;--tint:#f3f5f8;--blue:#1f6feb;--good:#2f9e44;--bad:#d9480f;
--c1:#d9480f;--c2:#2f9e44;--c3:#9c36b5;--c4:#0c8599;--c5:#b8860b;--c6:#c2255c;--c7:#5c7cfa;--c8:#74b816;--c9:#846358;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#14171b;--soft:#9aa5b1;--line:#30363d;--tint:#1d2228;
--blue:#6ea8fe;--good:#51cf66;--bad:#ff922b;--c1:#ff922b;--c2:#51cf66;--c3:#da77f2;--c4:#3bc9db;--c5:#fcc419;
--c6:#f783ac;--c7:#91a7ff;--c8:#a9e34b;--c9:#c0a598}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:980px;margin:auto;padding:1.2rem}
h1{font-size:1.6rem;margin:.4rem 0 1rem;overflow-wrap:anywhere}h1 small{color:var(--soft);font-weight:400}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{color:var(--soft);margin:.4rem 0 1rem;max-width:46rem}p b,p code{color:var(--ink)}
code{font-size:.9em;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem}
.tile{background:var(--tint);border-radius:10px;padding:.7rem 1.1rem;min-width:8rem}
.tile b{display:block;font-size:1.5rem}.tile span,.tile small{color:var(--soft);font-size:.85rem}
.tile small{display:block}.tiles+p{margin-top:.9rem}
@media(max-width:30rem){.tile{flex:1 1 40%}}
@media(min-width:30rem){.flag{white-space:nowrap}}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:1rem}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft)}figcaption b{color:var(--ink)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:13px}
.charts>figure{max-width:560px}.chart{touch-action:pan-y}
.curve,.legend path{fill:none;stroke:var(--blue);stroke-width:2;stroke-linejoin:round}
.curve.dashed{stroke-dasharray:6 4}.curve.thin{stroke:var(--soft);stroke-width:1;opacity:.55}
.point{fill:var(--blue)}.hidden{fill:none;stroke:none}
.best{fill:var(--paper);stroke:var(--good);stroke-width:2.5}
.cursor{fill:var(--paper);stroke:var(--ink);stroke-width:2}
.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}.c8{stroke:var(--c8)}.c9{stroke:var(--c9)}
.curve.thin[class*=" c"]{stroke-width:1.5;opacity:.9}
.curve.c1{stroke:var(--c1)}.curve.c2{stroke:var(--c2)}.curve.c3{stroke:var(--c3)}.curve.c4{stroke:var(--c4)}
.curve.c5{stroke:var(--c5)}.curve.c6{stroke:var(--c6)}.curve.c7{stroke:var(--c7)}.curve.c8{stroke:var(--c8)}
.curve.c9{stroke:var(--c9)}
.point[class*=" c"]:not(.c0){fill:var(--paper);stroke-width:1.5}
.keys{display:flex;flex-wrap:wrap;gap:0 .9rem}.keys svg{display:inline-block;width:24px;margin-right:.4em;
vertical-align:.15em}.keys u{display:inline-block;width:.9em;height:.9em;border-radius:3px;margin-right:.35em;
vertical-align:-.1em}
rect{fill:var(--blue)}
rect.right,u.right{fill:var(--good);background:var(--good)}rect.wrong,u.wrong{fill:var(--bad);background:var(--bad)}
.mark{stroke:var(--ink);stroke-dasharray:3 3}
.bars{display:grid;grid-template-columns:fit-content(9rem) minmax(4rem,1fr) auto;gap:.35rem .7rem;align-items:center;
font-size:.9rem;margin-bottom:1.6rem;max-width:46rem}
.bars i{display:block;height:1rem}.bars b{display:block;height:100%;min-width:2px;background:var(--blue);
border-radius:3px}.bars em{font-style:normal;color:var(--soft);font-variant-numeric:tabular-nums}
.bars span{overflow-wrap:anywhere}
.grid,.axis{stroke:var(--line);fill:none}.dashed{stroke-dasharray:4 4}.dot{fill:var(--blue);opacity:.75}
.axis.dashed{stroke:var(--soft)}
.thumbs{display:grid;grid-template-columns:repeat(auto-fill,minmax(125px,1fr));gap:.7rem}
.wide{grid-template-columns:repeat(auto-fill,minmax(min(48%,170px),1fr))}
.thumb img{width:100%;border-radius:6px;display:block;cursor:zoom-in}
.thumb .pixels{image-rendering:pixelated}
.thumb figcaption{padding:.2rem 0;overflow-wrap:anywhere;line-height:1.3;text-wrap:pretty}
.name{display:block;color:var(--ink);white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.good figcaption{color:var(--good)}.bad figcaption{color:var(--bad)}
.quad{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(48%,200px),1fr));gap:.5rem;margin-bottom:1rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:.7rem;margin-bottom:1.2rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem}.legend i{display:inline-block;width:.9em;height:.9em;
border-radius:3px;margin-right:.35em;vertical-align:-.1em}
.lines i{width:1.7em;height:1.1em;margin-right:.5em}
.scroll{overflow-x:auto}.scroll+p{margin-top:1.4rem}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .7rem;text-align:left;border-bottom:1px solid var(--line)}
td{font-variant-numeric:tabular-nums}.numbers td{white-space:nowrap}
.facts th{color:var(--soft);font-weight:400;white-space:nowrap;vertical-align:top}.facts td{overflow-wrap:anywhere}
.confusion th,.confusion td{padding:.2rem .4rem;text-align:center;min-width:2.1rem;border:1px solid var(--line)}
.confusion .right{background:color-mix(in srgb,var(--good) calc(var(--part)*55%),transparent)}
.confusion .wrong{background:color-mix(in srgb,var(--bad) min(var(--part)*160%,60%),transparent)}
pre{background:var(--tint);padding:1rem;overflow-x:auto;border-radius:8px;font-size:.8rem}
summary{cursor:pointer;margin-top:1rem}
.tip{position:absolute;pointer-events:none;white-space:pre;background:var(--ink);color:var(--paper);font-size:.8rem;
padding:.2rem .5rem;border-radius:5px;line-height:1.4}
dialog{border:0;padding:0;background:none;color:#fff;max-width:96vw;max-height:96vh;cursor:zoom-out}
dialog::backdrop{background:#000c}
dialog img{display:block;width:min(94vw,82vh,1000px);height:82vh;object-fit:contain;margin:auto}
dialog .pixels{image-rendering:pixelated}
dialog figcaption{text-align:center;color:#fff;padding:.5rem}dialog .name{color:#fff;white-space:normal}
"""

SCRIPT = """
const tip=Object.assign(document.createElement('div'),{className:'tip',hidden:true});
const dialog=document.createElement('dialog');
document.body.append(tip,dialog);
function clear(){tip.hidden=true;document.querySelectorAll('.cursor').forEach(dot=>dot.remove())}
function nearest(curve,x){
  const points=[...curve.points],gaps=points.map(point=>Math.abs(point.x-x));
  const index=gaps.indexOf(Math.min(...gaps));
  return {point:points[index],text:curve.dataset.tips.split('\\n')[index]};
}
function show(svg,event){
  clear();
  const box=svg.getBoundingClientRect(),scale=svg.viewBox.baseVal.width/box.width;
  const x=(event.clientX-box.left)*scale,y=(event.clientY-box.top)*scale;
  let values=[...svg.querySelectorAll('[data-tips]')].map(curve=>nearest(curve,x));
  if(values.length>4)values=values.sort((a,b)=>Math.abs(a.point.y-y)-Math.abs(b.point.y-y)).slice(0,1);
  if(!values.length)return;
  for(const {point} of values){
    const dot=document.createElementNS(svg.namespaceURI,'circle');
    for(const [name,value] of Object.entries({class:'cursor',cx:point.x,cy:point.y,r:4}))dot.setAttribute(name,value);
    svg.append(dot);
  }
  tip.textContent=values.map(value=>value.text).join('\\n');
  tip.hidden=false;
  const left=box.left+values[0].point.x/scale+12,room=document.documentElement.clientWidth-tip.offsetWidth-8;
  tip.style.left=Math.max(4,Math.min(left,room))+scrollX+'px';
  tip.style.top=box.top+scrollY-tip.offsetHeight+8+'px';
}
for(const svg of document.querySelectorAll('svg.chart')){
  for(const name of ['pointermove','pointerdown'])svg.addEventListener(name,event=>show(svg,event));
  svg.addEventListener('pointerleave',event=>event.pointerType=='mouse'&&clear());
}
document.addEventListener('pointerdown',event=>event.target.closest('svg.chart')||clear());
function enlarge(image){
  const caption=image.parentElement.querySelector('figcaption');
  dialog.replaceChildren(image.cloneNode(),caption.cloneNode(true));
  dialog.showModal();
}
document.addEventListener('click',event=>{
  const image=event.target.closest('.thumb img');
  if(image)enlarge(image);else if(dialog.open)dialog.close();
});
document.addEventListener('keydown',event=>{
  if(event.key=='Enter'&&event.target.matches('.thumb img'))enlarge(event.target);
});
"""


def document(title: str, content: str, *, head: str = "") -> str:
    """Return a whole page, one file that loads nothing: the HTML `content` with the style sheet and the script.

    Args:
        title: plain text.
        content: HTML of the page.
        head: further HTML for its head.
    """
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>{head}<main>{content}</main><script>{SCRIPT}</script></html>\n"
    )
