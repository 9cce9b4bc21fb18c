// SPDX-License-Identifier: BSD-2-Clause
// A line below the title tells of the shape under the pointer, or of all.
"use strict";
const byId = (id) => document.getElementById(id);
const details = byId("details"), summary = details.textContent;
const titleOf = (shape) => shape.querySelector("title").textContent;

function tell(event) {
	const shape = event.target.closest("#shapes > *");
	details.textContent = shape ? titleOf(shape).replaceAll("\n", " — ") : summary;
}
for (const kind of ["mouseover", "focusin"])
	document.addEventListener(kind, tell);
document.addEventListener("scroll", () => byId("head").setAttribute("transform", `translate(0 ${scrollY})`));
