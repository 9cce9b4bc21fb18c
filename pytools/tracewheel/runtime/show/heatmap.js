// SPDX-License-Identifier: BSD-2-Clause
// A heat map fills the window; if its panels need more height than there is, the page scrolls.
const plots = [...document.querySelectorAll(".plot")];
const room = Object.fromEntries(
	Object.entries(byId("shapes").dataset).map(([name, pixels]) => [name, +pixels]),
);

function fit() {
	const width = Math.max(room.narrowest, innerWidth);
	const panel = Math.max(room.lowest, Math.floor((innerHeight - room.head) / plots.length));
	const height = room.head + panel * plots.length;
	const scrollbar = height > innerHeight ? room.scrollbar : 0;
	figure.setAttribute("width", width - scrollbar);
	figure.setAttribute("height", height);
	plots.forEach((plot, number) => {
		plot.setAttribute("y", room.head + number * panel + room.above);
		plot.setAttribute("width", width - scrollbar - room.left - room.right);
		plot.setAttribute("height", panel - room.above - room.below);
	});
}

figure.removeAttribute("viewBox");
onresize = fit;
fit();
