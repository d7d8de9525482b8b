// Bodies of Dubbo requests as hessian.js encodes them, and what it finds in a body.
'use strict';

const assert = require('node:assert');
const { DecoderV2, EncoderV2 } = require('hessian.js');
const { EndedList, Graph, MAP_TYPES } = require('./graphs.js');

/** The attachments that are looked for, and what routes of the suite ask of the first one. */
const KEYS = ['group', 'dubbo.tag'];
const GROUP = 'g1';
/** Of this length text is written in chunks; shmesh reads no such attachment. */
const TEXT_UNITS_MAX = 0x8000;

/** hessian.js writes no lists with an end mark: here it does, by its own means for what begins and fills a list. */
class Encoder extends EncoderV2 {
  write(value) {
    if (!(value instanceof EndedList)) return super.write(value);
    if (this._checkRef(value)) return this;
    this._writeListBegin(-1, value.type);
    for (const item of value.items) this.write(item);
    this.byteBuffer.putChar('Z');
    return this;
  }
}

/** It reads none either, so here it learns to. */
class Decoder extends DecoderV2 {
  constructor(body) {
    super(body);
    this.BYTE_CODES = { ...this.BYTE_CODES, 0x55: 'readEndedList', 0x57: 'readEndedList' };
  }

  /** Longs that a double does not hold become strings there; here they must not look like texts. */
  readLong() {
    const value = super.readLong();
    return typeof value === 'string' ? BigInt(value) : value;
  }

  readEndedList() {
    const items = [];
    if (this.byteBuffer.get() === 0x55) this.readType();
    this._addRef(items);
    while (this.byteBuffer.get(this.position()) !== 0x5a) items.push(this.read());
    this.byteBuffer.skip(1);
    return items;
  }
}

/** A body with what was put into it. */
function encode(random) {
  const graph = new Graph(random);
  const count = random.once(50) ? random.between(5, 40) : random.below(5);
  const encoder = new Encoder({ size: 1024, mapTypes: MAP_TYPES });
  for (const text of ['2.0.2', 'com.demo.GreetService', '1.0.0', 'greet', 'Ljava/lang/Object;'.repeat(count)]) {
    encoder.writeString(text);
  }
  const argumentsAt = encoder.byteBuffer.position();
  const ends = [];
  for (let left = count; left > 0; left--) ends.push(encoder.write(graph.argument()).byteBuffer.position());

  const attachments = new Map();
  graph.left = 3;
  for (let left = random.below(5); left > 0; left--) {
    attachments.set(`key${left}`, random.once(4) ? graph.value(1) : graph.text());
  }
  for (const key of KEYS) {
    const units = random.once(1000) ? random.between(0, TEXT_UNITS_MAX) : random.below(40);
    if (random.once(3)) attachments.set(key, GROUP);
    else if (!random.once(3)) attachments.set(key, random.once(10) ? graph.value(1) : graph.textOf(units, true));
    if (attachments.get(key)?.length > TEXT_UNITS_MAX) attachments.delete(key);
  }
  // In any order.
  const entries = new Map([...attachments].map((entry) => [random.bits(), entry]).sort(([a], [b]) => a - b).map(([, entry]) => entry));
  encoder.write(random.once(50) ? null : random.once(3) ? { $class: 'java.util.LinkedHashMap', $: entries } : entries);
  const { byteBuffer } = encoder;
  return { body: byteBuffer.copy(0, byteBuffer.position()), count, argumentsAt, ends: [...ends, byteBuffer.position()] };
}

/** What hessian.js finds in a body. */
function decode(body, count) {
  const decoder = new Decoder(body);
  const ends = new Array(count + 1).fill(0);
  const values = KEYS.map(() => undefined);
  try {
    for (let field = 0; field < 5; field++) decoder.readString();
    for (let index = 0; index <= count; index++) {
      const value = decoder.read();
      // It does not look whether what it reads is there.
      if (decoder.position() > body.length) break;
      ends[index] = decoder.position();
      if (index === count) KEYS.forEach((key, at) => (values[at] = value?.$map?.get(key)));
    }
  } catch (refused) {
    assert.ok(refused instanceof Error);
  }
  return { ends, values: values.map((value) => (typeof value === 'string' ? value : undefined)) };
}

module.exports = { Encoder, GROUP, decode, encode };
