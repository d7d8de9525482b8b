// Writes bodies of Dubbo requests as hessian.js encodes them, changed copies of them, and what hessian.js finds in both: where each argument
// ends, where the attachments end, and what two of them say.
//
//   node frames.js SEED FRAMES FILE
//
// The file is a row of records, numbers in network order:
//   u8          1 = as it was encoded, 0 = changed
//   u32, bytes  the body
//   u8          how many arguments it has
//   u32         for each argument where it ends, and then where the attachments end; 0 = hessian.js refused this, or what lies before
//   2 × value   `group` and `dubbo.tag` of the attachments: u32, that many UTF-16 units; or 0xffffffff = absent, or no text
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { decode, encode } = require('./bodies.js');
const { Random } = require('./graphs.js');

const NONE = 0xffffffff;
const WRITE_BYTES = 4 << 20;

/** Tags that mean much, wherever they stand. */
const TAGS = Buffer.from('NTFILDJKABCOHMQRSUVWXYZ\x00\x01\x1f\x20\x2f\x30\x33\x34\x37\x58\x59\x5b\x5f\x60\x6f\x70\x77\x78\x7f\x80\x90\xbf\xc8\xd4\xe0\xf8\xff', 'latin1');

/** A body with something changed behind `from`. */
function change(random, body, from) {
  let changed = Buffer.from(body);
  for (let left = random.between(1, 3); left > 0; left--) {
    const room = changed.length - from;
    const at = from + random.below(room);
    const there = from + random.below(room);
    switch (random.below(6)) {
      case 0:
        changed[at] = random.bits();
        break;
      case 1:
        changed[at] = random.pick(TAGS);
        break;
      case 2:
        changed[at] ^= 1 << random.below(8);
        break;
      case 3:
        changed = Buffer.concat([changed.subarray(0, at), Buffer.of(random.pick(TAGS)), changed.subarray(at)]);
        break;
      case 4:
        if (room > 1) changed = Buffer.concat([changed.subarray(0, at), changed.subarray(at + 1)]);
        break;
      default: {
        const piece = changed.subarray(there, there + random.between(1, 40));
        const cut = random.once(2) ? piece.length : 0;
        if (room > cut) changed = Buffer.concat([changed.subarray(0, at), piece, changed.subarray(at + cut)]);
      }
    }
  }
  if (random.once(10)) changed = changed.subarray(0, from + random.below(changed.length - from));
  return changed;
}

/** A record, see above. */
function record(encoded, body, count, ends, values) {
  const front = Buffer.alloc(5);
  front[0] = encoded ? 1 : 0;
  front.writeUInt32BE(body.length, 1);
  const found = Buffer.alloc(1 + 4 * ends.length);
  found[0] = count;
  ends.forEach((end, index) => found.writeUInt32BE(end, 1 + 4 * index));
  const texts = values.map((value) => {
    const text = Buffer.alloc(4 + 2 * (value?.length ?? 0));
    text.writeUInt32BE(value?.length ?? NONE);
    for (let at = 0; at < value?.length; at++) text.writeUInt16BE(value.charCodeAt(at), 4 + 2 * at);
    return text;
  });
  return [front, body, found, ...texts];
}

function main(seed, frames, path) {
  const random = new Random(seed);
  const file = fs.openSync(path, 'w');
  let parts = [];
  let bytes = 0;
  const write = () => {
    fs.writeSync(file, Buffer.concat(parts));
    parts = [];
    bytes = 0;
  };
  const put = (...arguments_) => {
    for (const part of record(...arguments_)) {
      parts.push(part);
      bytes += part.length;
    }
    if (bytes > WRITE_BYTES) write();
  };
  for (let frame = 0; frame < frames; frame++) {
    const { body, count, argumentsAt, ends } = encode(random);
    const found = decode(body, count);
    assert.deepStrictEqual(found.ends, ends, `seed ${seed}, frame ${frame}: hessian.js does not end where it ended`);
    put(true, body, count, found.ends, found.values);
    if (random.once(2)) {
      const changed = change(random, body, argumentsAt);
      const then = decode(changed, count);
      put(false, changed, count, then.ends, then.values);
    }
  }
  write();
  fs.closeSync(file);
}

const [seed, frames, path] = process.argv.slice(2);
main(Number(seed), Number(frames), path);
