// Random graphs of everything that Hessian2 can write, drawn from a seed.
'use strict';

/** Of this length hessian.js makes the chunks of texts, and of that the chunks of binaries. */
const TEXT_CHUNK_UNITS = 0x8000;
const BINARY_CHUNK_BYTES = 4093;
/** How deep values are nested, the outermost one counted: as deep as shmesh follows. */
const DEPTH_MAX = 256;

const MAP_TYPES = { 'java.util.TreeMap': true, 'java.util.LinkedHashMap': true, 'com.demo.Scores': true };
const LIST_TYPES = ['[int', '[string', '[com.demo.Person', 'java.util.LinkedList', 'java.util.HashSet', '[[long'];

/** A list that is written with an end mark instead of its length. */
class EndedList {
  constructor(type, items) {
    this.type = type;
    this.items = items;
  }
}

/** The generator of random numbers of a seed (mulberry32). */
class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  /** 32 random bits. */
  bits() {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return (bits ^ (bits >>> 14)) >>> 0;
  }

  /** A number below `end`. */
  below(end) {
    return this.bits() % end;
  }

  /** A number from `first` to `last`. */
  between(first, last) {
    return first + this.below(last - first + 1);
  }

  /** Whether something that happens once in `times` times happens. */
  once(times) {
    return this.below(times) === 0;
  }

  pick(items) {
    return items[this.below(items.length)];
  }
}

/** The values of one body: they share classes, and refer to each other. */
class Graph {
  constructor(random) {
    this.random = random;
    /** Lists, maps and objects, those that are still being made, too. */
    this.containers = [];
    this.classes = [];
    /** How many more values there may be. */
    this.left = random.once(100) ? random.between(20, 300) : random.between(1, 12);
  }

  /** An argument. */
  argument() {
    if (this.random.once(5000)) return this.chain();
    if (this.random.once(1000)) return this.nest(this.random.between(2, DEPTH_MAX));
    return this.value(0);
  }

  value(depth) {
    this.left--;
    const kinds = this.left > 0 && depth < 20 ? 14 : 9;
    switch (this.random.below(kinds)) {
      case 0:
        return this.random.pick([null, true, false]);
      case 1:
        return { $class: 'int', $: this.int() };
      case 2:
        return { $class: 'long', $: this.long() };
      case 3:
        return { $class: 'double', $: this.double() };
      case 4:
        return this.date();
      case 5:
        return this.bytes();
      case 6:
      case 7:
        return this.text();
      case 8:
        return this.containers.length > 0 && this.random.once(2) ? this.random.pick(this.containers) : this.mood();
      case 9:
      case 10:
        return this.list(depth);
      case 11:
        return this.map(depth);
      default:
        return this.object(depth);
    }
  }

  /** An int near one of the bounds at which its form changes, or any. */
  int() {
    const bound = this.random.pick([0, -0x10, 0x2f, -0x800, 0x7ff, -0x40000, 0x3ffff, -0x7ffffffe, 0x7ffffffd]);
    return this.random.once(3) ? this.random.bits() | 0 : bound + this.random.between(-2, 2);
  }

  long() {
    if (this.random.once(4)) {
      const bits = (BigInt(this.random.bits()) << 32n) | BigInt(this.random.bits());
      return BigInt.asIntN(64, bits).toString();
    }
    const bound = this.random.pick([0, -8, 15, -0x800, 0x7ff, -0x40000, 0x3ffff, -0x80000000, 0x7fffffff]);
    return bound + this.random.between(-2, 2);
  }

  double() {
    switch (this.random.below(6)) {
      case 0:
        return this.random.between(0, 1);
      case 1:
        return this.random.between(-0x82, 0x82);
      case 2:
        return this.random.between(-0x8002, 0x8002);
      case 3:
        return this.random.between(-0x8002, 0x8002) * 0.001;
      case 4:
        return this.random.pick([Infinity, -Infinity, Number.MAX_VALUE, Number.MIN_VALUE, -0.1]);
      default:
        return (this.random.bits() - 0x80000000) * 1.000001 ** this.random.below(0x10000);
    }
  }

  date() {
    const minutes = this.random.between(0, 40_000_000);
    return new Date(minutes * 60_000 + (this.random.once(2) ? this.random.below(60_000) : 0));
  }

