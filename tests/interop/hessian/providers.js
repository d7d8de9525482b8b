// Two Dubbo providers, `yes` and `no`, which answer each request with their name and the digest of its body, in hessian.js's own encoding.
//
//   node providers.js PORT_OF_YES PORT_OF_NO
'use strict';

const { createHash } = require('node:crypto');
const net = require('node:net');
const { Encoder } = require('./bodies.js');
const { each, frame } = require('./wire.js');

const EVENT = 0x20;
const RESULT_VALUE = 1;

['yes', 'no'].forEach((name, index) => {
  const server = net.createServer((socket) => {
    socket.on('error', () => socket.destroy());
    each(socket, (flags, status, id, body) => {
      if (flags & EVENT) {
        socket.write(frame(EVENT | 2, 20, id, Buffer.from('N')));
        return;
      }
      const encoder = new Encoder({ size: 128 });
      encoder.writeInt(RESULT_VALUE).writeString(`${name} ${createHash('sha256').update(body).digest('hex')}`);
      socket.write(frame(2, 20, id, encoder.byteBuffer.copy(0, encoder.byteBuffer.position())));
    });
  });
  server.listen(Number(process.argv[2 + index]), '127.0.0.1');
});
