// A Dubbo consumer that sends random graphs as hessian.js encodes them to the port at the other end of which the group decides between the
// providers `yes` and `no`. Each must come to the right one, byte for byte.
//
//   node consumer.js SEED CALLS PORT
'use strict';

const assert = require('node:assert');
const { createHash } = require('node:crypto');
const net = require('node:net');
const { DecoderV2 } = require('hessian.js');
const { GROUP, decode, encode } = require('./bodies.js');
const { Random } = require('./graphs.js');
const { each, frame } = require('./wire.js');

const REQUEST_TWO_WAY_HESSIAN2 = 0x80 | 0x40 | 2;
const STATUS_OK = 20;
const AHEAD = 32;

const [seed, calls, port] = process.argv.slice(2).map(Number);
const random = new Random(seed);
const waiting = new Map();
const came = { yes: 0, no: 0 };
let sent = 0;

const socket = net.connect(port, '127.0.0.1', () => {
  for (let ahead = 0; ahead < AHEAD; ahead++) call();
});
socket.on('error', (error) => assert.fail(error));
socket.on('close', () => assert.fail(`the connection ended, ${waiting.size} calls wait`));

function call() {
  if (sent === calls) return;
  const id = BigInt(sent++) << 20n;
  const { body, count } = encode(random);
  const right = decode(body, count).values[0] === GROUP ? 'yes' : 'no';
  waiting.set(id, { right, digest: createHash('sha256').update(body).digest('hex') });
  socket.write(frame(REQUEST_TWO_WAY_HESSIAN2, 0, id, body));
}

each(socket, (flags, status, id, body) => {
  const { right, digest } = waiting.get(id);
  const answer = new DecoderV2(body);
  if (status !== STATUS_OK) assert.fail(`call ${id >> 20n} of seed ${seed}: status ${status}: ${answer.read()}`);
  assert.strictEqual(answer.read(), 1, 'a value');
  assert.strictEqual(answer.read(), `${right} ${digest}`, `call ${id >> 20n} of seed ${seed}`);
  waiting.delete(id);
  came[right]++;
  if (came.yes + came.no < calls) {
    call();
    return;
  }
  assert.ok(came.yes > calls / 8 && came.no > calls / 8);
  console.log(`ok ${came.yes} calls with the group, ${came.no} without`);
  process.exit(0);
});
