# SPDX-License-Identifier: BSD-2-Clause
"""Pictures that are one file: SVG with its style and script, that loads nothing from elsewhere."""

from __future__ import annotations

import os
from html import escape

WIDTH = 1200
HEAD = 64  # pixels above the shapes


def figure(
    title: str,
    summary: str,
    height: int,
    body: str,
    controls: str = "",
    script: str = "",
    head: int = HEAD,
) -> str:
    """Return an SVG document; title and summary are text, body and controls XML already.

    The script follows figure.js, and may use what that defines.
    """
    code = f"{_part('figure.js')}{script and _part(script)}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{head + height}" \
viewBox="0 0 {WIDTH} {head + height}">
<title>{escape(title)}</title>
<style>{_part("figure.css")}</style>
{body}
<g id="head"><rect class="page" width="100%" height="{head}" fill="#fff"/>
<text class="title" x="1%" y="26">{escape(title)}</text>
<text id="details" x="1%" y="50">{escape(summary)}</text>
{controls}</g>
<script><![CDATA[
{code}]]></script>
</svg>
"""


def _part(name: str) -> str:
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)) as file:
        return file.read()
