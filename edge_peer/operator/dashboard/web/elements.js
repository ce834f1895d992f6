/** Elements of the page. Text goes in as text only: names and reasons come from the network. */
import { MARKERS } from "./palette.js";

const SVG = "http://www.w3.org/2000/svg";
/** Shapes around the origin, as paths with a radius of about one. */
export const SHAPES = {
  o: "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
  s: "M-.88,-.88H.88V.88H-.88Z",
  "^": "M0,-1.1L1.05,.8H-1.05Z",
  D: "M0,-1.2L1.2,0L0,1.2L-1.2,0Z",
  v: "M0,1.1L1.05,-.8H-1.05Z",
  p: "M0,-1.1L1.05,-.34L.65,.89H-.65L-1.05,-.34Z",
  h: "M0,-1.1L.95,-.55V.55L0,1.1L-.95,.55V-.55Z",
  x: "M-.95,-.55L-.55,-.95L0,-.4L.55,-.95L.95,-.55L.4,0L.95,.55L.55,.95L0,.4L-.55,.95L-.95,.55L-.4,0Z",
};

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Set an element's text, if it is another: what does not change is not announced, and a selection stays. */
export function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

export function setClass(element, name) {
  if (element.className !== name) {
    element.className = name;
  }
}

/** Which shape the board at this place in the sorted names has: as edge_peer/operator/palette.py says. */
export function shapeOf(index, colours) {
  return SHAPES[MARKERS[(Math.floor(index / colours) + index) % MARKERS.length]];
}

/** A board's mark: its shape in its colour. */
export class Mark {
  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.path = document.createElementNS(SVG, "path");
    this.element.setAttribute("viewBox", "-1.4 -1.4 2.8 2.8");
    this.element.setAttribute("aria-hidden", "true");
    this.element.append(this.path);
    this.index = -1;
  }

  show(index, colours) {
    if (index !== this.index) {
      this.index = index;
      this.element.setAttribute("class", `mark board-${index % colours}`);
      this.path.setAttribute("d", shapeOf(index, colours));
    }
  }
}

/** Keep one element per key below a parent, in the order of the keys. */
export class Keyed {
  constructor(parent, create) {
    this.parent = parent;
    this.create = create;
    this.items = new Map();
  }

  show(keys, update) {
    const wanted = new Set(keys);
    for (const [key, item] of this.items) {
      if (!wanted.has(key)) {
        item.element.remove();
        this.items.delete(key);
      }
    }
    keys.forEach((key, place) => {
      let item = this.items.get(key);
      if (item === undefined) {
        item = this.create(key);
        this.items.set(key, item);
      }
      if (this.parent.children[place] !== item.element) {
        this.parent.insertBefore(item.element, this.parent.children[place] ?? null);
      }
      update(item, key, place);
    });
  }
}