  bytes() {
    const edge = this.random.pick([0, 15, 16, 255, 1023, 1024]);
    let length = this.random.once(20) ? edge : this.random.below(40);
    if (this.random.once(1000)) {
      length = this.random.between(1, 3) * BINARY_CHUNK_BYTES + this.random.pick([-1, 0, 1, 15, 16, 700, 1100]);
    }
    const bytes = Buffer.alloc(length, this.random.bits() & 0xff);
    for (let at = 0; at < length; at += 1 + this.random.below(7)) bytes[at] = this.random.bits();
    return bytes;
  }

  text() {
    let units = this.random.once(20) ? this.random.pick([0, 1, 31, 32, 255, 256, 1023, 1024]) : this.random.below(40);
    if (this.random.once(5000)) units = this.random.between(1, 2) * TEXT_CHUNK_UNITS + this.random.between(-2, 40);
    return this.textOf(units, true);
  }

  /** A text of `units` UTF-16 units, with half pairs if it may be `ill` formed. */
  textOf(units, ill) {
    const kind = this.random.below(5);
    let text = '';
    while (text.length < units) {
      const room = units - text.length;
      if (kind === 0 || this.random.once(3)) {
        text += 'the quick brown fox 0123456789 ZNTFHMCO'.slice(0, Math.min(room, this.random.between(1, 39)));
      } else if (kind === 1) {
        text += String.fromCharCode(this.random.between(0x80, 0x7ff));
      } else if (kind === 2) {
        text += String.fromCharCode(this.random.pick([0x800, 0x4e2d, 0x6587, 0xd7ff, 0xe000, 0xffff]));
      } else if (kind === 3 && room >= 2) {
        text += String.fromCodePoint(this.random.between(0x10000, 0x10ffff));
      } else if (kind === 4 && ill) {
        text += String.fromCharCode(this.random.between(0xd800, 0xdfff));
      } else {
        text += String.fromCharCode(this.random.below(0x80));
      }
    }
    return text;
  }

  mood() {
    return { $class: 'com.demo.Person$Mood', $: { name: this.random.pick(['GLAD', 'TIRED']) } };
  }

  items(depth) {
    const length = this.random.once(30) ? this.random.between(8, 40) : this.random.below(6);
    return Array.from({ length }, () => this.value(depth + 1));
  }

  list(depth) {
    const type = this.random.once(2) ? this.random.pick(LIST_TYPES) : '';
    const items = [];
    const list = this.random.once(3) ? new EndedList(type, items) : type ? { $class: type, $: items } : items;
    this.containers.push(list);
    items.push(...this.items(depth));
    return list;
  }

  map(depth) {
    const entries = new Map();
    const map = this.random.once(2) ? { $class: this.random.pick(Object.keys(MAP_TYPES)), $: entries } : entries;
    this.containers.push(map);
    for (let left = this.random.below(6); left > 0; left--) {
      entries.set(this.random.once(3) ? this.value(depth + 1) : this.text(), this.value(depth + 1));
    }
    return map;
  }

  object(depth) {
    const { name, fields } = this.class();
    const object = { $class: name, $: {} };
    this.containers.push(object);
    for (const field of fields) object.$[field] = this.value(depth + 1);
    return object;
  }

  /** A class of this body, of which there may be more than the sixteen that have short forms. */
  class() {
    if (this.classes.length > 0 && !this.random.once(3)) return this.random.pick(this.classes);
    const number = this.classes.length;
    const count = this.random.once(40) ? this.random.between(9, 60) : this.random.below(6);
    const fields = Array.from({ length: count }, (_, at) => `field${number}_${at}${'x'.repeat(this.random.below(40))}`);
    this.classes.push({ name: `com.demo.Class${number}`, fields });
    return this.classes[number];
  }

  /** An object that leads to the next one, over and over: long, but not deep. */
  chain() {
    let link = null;
    for (let left = this.random.between(300, 1500); left > 0; left--) {
      link = { $class: 'com.demo.Link', $: { value: left, next: link } };
    }
    return link;
  }

  /** A list in a list in a list, and in each of them something behind it. */
  nest(depth) {
    let list = [];
    for (let left = depth - 1; left > 0; left--) list = this.random.once(2) ? [list, left] : new EndedList('', [list]);
    return list;
  }
}

module.exports = { EndedList, Graph, MAP_TYPES, Random };
