// SPDX-License-Identifier: BSD-2-Clause
// What all pictures share. No name in a picture is ever taken for anything but text.
const byId = (id) => document.getElementById(id);
const figure = document.documentElement, details = byId("details"), summary = details.textContent;

// The second line of the page shows what the shape under the pointer is.
function describe(shape) {
	const titled = shape.closest("#shapes :has(> title)");
	const title = titled && titled.querySelector(":scope > title").textContent;
	details.textContent = title ? title.split("\n").join(" — ") : summary;
}

byId("shapes").onmouseover = (event) => describe(event.target);
byId("shapes").onmouseleave = () => { details.textContent = summary; };
onscroll = () => byId("head").setAttribute("transform", `translate(${scrollX} ${scrollY})`);
