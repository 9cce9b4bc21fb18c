// SPDX-License-Identifier: BSD-2-Clause
// Zoom and search. No name of a frame is ever taken for anything but text.
const LETTER = 7.3; // pixels, as in flame.py
const figure = document.documentElement;
const frames = [...byId("shapes").children].map((g) => ({
	g, name: titleOf(g).split("\n")[0], rect: g.children[1], text: g.children[2],
	begin: +g.dataset.b, weight: +g.dataset.w, end: +g.dataset.b + +g.dataset.w, depth: +g.dataset.d,
})).sort((one, other) => one.begin - other.begin || one.depth - other.depth);
const all = frames.find((frame) => frame.depth === 0);
let zoomed = all;

function fit(name, pixels) {
	let room = (pixels - 6) / LETTER;
	const kept = [];
	for (const letter of name) {
		room -= letter > "\u10ff" ? 2 : 1;
		if (room < 0)
			return kept.length < 3 ? "" : kept.slice(0, -1).join("") + "…";
		kept.push(letter);
	}
	return name;
}

function draw() {
	const pixels = figure.getBoundingClientRect().width * 0.98;
	for (const frame of frames) {
		const left = Math.max(0, (frame.begin - zoomed.begin) / zoomed.weight);
		const right = Math.min(1, (frame.end - zoomed.begin) / zoomed.weight);
		frame.shown = right > left;
		frame.g.style.display = frame.shown ? "" : "none";
		frame.g.classList.toggle("above", frame.depth < zoomed.depth);
		frame.rect.setAttribute("x", `${100 * left}%`);
		frame.rect.setAttribute("width", `${100 * Math.max(0, right - left)}%`);
		frame.rect.style.strokeWidth = (right - left) * pixels < 4 ? 0 : ""; // else all that is seen
		frame.text.setAttribute("x", `${100 * left}%`);
		frame.text.textContent = frame.shown ? fit(frame.name, (right - left) * pixels) : "";
	}
	byId("reset").disabled = zoomed === all;
}

function zoom(frame) {
	zoomed = frame;
	draw();
}

function search() {
	const wanted = byId("search").value;
	let expression, found = 0, end = 0;
	try {
		expression = new RegExp(wanted, "i");
	} catch { // as it is typed, or meant to the letter
		expression = new RegExp(wanted.replace(/[^\w\s]/g, "\\$&"), "i");
	}
	for (const frame of frames) {
		const matches = wanted !== "" && frame !== all && expression.test(frame.name);
		frame.g.classList.toggle("found", matches);
		if (matches && frame.begin >= end) { // else it lies above one that is counted
			found += frame.weight;
			end = frame.end;
		}
	}
	byId("matched").textContent = wanted && `${(100 * found / all.weight).toFixed(2)} % matched`;
}

function neighbour(frame, key) {
	const step = { ArrowUp: 1, ArrowDown: -1 }[key] || 0;
	const row = frames.filter((other) => other.shown && other.depth === frame.depth + step);
	if (step)
		return row.find((other) => other.end > frame.begin && other.begin < frame.end);
	return row[row.indexOf(frame) + (key === "ArrowRight" ? 1 : -1)];
}

function press(event) {
	const frame = frames.find((each) => each.g === event.target);
	if (event.key === "Escape") {
		byId("search").value = "";
		search();
		zoom(all);
	} else if (event.key === "/" && event.target !== byId("search")) {
		byId("search").focus();
	} else if (frame && (event.key === "Enter" || event.key === " ")) {
		zoom(frame);
	} else if (frame && event.key.startsWith("Arrow")) {
		neighbour(frame, event.key)?.g.focus();
	} else {
		return;
	}
	event.preventDefault();
}

if (all) {
	figure.removeAttribute("viewBox");
	figure.setAttribute("width", "100%");
	byId("controls").style.display = "";
	for (const frame of frames) {
		frame.g.tabIndex = frame === all ? 0 : -1;
		frame.g.addEventListener("click", () => zoom(frame));
	}
	byId("reset").addEventListener("click", () => zoom(all));
	byId("search").addEventListener("input", search);
	addEventListener("keydown", press);
	addEventListener("resize", draw);
	draw();
	scrollTo(0, figure.getBoundingClientRect().height); // to the root
}
