"""How a report looks: its palette, light and dark, and the style sheet."""

from __future__ import annotations

from dna_fast.report import FRONT_COLOUR, WINNER_COLOUR

# name -> (light, dark). Text keeps a contrast of 4.5 to `paper` and `panel`, marks of pictures keep 3 (WCAG AA).
# Okabe and Ito's hues as in `report`; those that are too pale for white are darkened there, the dark ones lightened on black.
TEXT_COLOURS = {
    "ink": ("#1B1F24", "#E8EAED"),
    "muted": ("#57606A", "#A8B0BA"),
    "link": ("#0059A3", "#7CC0FF"),
    "accent": ("#A84300", "#FF9B57"),
}
MARK_COLOURS = {
    "front": (FRONT_COLOUR, "#5AB0F0"),
    "winner": (WINNER_COLOUR, "#FF8A3D"),
    "budget": ("#555555", "#B4B4B4"),
    "s0": ("#0072B2", "#56B4E9"),
    "s1": ("#00805C", "#2CC79A"),
    "s2": ("#B0508A", "#DE96C0"),
    "s3": ("#9A6A00", "#E6A92E"),
    "s4": ("#3D7FA8", "#9CC7E4"),
    "s5": ("#5E5E5E", "#C9C9C9"),
    "s6": ("#7A4FBF", "#B79CF0"),
}
# Surfaces and lines that only help the eye: nothing is read from them alone.
QUIET_COLOURS = {
    "paper": ("#FFFFFF", "#14171A"),
    "panel": ("#F5F7F9", "#1D2126"),
    "line": ("#D5DADF", "#363C44"),
    "cloud": ("#9AA3AD", "#7B848E"),
    "marked": ("#FFF1E6", "#33241A"),
}
PALETTE = {**TEXT_COLOURS, **MARK_COLOURS, **QUIET_COLOURS}
SERIES = tuple(name for name in MARK_COLOURS if name[0] == "s")


def _properties(theme: int) -> str:
    return "".join(f"--{name}:{pair[theme]};" for name, pair in PALETTE.items())


_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 8px;overflow-wrap:anywhere}
h1[id]{margin-top:72px}
h2{font-size:1.35rem;margin:44px 0 10px;padding-top:10px;border-top:1px solid var(--line);overflow-wrap:anywhere}
h3{font-size:1.08rem;margin:26px 0 6px;overflow-wrap:anywhere}
h2 a,h3 a{color:inherit;text-decoration:none}
h2 a:hover::after,h3 a:hover::after{content:" #";color:var(--muted)}
a{color:var(--link)}
p{margin:8px 0;max-width:80ch;overflow-wrap:anywhere}
.lead{font-size:1.15rem}
.note,figcaption,caption{color:var(--muted);font-size:.9rem}
.todo{border-left:4px solid var(--accent);background:var(--panel);padding:10px 14px;margin:10px 0}
code{font:.88em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
nav{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 16px;margin:18px 0}
nav ul{margin:0;padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:2px 20px}
nav strong{display:block;margin-top:4px}
.figures{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0;padding:0}
.figures div{flex:1 1 150px;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.figures dt{color:var(--muted);font-size:.85rem}
.figures dd{margin:0;font-size:1.3rem;font-weight:650;font-variant-numeric:tabular-nums}
.figures small{display:block;color:var(--muted);font-size:.8rem;font-weight:400}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;white-space:nowrap;padding:5px 12px 5px 6px;border-bottom:1px solid var(--line);vertical-align:top}
thead th{white-space:normal;border-bottom:2px solid var(--muted);vertical-align:bottom}
tbody th{font-weight:600}
.n{text-align:right;white-space:nowrap}
.long{white-space:normal;min-width:32ch;overflow-wrap:anywhere}
.marked th,.marked td{background:var(--marked)}
.keys td{white-space:normal;min-width:10ch;max-width:46ch;overflow-wrap:anywhere}
.keys code{white-space:pre-wrap}
details{margin:8px 0}
summary{cursor:pointer;color:var(--link);font-size:.92rem;padding:4px 0}
figure{margin:14px 0}
svg{display:block;width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt}
.wide{max-width:880px}
.narrow{display:none}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:6px 22px}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;margin:4px 0;padding:0;list-style:none;font-size:.88rem}

.net{display:flex;flex-wrap:wrap;gap:8px;margin:12px 0}
.blk{border:1px solid var(--line);border-radius:8px;padding:6px 8px 8px;background:var(--panel)}
.blk h4{margin:0 0 5px;font-size:.82rem;color:var(--muted);font-weight:600}
.lys{display:flex;flex-wrap:wrap;gap:5px}
.ly{border:1px solid var(--line);border-top:5px solid var(--muted);border-radius:4px;background:var(--paper);padding:3px 7px 4px;font-size:.78rem;line-height:1.35;min-width:74px;white-space:nowrap}
.ly b{display:block;font-size:.92rem}
.ly.k3{border-top-color:var(--s0)}.ly.k5{border-top-color:var(--s1)}.ly.k7{border-top-color:var(--winner)}
footer{margin-top:48px;color:var(--muted);font-size:.85rem;border-top:1px solid var(--line);padding-top:10px}
@media(max-width:640px){main{padding:16px 14px 40px}.wide{display:none}.narrow{display:block}h1{font-size:1.5rem}body{font-size:15px}.figures div{flex-basis:130px}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}nav{display:none}.wide{display:block}.narrow{display:none}h2,h3{break-after:avoid}figure,tr,.blk{break-inside:avoid}.scroll{overflow:visible}table{font-size:8pt}th,td,.n{white-space:normal;padding:2px 6px 2px 3px}.long{min-width:0}a{color:inherit}.todo,.blk,.ly,.marked th,.marked td{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""  # noqa: E501


def style_sheet() -> str:
    """The whole style sheet. Paper is light, whatever the screen is."""
    light, dark = _properties(0), _properties(1)
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{_RULES}"
