# SPDX-License-Identifier: BSD-2-Clause
"""Pictures that are one file: SVG with its style and script, that loads nothing from elsewhere."""

from __future__ import annotations

import os
from html import escape

WIDTH = 1200
HEAD = 64  # pixels above the shapes
_FRAME = """<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}">
<title>{title}</title>
<style>{style}</style>
{body}
<g id="head"><rect width="100%" height="{head}"/>
<text class="title" x="1%" y="26">{title}</text>
<text id="details" x="1%" y="50">{summary}</text>
{controls}</g>
<script><![CDATA[
{script}]]></script>
</svg>
"""


def figure(
    title: str, summary: str, height: int, body: str, controls: str = "", script: str = ""
) -> str:
    """Return an SVG document; BODY has an element ``shapes``, whose children have titles.

    Title and summary are text; the rest is XML already.
    """
    return _FRAME.format(
        width=WIDTH,
        height=HEAD + height,
        head=HEAD,
        title=xml(title),
        summary=xml(summary),
        style=_part("figure.css"),
        body=body,
        controls=controls,
        script=_part("figure.js") + (script and _part(script)),
    )


def xml(text: str) -> str:
    """Return a text as it is written between tags and in attributes."""
    return escape(text)


def _part(name: str) -> str:
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)) as file:
        return file.read()
