// The frames of Dubbo2: da bb, flags with the serialization, status, id, length, body.
'use strict';

const HEADER_BYTES = 16;

function frame(flags, status, id, body) {
  const header = Buffer.alloc(HEADER_BYTES);
  header.set([0xda, 0xbb, flags, status]);
  header.writeBigUInt64BE(id, 4);
  header.writeUInt32BE(body.length, 12);
  return Buffer.concat([header, body]);
}

/** Calls `take(flags, status, id, body)` for each frame that comes. */
function each(socket, take) {
  let input = Buffer.alloc(0);
  socket.on('data', (data) => {
    input = input.length > 0 ? Buffer.concat([input, data]) : data;
    while (input.length >= HEADER_BYTES && input.length >= HEADER_BYTES + input.readUInt32BE(12)) {
      const end = HEADER_BYTES + input.readUInt32BE(12);
      take(input[2], input[3], input.readBigUInt64BE(4), input.subarray(HEADER_BYTES, end));
      input = input.subarray(end);
    }
  });
}

module.exports = { each, frame };
