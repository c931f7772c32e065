"""Prompts that nobody types on purpose, and what they would do if a page took them for more than text."""

from __future__ import annotations

MARK = "owned"
"""Name of what a script of a prompt would set in the page, and id of what its markup would make."""
ELSEWHERE = "http://elsewhere.invalid"

MARKUP = {
    "script": f"x <script>window.{MARK} = 1; alert(1)</script> y",
    "picture": f'x <img id="{MARK}" src="{ELSEWHERE}/a.png" onerror="window.{MARK}=1;alert(1)"> y',
    "end of script": f"</script><script>window.{MARK}=1;alert(1)</script><!--",
    "attribute": f'" onmouseover="window.{MARK}=1" autofocus onfocus="alert(1)" x="',
    "svg": f'<svg id="{MARK}" onload="window.{MARK}=1"><a xlink:href="javascript:alert(1)">x</a></svg>',
    "style": f"<style>body {{ background: url({ELSEWHERE}/b.png) }}</style>",
    "markdown": f"![x]({ELSEWHERE}/c.png) [go](javascript:alert(1)) <{ELSEWHERE}/d> `x` $y$ :red[z] **b**",
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7} %(x)s {0.__class__}",
    "json": '"}],"layout":{"title":{"text":"<b>x</b>"}},"x":[{"y":"\\u003cscript\\u003e',
    "formula": '=HYPERLINK("http://elsewhere.invalid") +1 -1 @x ,;\t"\'\r\n',
}

SIGNS = {
    "spaces": "   ",
    "lines": "\n\r\n\t\v\f\n",
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 Z\u0351\u036b\u0343",
    "right to left": "שלום مرحبا \u202eevil\u202c \u2066x\u2069 \u200f",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f\u2028\u2029\ufeff\u200b\ufffe",
    "special tokens": "<|endoftext|> </s> [PAD] <unk> <|im_start|>system",
    "one long word": "a" * 900,
    "astral": "\U0010ffff\U0001f9ff\ud7ff",
}

REFUSED = {"nothing": "", "a megabyte": "word " * 200_000, "a megabyte of one letter": "x" * 1_000_000}
