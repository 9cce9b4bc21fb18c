// SPDX-License-Identifier: BSD-2-Clause
// Zoom and search in a flame graph.
const frames = [...byId("shapes").children].map((shape) => {
	const begin = +shape.dataset.b, weight = +shape.dataset.w, depth = +shape.dataset.d;
	const name = shape.querySelector("title").textContent.split("\n")[0];
	return { shape, begin, weight, end: begin + weight, depth, name };
});
const all = frames[0];

function zoom(to) {
	for (const { shape, begin, end, depth } of frames) {
		const left = Math.max(begin, to.begin), width = Math.max(0, Math.min(end, to.end) - left);
		shape.style.display = width ? "" : "none";
		shape.setAttribute("x", `${100 * (left - to.begin) / to.weight}%`);
		shape.setAttribute("width", `${100 * width / to.weight}%`);
		shape.classList.toggle("above", depth < to.depth);
	}
	byId("reset").disabled = to === all;
}

function search() {
	const wanted = byId("search").value;
	let expression = /(?!)/, found = 0, end = 0;
	try {
		expression = new RegExp(wanted || "(?!)", "i");
	} catch {} // not typed to its end
	for (const frame of frames) {
		const matches = frame !== all && expression.test(frame.name);
		frame.shape.classList.toggle("found", matches);
		if (matches && frame.begin >= end) { // else it lies above one that is counted
			found += frame.weight;
			end = frame.end;
		}
	}
	byId("matched").textContent = wanted && `${(100 * found / all.weight).toFixed(2)} % matched`;
}

if (all) {
	figure.removeAttribute("viewBox");
	figure.setAttribute("width", "100%");
	byId("controls").style.display = "inline";
	for (const frame of frames)
		frame.shape.onclick = () => zoom(frame);
	byId("reset").onclick = () => zoom(all);
	byId("search").oninput = search;
	onkeydown = (event) => {
		if (event.key === "Escape") {
			byId("search").value = "";
			search();
			zoom(all);
		}
	};
	scrollTo(0, figure.getBoundingClientRect().height); // to the root
}
